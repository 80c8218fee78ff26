"""Names of torch that are not public, in one place, each with a fallback that the tests exercise.

Where the torch at hand lacks one, what needs it is not seen, and `unseen` says so in a sentence for the coverage; every
other number stays what it is. Nothing here may fail because a name is gone or has become something else.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import sys
from collections import OrderedDict
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import timedelta
    from types import FrameType

    from torch import Tensor, nn
    from torch.autograd.graph import Node

LEAF_SEQUENCE_NR = 2**63
"""Leaves (``AccumulateGrad``) carry the largest unsigned number: they have no place in the order."""

OLDEST_TRIED, NEWEST_TRIED = (2, 6), (2, 15)
"""Versions of torch that were tried, and with what outcome: docs/compatibility.md."""

MODES = ("torch.overrides._get_current_function_mode_stack", "torch.overrides._pop_mode", "torch.overrides._push_mode")

UNSEEN = {
    "Node._sequence_nr": "this torch does not number the ops of its tape: the module and the source line of each op "
    "were not seen",
    "Node._input_metadata": "this torch does not say what gradient an op takes: which ops work on single numbers, and "
    "so where the loss begins, was not seen",
    "Node._saved_result": "this torch does not show what its tape saved: a' of activations that are called out of "
    "sight (inside attention or a recurrence) was not seen",
    "Node._raw_saved_result": "",
    "torch.autograd._get_sequence_nr": "this torch does not tell the number of its next op: the line that applies a "
    "custom function was not seen",  # throw-away ops tell the rest
    "torch._C._autograd._top_saved_tensors_default_hooks": "",  # reading what is packed costs, and gives the same
    "torch._C._functorch.peek_interpreter_stack": "this torch does not say whether torch.func is at work: numbers from "
    "inside of vmap, grad or jvp may be those of a whole batch",
    "torch._C._get_dispatch_mode": "",  # a new tensor tells as much
    "torch._C._TorchDispatchModeKey.FAKE": "",
    **dict.fromkeys(
        MODES, "this torch does not show its function modes: frozen attention may have missed its fast path"
    ),
}
"""Name -> what cannot be seen without it; '' where nothing is lost. ``Node`` is the type of an op on the tape."""


@cache
def find(path: str) -> Any:
    """What this torch has under a private name, or None.

    >>> find("torch._C._no_such_module.nor_such_a_name") is None
    True
    """
    root, *names = path.split(".")
    found: Any = _NODE if root == "Node" else torch
    for name in names:
        found = getattr(found, name, None)
    return found


def _throw_away(function: Callable[[Tensor], Tensor]) -> Any:
    with torch.inference_mode(False), torch.enable_grad():
        return function(torch.ones((), requires_grad=True)).grad_fn


_NODE = type(_throw_away(torch.sigmoid))


def unseen() -> tuple[str, ...]:
    """Sentences: what a trace cannot tell with the torch at hand."""
    told = re.findall(r"\d+", torch.__version__)[:2]
    version = tuple(map(int, told))
    span = f"{'.'.join(map(str, OLDEST_TRIED))} to {'.'.join(map(str, NEWEST_TRIED))}"
    notes = []
    if len(version) == 2 and not OLDEST_TRIED <= version <= NEWEST_TRIED:
        age = "newer" if version > NEWEST_TRIED else "older"
        notes.append(f"torch {torch.__version__} is {age} than any that gradtrace was tried with ({span})")
    notes += [sentence for path, sentence in UNSEEN.items() if sentence and find(path) is None]
    return tuple(dict.fromkeys(notes))


# --------------------------------------------------------------------------------------------------- ops of the tape


def sequence_nr() -> int:
    """The number that the next recorded op of this thread will carry."""
    read = find("torch.autograd._get_sequence_nr")
    if read is not None:
        return int(read())
    # A throw-away op takes a number: ours is the one after it. It saves nothing, which a checkpoint would count.
    return node_sequence_nr(_throw_away(lambda x: x.view(()))) + 1


def node_sequence_nr(node: Node) -> int:
    """The number that `node` was recorded with; leaves give `LEAF_SEQUENCE_NR` or more."""
    return int(node._sequence_nr()) if find("Node._sequence_nr") is not None else LEAF_SEQUENCE_NR


def input_metadata(node: Node) -> Any:
    """Shape, dtype and device of each gradient that `node` receives; None where torch does not say."""
    return node._input_metadata if find("Node._input_metadata") is not None else None


def shows_saved() -> bool:
    """Whether what ops saved can be read at all."""
    return find("Node._saved_result") is not None


def is_saved(node: Node, name: str) -> bool:
    """Whether `node` saved something under `name` (``self``, ``result``) that can be read."""
    return shows_saved() and hasattr(node, f"_saved_{name}")


def saved(node: Node, name: str, *default: Any) -> Any:
    """What `node` saved under `name`: reading it may recompute a forward pass, or raise where it was freed."""
    return getattr(node, f"_saved_{name}", *default)


def is_packed(node: Node, key: str) -> bool:
    """Whether hooks packed what `node` saved under `key` (``_saved_self``): reading it may recompute a forward."""
    raw = getattr(node, f"_raw{key}", None) if find("Node._raw_saved_result") is not None else None
    return getattr(raw, "unpack_hook", None) is not None


def saved_hooks_active() -> bool:
    """Whether saved tensors are being packed (checkpointing, offloading): reading them may recompute a forward."""
    read = find("torch._C._autograd._top_saved_tensors_default_hooks")
    return read is not None and read(True) is not None


# ------------------------------------------------------------------------------------------------- custom functions


def forward_of(node: Node) -> Any:
    """The ``forward`` that the user wrote for the custom function behind `node`; None for torch's own ops."""
    return getattr(getattr(node, "_forward_cls", None), "forward", None)


