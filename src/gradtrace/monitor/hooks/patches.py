"""Functions of torch and of users' classes that are looked at when they are called: one stand-in, however many look.

Whoever looks gets the function and what it is called with, and calls it. The stand-in comes with the first who looks
and goes with the last, in whatever order they go.
"""

from __future__ import annotations

import functools
import inspect
from types import BuiltinFunctionType, FunctionType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

    Handler = Callable[..., Any]
    """Takes the function, then what that is called with; returns what it returns."""

_STANDING: dict[tuple[int, str], _StandIn] = {}
"""By the identity of the owner, which its stand-in keeps alive."""


def interpose(owner: Any, name: str, handler: Handler) -> Interposition:
    """Have `handler` called in place of the function `name` of a class or module.

    >>> class Greeting:
    ...     def of(self, who): return f"hello {who}"
    >>> louder = interpose(Greeting, "of", lambda own, greeting, who: own(greeting, who).upper())
    >>> longer = interpose(Greeting, "of", lambda own, greeting, who: own(greeting, who) + ", good day")
    >>> Greeting().of("you")
    'HELLO YOU, good day'
    >>> louder.remove(); Greeting().of("you")
    'hello you, good day'
    >>> longer.pause(); Greeting().of("you")
    'hello you'
    >>> longer.resume(); Greeting().of("you")
    'hello you, good day'
    >>> longer.remove(); Greeting.of.__qualname__
    'Greeting.of'
    """
    interposition = Interposition(owner, name, handler)
    interposition.resume()
    return interposition


class Interposition:
    """A handler of one function, in its place until `remove`, which is idempotent."""

    def __init__(self, owner: Any, name: str, handler: Handler) -> None:
        self._owner, self._name, self._handler = owner, name, handler
        self._stand_in: _StandIn | None = None

    def resume(self) -> None:
        """Be called, as the last of all."""
        self.pause()
        key = id(self._owner), self._name
        stand_in = _STANDING.get(key)
        if stand_in is None or not stand_in.is_there:
            stand_in = _STANDING[key] = _StandIn(self._owner, self._name)
        stand_in.handlers += (self._handler,)
        stand_in.step_in()
        self._stand_in = stand_in

    def pause(self) -> None:
        """Be called no more for now."""
        if self._stand_in is not None:
            self._stand_in.handlers = tuple(one for one in self._stand_in.handlers if one is not self._handler)
            if not self._stand_in.handlers:
                self._stand_in.step_aside()

    def remove(self) -> None:
        """Be called no more."""
        self.pause()
        if self._stand_in is not None and not self._stand_in.handlers:
            self._stand_in.leave()


class _StandIn:
    """One function stood in for; where somebody else stands in for ours by the end, it stays and hands on."""

    def __init__(self, owner: Any, name: str) -> None:
        self.handlers: tuple[Handler, ...] = ()
        self._owner, self._name = owner, name
        self._raw = vars(owner).get(name)
        own = (
            self._raw
            if isinstance(self._raw, FunctionType | BuiltinFunctionType)
            else _found_anew(owner, name, self._raw)
        )
        compiles = inspect.isclass(owner) and issubclass(owner, nn.Module)  # it would look into us

        @functools.wraps(own)
        def function(*args: Any, **kwargs: Any) -> Any:
            if compiles and torch.compiler.is_compiling():  # first: what is read before it, dynamo guards
                return own(*args, **kwargs)
            handlers = self.handlers
            if not handlers:
                return own(*args, **kwargs)
            inner = own
            for handler in handlers[:-1]:
                inner = functools.partial(handler, inner)
            return handlers[-1](inner, *args, **kwargs)

        self._function = function
        self._is_aside = False
        setattr(owner, name, function)

    def __reduce__(self) -> tuple[Any, ...]:
        """A class of ``__main__`` is pickled by value (cloudpickle) with the function in it: elsewhere nobody looks."""
        return SimpleNamespace, (), {"handlers": ()}

    @property
    def is_in_place(self) -> bool:
        return vars(self._owner).get(self._name) is self._function

    @property
    def is_there(self) -> bool:
        """Whether it is in place, or nobody else has taken that since it stepped aside."""
        return self.is_in_place or (self._is_aside and vars(self._owner).get(self._name) is self._raw)

    def step_aside(self) -> None:
        """Nobody looks for now. Not at a class: one that is changed too often becomes slow for good."""
        if self.is_in_place and not inspect.isclass(self._owner):
            setattr(self._owner, self._name, self._raw)
            self._is_aside = True

    def step_in(self) -> None:
        """Somebody looks again: the same function, for a script may have imported it by name."""
        if self._is_aside:
            setattr(self._owner, self._name, self._function)
            self._is_aside = False

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
