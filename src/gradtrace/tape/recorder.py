"""Who recorded each op? Module calls and torch functions, each as an interval of autograd's sequence numbers.

Autograd numbers the ops of a thread in the order they are recorded. The number read when a module call (or a torch
function) begins and ends brackets the ops it recorded, so that each op has an innermost module and a source line.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.overrides import TorchFunctionMode

from gradtrace.records.trace import Site
from gradtrace.tape.callers import call_from
from gradtrace.tape.custom import Customs, custom_forward
from gradtrace.tape.dataflow import Dataflow, floats_in, tensors_in
from gradtrace.tape.fastpath import keep_unseen, may_be_fast, show
from gradtrace.tape.gathered import Gathered, class_of
from gradtrace.tape.made import Made
from gradtrace.tape.private import lift_mode, saved_hooks_active, sequence_nr
from gradtrace.tape.source import source_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType

    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle
    from typing_extensions import Self


@dataclass(slots=True)
class Call:
    """One torch function that the forward pass called."""

    name: str
    site: Site
    start: int
    end: int
    packed: bool = False
    """Recorded while saved tensors are packed (checkpointing): reading them would recompute."""
    values: tuple[int, ...] = ()
    """The values it made, as numbered by the dataflow."""
    observed: Any = None
    """What the observer made of it."""


@dataclass(frozen=True, slots=True)
class Visit:
    """One call of a module."""

    module: str
    module_type: str
    call: int
    start: int
    end: int


class Observer(Protocol):
    """Measures values as the forward pass makes them."""

    def before(self, call: Call, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """See the operands, before an in-place function overwrites them."""

    def after(self, call: Call, seen: Any, operands: list[Tensor], result: Any) -> None:
        """See the result; `seen` is what `before` returned."""


class Recorder(TorchFunctionMode):
    """A context around one forward pass; afterwards `site_of` and `call_of` say where an op comes from."""

    def __init__(self, model: nn.Module, observer: Observer) -> None:
        super().__init__()
        self._model = model
        self._observer = observer
        self._handles: dict[int, tuple[RemovableHandle, ...]] = {}
        """By the identity of the module."""
        self._open: list[tuple[str, str, int, int]] = []
        self._counts: Counter[str] = Counter()
        self._told_up_to = 0
        self.visits: list[Visit] = []
        self.calls: list[Call] = []
        self.entered = False
        self.faults: list[str] = []
        self.passed_by: dict[str, tuple[str, ...]] = {}
        """Modules that were called and not looked into, so that torch could take its fast path, and what is inside."""
        self.dataflow = Dataflow(model.named_parameters())
        self.gathered = Gathered(model)
        self.made = Made(model)
        self.customs = Customs()

    def __enter__(self) -> Self:
        try:
            self.watch_modules()
            super().__enter__()  # type: ignore[no-untyped-call]
            keep_unseen(self)
            self.entered = True
            self._told_up_to = sequence_nr()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lift_mode(self)
        show(self)
        self.entered = False
        self.made.end()
        self.leave_modules()
        self.visits.sort(key=lambda visit: (visit.start, -visit.end))

    def watch_modules(self) -> None:
        """Hooks on every module, if there are none yet."""
        if self._handles:
            return
        try:
            for path, module in self._model.named_modules():
                opens = self._handles[id(module)] = (module.register_forward_pre_hook(self._opener(path)),)
                closes = module.register_forward_hook(self._closer(path), always_call=True)
                self._handles[id(module)] = (*opens, closes)
        except BaseException:  # of a module's own making: half of it is worse than nothing
            self.leave_modules()
            raise

    def leave_modules(self) -> None:
        """Take the hooks on modules away; functions are still seen."""
        while self._handles:
            self._unhook(next(iter(self._handles)))

    def _unhook(self, identity: int) -> None:
        for handle in self._handles.pop(identity, ()):
            handle.remove()

    def _pass_by(self, path: str, module: nn.Module) -> None:
        self.passed_by[path] = tuple(name for name, _ in module.named_modules(prefix=path))
        for inner in module.modules():
            self._unhook(id(inner))

    def _opener(self, path: str) -> Callable[[nn.Module, Any], None]:
        def open_visit(module: nn.Module, args: Any) -> None:
            if may_be_fast(module, args):
                self._pass_by(path, module)
                return
            for name, whole in (self._guard(self.gathered.come, path, module) or {}).items():
                self.dataflow.stands_for(name, whole)
            self._open.append((path, class_of(module).__name__, self._counts[path], sequence_nr()))
            self.made.begin()
            self._counts[path] += 1

        return open_visit

    def _closer(self, path: str) -> Callable[[nn.Module, Any, Any], None]:
        def close_visit(_module: nn.Module, _args: Any, _output: Any) -> None:
            while self._open:  # a module whose forward raised and was caught left its visit open: close it too
                name, kind, call, start = self._open.pop()
                self.visits.append(Visit(name, kind, call, start, sequence_nr()))
                if name == path:
                    break
            if not self._open:
                self.made.end()

        return close_visit

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func` unchanged, bracketed by sequence numbers and seen by the observer."""
        kwargs = kwargs or {}
        name = _NAMES.get(func) or _name_of(func)
        frame = sys._getframe(1)
        if (name in _IGNORED and func is not torch.autograd.grad) or not self.entered:  # left, in another thread
            return call_from(frame, func, args, kwargs)
        source = source_of(frame)
        owner = self._open[-1] if self._open else (None, "", 0)
        call = Call(name, Site(owner[0], owner[1], owner[2], source), sequence_nr(), 0, saved_hooks_active())
        if call.start > self._told_up_to:
            self._tell_custom(call, frame)
        seen = self._guard(self._observer.before, call, func, args, kwargs)
        result = call_from(frame, func, args, kwargs)
        call.end = self._told_up_to = sequence_nr()
        operands = tensors_in(args) + (tensors_in(kwargs) if kwargs else [])
        self._guard(self._observer.after, call, seen, operands, result)
        if func is not torch.autograd.grad:  # it cuts no value off: a slope is meant to be a number
            numbers = floats_in(args) if self.dataflow.numbers else ()
            call.values = self._guard(self.dataflow.record, name, operands, result, source, numbers) or ()
        if call.end > call.start:
            self.calls.append(call)
        return result

    def _tell_custom(self, inner: Call, frame: FrameType | None) -> None:
        """An op was recorded since the last torch function: of the custom function in whose forward we are, if any."""
        custom = custom_forward(frame)
        if custom is not None:
            number = inner.start - 1  # its forward records nothing, so the op before is its own
            site = replace(inner.site, source=source_of(custom.caller))
            self.calls.append(Call(custom.function.__name__, site, number, inner.start, inner.packed))
            self._guard(self.customs.come, custom)

    def _guard(self, measure: Callable[..., Any], *args: Any) -> Any:
        try:
            return measure(*args)
        except Exception as error:  # a fault of ours must not become the model's
            self.faults.append(f"{type(error).__name__}: {error}")
            return None

    def sites(self, numbers: list[int]) -> list[tuple[Site, Call | None]]:
        """Site and torch function of each op, given the sequence numbers of the ops."""
        starts = [call.start for call in self.calls]
        owners = _innermost(self.visits, numbers)
        found: list[tuple[Site, Call | None]] = []
        for number, visit in zip(numbers, owners, strict=True):
            position = bisect_right(starts, number) - 1
            call = self.calls[position] if position >= 0 and number < self.calls[position].end else None
            source = call.site.source if call is not None else ""
            site = Site(visit.module, visit.module_type, visit.call, source) if visit else Site(None, source=source)
            found.append((site, call))
        return found

    def called_modules(self) -> set[str]:
        """Paths of all modules that were called."""
        return {visit.module for visit in self.visits}.union(*self.passed_by.values())