def class_of_context(context: Any) -> Any:
    """The custom function whose forward or backward is given `context`; None where it is no context."""
    return getattr(type(context), "_forward_cls", None)


# ----------------------------------------------------------------------------------------- what else is at work here


def inside_functorch() -> bool:
    """Whether vmap, grad or jvp of torch.func is running: tensors are wrapped and must not be measured."""
    read = find("torch._C._functorch.peek_interpreter_stack")
    return read is not None and read() is not None


def inside_tracing() -> bool:
    """Whether torch.jit or torch.fx traces: what runs meanwhile is recorded, and no training; fx gives no tensors."""
    by_jit, fx = find("torch.jit.is_tracing"), sys.modules.get("torch.fx._symbolic_trace")
    if by_jit is not None and by_jit():
        return True
    return bool(getattr(fx, "_is_fx_tracing_flag", False))  # fx's own question, is_fx_tracing, warns the user


def inside_fake() -> bool:
    """Whether tensors hold no numbers for now: torch.export, or a `FakeTensorMode` of the user's, is at work."""
    read, key = find("torch._C._get_dispatch_mode"), find("torch._C._TorchDispatchModeKey.FAKE")
    if read is not None and key is not None:
        return read(key) is not None
    return type(torch.empty(0)) is not torch.Tensor


def sink_mode(mode: TorchFunctionMode) -> None:
    """Put an active function mode below those of the user in this thread, which may then come and go above it.

    A default device (`torch.set_default_device`) stays at the very bottom, where torch itself looks for it.
    """
    others = [other for other in _modes() if other is not mode]
    default = getattr(getattr(torch, "_GLOBAL_DEVICE_CONTEXT", None), "device_context", None)
    place = int(bool(others) and others[0] is default)
    _rearrange([*others[:place], mode, *others[place:]])


