"""Plain objects, functions and classes: attributes, slots, closures, and the globals that the user's code names."""

from __future__ import annotations

import dis
from functools import cache, partial
from operator import is_
from types import CodeType, FunctionType, MemberDescriptorType, MethodType
from typing import TYPE_CHECKING, Any

from torch import nn

from gradtrace.measure.keepers.belongings import is_ours, is_shared, is_users_class, is_users_code
from gradtrace.measure.keepers.found import MISSING, Budget, Found, NotKeptError, PutBack

if TYPE_CHECKING:
    from collections.abc import Iterator


class Attributes:
    """The ``__dict__`` of an object; called, it puts back what has changed and touches nothing else."""

    __slots__ = ("_before", "_now")

    def __init__(self, now: dict[str, Any]) -> None:
        self._now, self._before = now, dict(now)

    def __call__(self) -> None:
        """Put back what has changed."""
        now, before = self._now, self._before
        if len(now) == len(before) and all(map(is_, now, before)) and all(map(is_, now.values(), before.values())):
            return
        for name in [name for name in now if name not in before]:
            del now[name]
        for name, value in before.items():
            if now.get(name, MISSING) is not value:
                now[name] = value


def keep_object(value: Any, _: Budget) -> Found:
    """Its attributes and its slots."""
    attributes = getattr(value, "__dict__", None)
    slots = list(_slots(value))
    put_back: list[tuple[PutBack, str]] = [
        (partial(_slot_back, descriptor, value, content), name) for name, descriptor, content in slots
    ]
    inside = [*((name, content) for name, _, content in slots), ("type", type(value))]
    if isinstance(attributes, dict):
        if is_shared(attributes):
            raise NotKeptError("it is shared between threads")
        put_back.append((Attributes(attributes), ""))
        inside = [*attributes.items(), *inside]
    return Found(put_back, inside)


def _slots(value: Any) -> Iterator[tuple[str, Any, Any]]:
    for base in type(value).__mro__:
        if "__slots__" in vars(base):
            for name, descriptor in vars(base).items():
                if isinstance(descriptor, MemberDescriptorType):
                    yield name, descriptor, _slot(descriptor, value)


def _slot(descriptor: Any, value: Any) -> Any:
    try:
        return descriptor.__get__(value)
    except AttributeError:
        return MISSING


def _slot_back(descriptor: Any, value: Any, before: Any) -> None:
    if _slot(descriptor, value) is before:
        return
    if before is MISSING:
        descriptor.__delete__(value)
    else:
        descriptor.__set__(value, before)


def keep_function(function: FunctionType, _: Budget) -> Found:
    """Its closure, defaults and attributes, and of the user's own the globals that it names."""
    cells = list(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    contents = [(name, _content(cell)) for name, cell in cells]
    if is_ours(function.__code__):  # what it gathers is for us to read; the user's functions may lie in its closure
        return Found((), [(name, value) for name, value in contents if isinstance(value, _HOLDERS)])
    put_back: list[tuple[PutBack, str]] = [(Attributes(vars(function)), "")]
    put_back += [(partial(_cell_back, cell, _content(cell)), name) for name, cell in cells]
    inside = [*contents, *((f"default {i}", value) for i, value in enumerate(function.__defaults__ or ()))]
    inside += [*(function.__kwdefaults__ or {}).items(), *vars(function).items()]
    if is_users_code(function.__code__):
        named, written = _globals_in(function.__code__)
        space = function.__globals__
        put_back += [(partial(_global_back, space, name, space.get(name, MISSING)), name) for name in written]
        inside += [(name, space[name]) for name in named if name in space]
    return Found(put_back, inside)


_HOLDERS = (nn.Module, FunctionType, MethodType, partial)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not bound yet
        return MISSING


def _cell_back(cell: Any, before: Any) -> None:
    if _content(cell) is before:
        return
    if before is MISSING:
        del cell.cell_contents
    else:
        cell.cell_contents = before


def _global_back(space: dict[str, Any], name: str, before: Any) -> None:
    if before is MISSING:
        space.pop(name, None)
    elif space.get(name, MISSING) is not before:
        space[name] = before


@cache
def _globals_in(code: CodeType) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names that may be globals, and those that are written to; by functions inside of it too."""
    named, written = dict.fromkeys(code.co_names), dict[str, None]()
    for step in dis.get_instructions(code):
        if step.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            written[step.argval] = None
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            inner_named, inner_written = _globals_in(inner)
            named |= dict.fromkeys(inner_named)
            written |= dict.fromkeys(inner_written)
    return tuple(named), tuple(written)


def keep_method(method: MethodType, _: Budget) -> Found:
    """What it is a method of."""
    return Found((), [("self", method.__self__), ("function", method.__func__)])


def keep_partial(function: partial[Any], _: Budget) -> Found:
    """What is bound in it."""
    return Found((), [("func", function.func), ("args", function.args), ("keywords", function.keywords)])


def keep_class(kind: type, _: Budget) -> Found:
    """Attributes of a class of the user's, and what its methods name."""
    if not is_users_class(kind):
        return Found()
    values = {k: v for k, v in vars(kind).items() if not k.startswith("__") and not hasattr(type(v), "__get__")}
    functions = [(k, v) for k, v in vars(kind).items() if isinstance(v, FunctionType)]
    inside = [*values.items(), *functions, *(("base", base) for base in kind.__bases__)]
    return Found([(partial(_class_back, kind, values), "")], inside)


def _class_back(kind: type, before: dict[str, Any]) -> None:
    for name, value in before.items():
        if vars(kind).get(name, MISSING) is not value:
            setattr(kind, name, value)