_IGNORED = {
    "shape", "dtype", "device", "requires_grad", "grad_fn", "is_leaf", "ndim", "dim", "size", "stride", "is_cuda",
    "is_contiguous", "is_floating_point", "is_complex", "numel", "__len__", "is_nested", "is_sparse", "layout", "grad",
    "is_quantized", "is_meta", "is_mkldnn", "names", "_version", "element_size", "storage_offset", "data_ptr",
    "untyped_storage", "__repr__", "__format__", "__hash__", "is_same_size", "is_cpu", "get_device", "itemsize",
    "register_hook", "requires_grad_", "retain_grad", "_backward_hooks", "output_nr", "is_signed", "nbytes",
}  # fmt: skip


_NAMES: dict[Any, str] = {}
"""Of functions that were called."""


def _name_of(function: Any) -> str:
    name = getattr(function, "__name__", "")
    if name == "__get__":
        return getattr(function.__self__, "__name__", name)
    if getattr(function, "__module__", "").startswith("torch"):  # there are only so many
        _NAMES[function] = name
    return name


def _innermost(visits: list[Visit], numbers: list[int]) -> list[Visit | None]:
    """The innermost of the nested intervals [start, end) around each number; one sweep."""
    owners: list[Visit | None] = [None] * len(numbers)
    stack: list[Visit] = []
    position = 0
    for index in sorted(range(len(numbers)), key=numbers.__getitem__):
        number = numbers[index]
        while position < len(visits) and visits[position].start <= number:
            while stack and stack[-1].end <= visits[position].start:
                stack.pop()
            stack.append(visits[position])
            position += 1
        while stack and stack[-1].end <= number:
            stack.pop()
        owners[index] = stack[-1] if stack else None
    return owners