def lift_mode(mode: TorchFunctionMode) -> None:
    """Take a function mode away, wherever it lies; none of this thread's is left as it was."""
    if not _shows_modes():
        TorchFunctionMode.__exit__(mode, None, None, None)
    elif any(other is mode for other in _modes()):
        _rearrange([other for other in _modes() if other is not mode])


def only_modes(wanted: list[TorchFunctionMode]) -> bool:
    """Whether function modes are active in this thread, and none but those `wanted`."""
    modes = _modes()
    return bool(modes) and all(any(mode is other for other in wanted) for mode in modes)


@contextlib.contextmanager
def without_modes() -> Iterator[None]:
    """No function mode in this thread meanwhile."""
    modes = _modes()
    _rearrange([])
    try:
        yield
    finally:
        _rearrange(modes)


def _shows_modes() -> bool:
    return all(find(path) is not None for path in MODES)


def _modes() -> list[TorchFunctionMode]:
    return list(find(MODES[0])()) if _shows_modes() else []


def _rearrange(wanted: list[TorchFunctionMode]) -> None:
    if _shows_modes():
        for _ in _modes():
            find(MODES[1])()
        for mode in wanted:
            find(MODES[2])(mode)


def anything_compiled() -> bool:
    """Whether torch.compile was called in this process: what it made would compile again, or fail, under our mode."""
    frames = sys.modules.get("torch._dynamo.eval_frame")  # optimizers import it as well
    if frames is None:
        return False
    backends = getattr(frames, "cached_backends", None)
    if backends is not None:
        return any(backend is not None for backend in backends.values())  # None: of torch._dynamo.disable
    return bool(getattr(sys.modules.get("torch._dynamo.utils"), "counters", {}).get("frames"))


def compiled_entrance() -> tuple[Any, str] | None:
    """Module and name of a function that is called just before compiled code runs; None where torch has none such."""
    return _entrance("_callback_from_stance")


def compiled_switch() -> tuple[Any, str] | None:
    """Module and name of a function that is called just before and after compiled code runs.

    None: there is none, or what compiled code gave is not to be seen then (torch 2.8 and 2.10).
    """
    found = _entrance("_maybe_set_eval_frame")
    return found if found is not None and "result = fn(" in _entering(found[0]) else None


def _entrance(name: str) -> tuple[Any, str] | None:
    frames = sys.modules.get("torch._dynamo.eval_frame")
    # Dynamo must look at no frames while it enters compiled code: what stands in for its functions is one.
    pauses = callable(getattr(frames, name, None)) and "prior = set_eval_frame(None)" in _entering(frames)
    return (frames, name) if pauses else None


@cache
def _entering(frames: Any) -> str:
    """The source of what enters compiled code; empty where it is not to be had."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        return inspect.getsource(frames._TorchDynamoContext.__call__)
    return ""


def compiled_frame(frame: FrameType | None) -> FrameType | None:
    """The call of a compiled function that has called us, if `frame`, the innermost that is not ours, is one.

    Its locals hold the function as ``fn``, what it is called with as ``args`` and ``kwargs``, in the end ``result``.
    """
    while frame is not None and str(frame.f_globals.get("__name__", "")).startswith("gradtrace."):
        frame = frame.f_back
    free = frame.f_code.co_freevars if frame is not None else ()
    return frame if "fn" in free and "callback" in free else None


def backward_is_compiled() -> bool:
    """Whether whole backward passes are compiled: hooks on the tape would be compiled with them."""
    engine = sys.modules.get("torch._dynamo.compiled_autograd")
    config = sys.modules.get("torch._dynamo.config")
    return bool(getattr(engine, "compiled_autograd_enabled", False) or getattr(config, "compiled_autograd", False))


def unseen_by_dynamo(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which compiled code calls as it is: dynamo would go through all of it, and compile it and again."""
    return torch.compiler.disable(function) if "torch._dynamo" in sys.modules else function  # its import takes a second


