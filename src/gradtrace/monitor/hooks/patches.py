"""Functions of torch and of users' classes that are looked at when they are called: one stand-in, however many look.

Whoever looks gets the function and what it is called with, and calls it. The stand-in comes with the first who looks
and goes with the last, in whatever order they go.
"""

from __future__ import annotations

import functools
import inspect
from types import FunctionType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

    Handler = Callable[..., Any]
    """Takes the function, then what that is called with; returns what it returns."""

_STANDING: dict[tuple[int, str], _StandIn] = {}
"""By the identity of the owner, which its stand-in keeps alive."""


def interpose(owner: Any, name: str, handler: Handler) -> Callable[[], None]:
    """Have `handler` called in place of the function `name` of a class or module; returns what takes it away.

    >>> class Greeting:
    ...     def of(self, who): return f"hello {who}"
    >>> louder = interpose(Greeting, "of", lambda own, greeting, who: own(greeting, who).upper())
    >>> longer = interpose(Greeting, "of", lambda own, greeting, who: own(greeting, who) + ", good day")
    >>> Greeting().of("you")
    'HELLO YOU, good day'
    >>> louder(); Greeting().of("you")
    'hello you, good day'
    >>> longer(); Greeting.of.__qualname__
    'Greeting.of'
    """
    stand_in = _STANDING.get((id(owner), name))
    if stand_in is None or not stand_in.is_in_place:
        stand_in = _STANDING[id(owner), name] = _StandIn(owner, name)
    stand_in.handlers += (handler,)
    return functools.partial(_take_away, stand_in, handler)


def _take_away(stand_in: _StandIn, handler: Handler) -> None:
    stand_in.handlers = tuple(other for other in stand_in.handlers if other is not handler)
    if not stand_in.handlers:
        stand_in.leave()


class _StandIn:
    """One function stood in for; where somebody else stands in for ours by the end, it stays and hands on."""

    def __init__(self, owner: Any, name: str) -> None:
        self.handlers: tuple[Handler, ...] = ()
        self._owner, self._name = owner, name
        self._raw = vars(owner).get(name)
        own = self._raw if isinstance(self._raw, FunctionType) else _found_anew(owner, name, self._raw)
        compiles = inspect.isclass(owner) and issubclass(owner, nn.Module)  # it would look into us

        @functools.wraps(own)
        def function(*args: Any, **kwargs: Any) -> Any:
            handlers = self.handlers
            if not handlers or (compiles and torch.compiler.is_compiling()):
                return own(*args, **kwargs)
            inner = own
            for handler in handlers[:-1]:
                inner = functools.partial(handler, inner)
            return handlers[-1](inner, *args, **kwargs)

        self._function = function
        setattr(owner, name, function)

    def __reduce__(self) -> tuple[Any, ...]:
        """A class of ``__main__`` is pickled by value (cloudpickle) with the function in it: elsewhere nobody looks."""
        return SimpleNamespace, (), {"handlers": ()}

    @property
    def is_in_place(self) -> bool:
        return vars(self._owner).get(self._name) is self._function

    def leave(self) -> None:
        key = id(self._owner), self._name
        if _STANDING.get(key) is self:
            del _STANDING[key]
        if not self.is_in_place:
            return
        if self._raw is None:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._raw)


def _found_anew(kind: type, name: str, raw: Any) -> Callable[..., Any]:
    """A method that a class inherits, or that is no plain function.

    Of the base it is looked up at every call: torch.fx stands in for ``nn.Module.__call__`` while it traces.
    """

    @functools.wraps(getattr(kind, name))
    def method(instance: Any, /, *args: Any, **kwargs: Any) -> Any:
        bound = raw.__get__(instance) if raw is not None else getattr(super(kind, instance), name)
        return bound(*args, **kwargs)

    return method
