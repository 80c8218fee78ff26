"""Which custom function (`torch.autograd.Function`) is at work, and what was its forward given?"""

from __future__ import annotations

import dis
import inspect
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import torch

from gradtrace.tape.private import class_of_context, version_of

if TYPE_CHECKING:
    from types import CodeType, FrameType

    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Custom:
    """A custom function whose forward runs."""

    function: Any
    """Its class."""
    arguments: dict[str, Any]
    """What the forward was given, by the names of its arguments, as far as they are bound now."""
    caller: FrameType | None
    """The frame that called it."""


def custom_forward(frame: FrameType | None) -> Custom | None:
    """The custom function in whose forward `frame` runs; None outside of any."""
    while frame is not None:
        owner = _owner_of(frame.f_code)
        if owner is not None:
            given = _given(frame)
            context = next(iter(given.values()), None)
            own = class_of_context(context)  # of several classes with one forward
            if own is not None:
                given.pop(next(iter(given)))
            return Custom(own or owner, given, frame.f_back)
        frame = frame.f_back
    return None


def _given(frame: FrameType) -> dict[str, Any]:
    """The arguments of a frame's function, one more name for each that ``*args`` takes."""
    code = frame.f_code
    own = frame.f_locals
    given = {name: own[name] for name in code.co_varnames[: code.co_argcount] if name in own}
    if code.co_flags & inspect.CO_VARARGS:
        name = code.co_varnames[code.co_argcount + code.co_kwonlyargcount]
        given |= {f"{name}[{i}]": value for i, value in enumerate(own.get(name, ()))}
    return given


@cache
def _owner_of(code: CodeType) -> Any:
    """The custom function whose forward runs this code; locals of other frames must be left alone."""
    waiting = torch.autograd.Function.__subclasses__()
    while waiting:
        one = waiting.pop()
        if getattr(inspect.unwrap(one.forward), "__code__", None) is code:
            return one
        waiting += one.__subclasses__()
    return None


@dataclass(frozen=True, slots=True)
class Given:
    """One call of a custom function: what it takes to make it once more."""

    function: Any
    arguments: dict[str, Any]
    """Tensors are those of the call, without their tape."""
    versions: tuple[int, ...]
    """Of the tensors, at the call."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Those of the arguments that are."""
        return {name: value for name, value in self.arguments.items() if isinstance(value, torch.Tensor)}

    @property
    def is_unchanged(self) -> bool:
        """Whether no tensor was written to since."""
        return self.versions == tuple(version_of(tensor) for tensor in self.tensors.values())


class Customs:
    """The first call of each custom function of the user's own that can be made again and leave nothing behind.

    That is one of tensors and plain values, without a module, a file or another state among them, which reads no list,
    dict or object from outside of itself, and writes nothing global.
    """

    def __init__(self) -> None:
        self.first: dict[Any, Given] = {}
        """By the function's class."""

    def come(self, custom: Custom) -> None:
        """The forward of a custom function begins."""
        function, arguments = custom.function, custom.arguments
        if function in self.first or not _is_own(function) or not all(map(_is_plain, arguments.values())):
            return
        given = {name: one.detach() if isinstance(one, torch.Tensor) else one for name, one in arguments.items()}
        versions = tuple(version_of(one) for one in given.values() if isinstance(one, torch.Tensor))
        self.first[function] = Given(function, given, versions)


@cache
def _is_own(function: Any) -> bool:
    """Whether its two passes are Python of no installed package, and of nothing but what they are given."""
    passes = [inspect.unwrap(one) for one in (function.forward, function.backward)]
    return all(isinstance(one, FunctionType) and not _is_installed(one) and _is_pure(one, set()) for one in passes)


def _is_pure(method: FunctionType, seen: set[FunctionType]) -> bool:
    """Whether it, and what it calls of the user's own, changes nothing outside, and reads nothing that can change."""
    if method in seen or _is_installed(method):
        return True
    seen.add(method)
    if _OUTSIDE & {*method.__code__.co_names}:
        return False
    if any(_writes_outside(one, before) for before, one in pairwise(dis.get_instructions(method.__code__))):
        return False
    known = inspect.getclosurevars(method)
    return all(
        _is_pure(value, seen)
        if isinstance(value, FunctionType)
        else not isinstance(value, torch.Tensor)
        and (_is_plain(value) or isinstance(value, type | ModuleType) or inspect.isbuiltin(value))
        for value in (*known.nonlocals.values(), *known.globals.values())
    )


def _writes_outside(one: dis.Instruction, before: dis.Instruction) -> bool:
    """Whether an instruction binds a name or an attribute of anything but a local (as that of the context is)."""
    return one.opname in _WRITES_OUTSIDE or (one.opname == "STORE_ATTR" and not before.opname.startswith("LOAD_FAST"))


def _is_installed(method: FunctionType) -> bool:
    return bool(_PACKAGES & {*Path(method.__code__.co_filename).parts})


_PACKAGES = {"site-packages", "dist-packages"}
_OUTSIDE = {"print", "input", "open", "exec", "eval", "setattr"}
_WRITES_OUTSIDE = {"STORE_GLOBAL", "DELETE_GLOBAL", "STORE_DEREF"}


def _is_plain(value: Any) -> bool:
    """A tensor or a value that cannot be changed."""
    if isinstance(value, tuple):
        return all(_is_plain(each) and not isinstance(each, torch.Tensor) for each in value)
    if isinstance(value, torch.Tensor):
        return type(value) in (torch.Tensor, torch.nn.Parameter) and value.layout is torch.strided
    return value is None or isinstance(
        value, bool | int | float | complex | str | torch.Size | torch.dtype | torch.device
    )