def original_of(model: nn.Module) -> nn.Module | None:
    """The module that ``torch.compile(model)`` wraps; None where `model` is not what that gave."""
    original = getattr(model, "_orig_mod", None)
    return original if isinstance(original, torch.nn.Module) else None


def compiled_call(module: nn.Module) -> Any:
    """What ``module.compile()`` left on the module; None where nothing did."""
    return getattr(module, "_compiled_call_impl", None)


def lives_with(node: Node, thing: object) -> None:
    """`thing` is held for as long as the tape holds `node`; not at all where torch has no place for it."""
    metadata = getattr(node, "metadata", None)
    if isinstance(metadata, dict):
        metadata["gradtrace"] = thing


# ------------------------------------------------------------------------------------- tensors, buffers and scalers


def loss_scale_of(scaler: Any) -> Tensor | None:
    """What a GradScaler multiplies the loss by, left on its device; None before the first time."""
    return scaler._scale if hasattr(scaler, "_scale") else torch.tensor(scaler.get_scale())


def version_of(tensor: Tensor) -> int:
    """Counts the changes in place; always 0 where torch does not say."""
    return int(getattr(tensor, "_version", 0))


def base_of(tensor: Tensor) -> Tensor | None:
    """What `tensor` is a view of; None where it is none, or torch does not say."""
    base: Tensor | None = getattr(tensor, "_base", None)
    return base


def is_view(tensor: Tensor) -> bool:
    """Whether it may share its memory with a larger one; always so where torch does not say."""
    read = getattr(tensor, "_is_view", None)
    return read is None or bool(read())


def foreach(name: str) -> Callable[..., Any]:
    """One fused call for many tensors (``norm``, ``copy_``, ``sub_``), or one call for each where there is none.

    >>> tensors = [torch.tensor([3.0, 4.0]), torch.tensor([2.0])]
    >>> _ = foreach("sub_")(tensors, [torch.tensor([3.0, 0.0]), torch.tensor([1.0])])
    >>> [float(norm) for norm in foreach("norm")(tensors, 2)]
    [4.0, 1.0]
    """
    fused = find(f"torch._foreach_{name}")
    if fused is not None:
        return fused  # type: ignore[no-any-return]
    if name == "norm":
        return lambda tensors, ord=2, dtype=None: [torch.linalg.vector_norm(t, ord, dtype=dtype) for t in tensors]

    def one_by_one(tensors: list[Tensor], others: list[Tensor]) -> None:
        for tensor, other in zip(tensors, others, strict=True):
            getattr(tensor, name)(other)

    return one_by_one


def buffers_of(module: nn.Module) -> dict[str, Tensor | None]:
    """The module's own buffers by name, in a dict of the caller's."""
    own = getattr(module, "_buffers", None)
    return dict(own if own is not None else module.named_buffers(recurse=False, remove_duplicate=False))


def parameters_of(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """The module's own parameters by name, in a dict of the caller's: a model may have other names for its own use."""
    own = getattr(module, "_parameters", None)
    return dict(own.items() if own is not None else module.named_parameters(recurse=False, remove_duplicate=False))


def children_of(module: nn.Module) -> dict[str, nn.Module | None]:
    """The modules right inside, by name, in a dict of the caller's."""
    own = getattr(module, "_modules", None)
    return dict(own.items() if own is not None else module.named_children())


def put_buffers_back(module: nn.Module, before: dict[str, Tensor | None]) -> None:
    """Make the module's buffers those of `before`."""
    own = getattr(module, "_buffers", None)
    if own is not None:
        own.clear()
        own.update(before)
        return
    for name, buffer in before.items():
        setattr(module, name, buffer)


def put_child(module: nn.Module, name: str, child: nn.Module) -> None:
    """In place of what it holds under that name; it may have dots in it."""
    own = getattr(module, "_modules", None)
    if own is not None:
        own[name] = child
    else:
        setattr(module, name, child)


def put_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """As if they were parameters; of any kind, by names that may have dots in them."""
    own = getattr(module, "_parameters", None)
    if own is not None:
        own.update(tensors)
        return
    for name, tensor in tensors.items():
        setattr(module, name, tensor)


def hooks_of(module: nn.Module) -> list[Any]:
    """The module's own on its calls; none where torch does not show them."""
    tables = (getattr(module, name, None) or {} for name in ("_forward_hooks", "_forward_pre_hooks"))
    return [hook for table in tables for hook in table.values()]


def step_hooks_of(optimizer: Any) -> Iterator[OrderedDict[int, Any]]:
    """The optimizer's own before its step, then those after it; empty where torch does not show them."""
    for when in ("pre", "post"):
        none: OrderedDict[int, Any] = OrderedDict()
        yield getattr(optimizer, f"_optimizer_step_{when}_hooks", none)


def joined(tensors: list[Tensor]) -> Tensor:
    """All elements of tensors of one dtype and device, one after the other."""
    flatten = find("torch._C._nn.flatten_dense_tensors")  # one call, where the way below takes one a tensor
    if flatten is not None:
        whole: Tensor = flatten(tensors)
        return whole
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def each_in(function: Callable[[Any], Any], tree: Any) -> Any:
    """What `function` makes of everything in nested tuples, lists and dicts, and in what else torch looks into.

    >>> each_in(abs, {"a": [-1, -2], "b": (-3,)})
    {'a': [1, 2], 'b': (3,)}
    """
    read = find("torch.utils._pytree.tree_map")
    if read is not None:
        return read(function, tree)
    if type(tree) is dict:
        return {key: each_in(function, value) for key, value in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(each_in(function, value) for value in tree)
    return function(tree)


# ------------------------------------------------------------------------------------------------------ other ranks


def calls_to_others_raise() -> contextlib.AbstractContextManager[Any]:
    """A context in which whatever would wait for other processes raises: they do not run the call again.

    Every collective and every message goes through torch's dispatcher, whoever calls it. Where torch does not show
    that, this raises itself.
    """
    mode = find("torch.utils._python_dispatch.TorchDispatchMode")
    if mode is None:
        raise RuntimeError("this torch does not show what would wait for other processes")

    class Alone(mode):  # type: ignore[misc, valid-type]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.namespace in ("c10d", "_c10d_functional", "c10d_functional"):
                raise RuntimeError(f"{func.name()} would wait for other processes")
            return func(*args, **(kwargs or {}))

    return Alone()


def own_store() -> Any:
    """What the ranks share, by a connection that nobody else waits on; None where torch does not show it."""
    read = find("torch.distributed.distributed_c10d._get_default_store")
    try:
        store: Any = read() if read is not None else None
        return store.clone() if hasattr(store, "clone") else store
    except (RuntimeError, ValueError, NotImplementedError):  # it is gone by now, or cannot be connected to again
        return None


def part_of_store(name: str, store: Any) -> Any:
    """A store whose keys nobody else has."""
    return find("torch.distributed.PrefixStore")(name, store)


def own_group(store: Any, rank: int, size: int, timeout: timedelta) -> Any:
    """A process group of gloo that torch's own registry does not know, so that no other group is named anew by it.

    Blocks until all ranks have come. None where this torch was built without gloo.
    """
    kind = find("torch.distributed.ProcessGroupGloo")
    return None if kind is None else kind(store, rank, size, timeout)


def nbytes_of(tensor: Tensor) -> int:
    """What its numbers take in memory; of a sparse one (a graph's adjacency) with their indices.

    >>> nbytes_of(torch.eye(4)), nbytes_of(torch.eye(4).to_sparse())
    (64, 80)
    """
    return sum(part.nbytes for part in parts_of(tensor))


def parts_of(tensor: Tensor) -> tuple[Tensor, ...]:
    """What a tensor is made of: itself, or indices and values."""
    layout = tensor.layout
    if layout is torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return (tensor,)
