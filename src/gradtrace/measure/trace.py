"""`trace`: one backward pass measured op by op, the model given back as it came."""

from __future__ import annotations

import platform
import sys
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.autograd.graph import GradientEdge

from gradtrace.errors import InputError
from gradtrace.measure.assembly import assemble
from gradtrace.measure.derivative import Derivatives
from gradtrace.measure.description import Description, describe, frontier, read_saved
from gradtrace.measure.origin import not_of_batch
from gradtrace.measure.session import Forward, eager, run_backward, run_forward
from gradtrace.measure.untouched import paused_collection, untouched
from gradtrace.tape.gathered import is_spread
from gradtrace.tape.graph import release, walk
from gradtrace.tape.private import input_metadata, original_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from gradtrace.records.trace import Trace


def trace(
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Tensor],
    batch: Any,
    *,
    probe: str = "loss",
    values: bool = False,
    unroll: bool = False,
    seed: int = 0,
) -> Trace:
    """Measure one backward pass of ``loss_fn(model, batch)`` op by op.

    The model comes back untouched: parameters, ``.grad``, buffers, attributes, mode, random state and hooks; and so
    does what it, `loss_fn` and `batch` hold: objects, containers, tensors, generators. What could not be kept is in
    the notes of the trace's coverage.

    Args:
        model: any module with at least one parameter that requires a gradient; a compiled one is traced uncompiled, and
            one in DistributedDataParallel by itself, on this rank alone.
        loss_fn: takes (model, batch) and returns a scalar tensor; it must not call ``backward``.
        batch: whatever `loss_fn` takes.
        probe: 'loss' follows the loss gradient; 'random' a standard normal cotangent at the network's output, which
            shows what the network does to any gradient.
        values: look at every value of the forward pass, to name the op where a NaN or Inf was born.
        unroll: run nn.RNN, nn.LSTM and nn.GRU one time step at a time, so that the ops of every step are on the tape.
        seed: of the random cotangent (a generator of its own).

    Returns:
        The trace; ops from the loss to the parameters.

    Raises:
        InputError: the loss is not a scalar or has no gradient, `loss_fn` raised, the model has no parameters, ...

    >>> import torch, gradtrace
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Sigmoid(), torch.nn.Linear(8, 1))
    >>> trace = gradtrace.trace(model, lambda model, x: model(x).square().mean(), torch.randn(16, 4))
    >>> [op.activation.derivative_max for op in trace.ops if op.activation and op.activation.function == "sigmoid"]
    [0.25]
    """
    notes: list[str] = []
    model = check_model(model, notes)
    if probe not in ("loss", "random"):
        raise InputError(f"probe must be 'loss' or 'random', but it is {probe!r}")
    kept = untouched(model, loss_fn=loss_fn, batch=batch)
    with kept as unkept, eager(), paused_collection(), ExitStack() as last:
        forward = run_forward(model, loss_fn, batch, values=values, unroll=unroll)
        last.callback(release, list(forward.graph.nodes))
        read_saved(forward)
        tape = describe(forward, model)
        if probe == "loss":
            backward = run_backward(forward, forward.graph, [forward.loss], None)
        else:
            roots, cotangents = _random_cotangents(forward, tape, seed)
            backward = run_backward(forward, walk([root.node for root in roots]), roots, cotangents)
        record = not_of_batch(assemble(model, forward, backward, tape, probe, tuple(notes), environment()), batch)
        record = replace(record, derivatives=Derivatives().of(forward.recorder.customs.first.values()))
        del forward, backward, tape  # before their nodes
    if unkept:
        record = replace(record, coverage=replace(record.coverage, notes=(*record.coverage.notes, *unkept)))
    return record


def check_is_module(model: Any) -> None:
    """Raise `InputError` for what is none, as the class of one."""
    if not isinstance(model, nn.Module):
        what = f"the class {model.__name__}: make one of it" if isinstance(model, type) else type(model).__name__
        raise InputError(f"model must be a torch.nn.Module, but it is {what}")


def check_model(model: Any, notes: list[str]) -> nn.Module:
    """The module to trace (the original of a compiled one), or a sentence saying why it cannot be."""
    check_is_module(model)
    model = _of_this_rank(model, notes)
    original = original_of(model)
    if original is not None:
        notes.append("the model is compiled: traced through the original module, eagerly")
        model = _of_this_rank(original, notes)
    assert isinstance(model, nn.Module)
    scripted = next((path for path, m in model.named_modules() if isinstance(m, torch.jit.ScriptModule)), None)
    if scripted is not None:
        raise InputError(
            f"{scripted or 'the model'} is scripted (torch.jit), which takes no hooks; give the eager module"
        )
    named = dict(model.named_parameters())
    lazy = [name for name, p in named.items() if isinstance(p, nn.parameter.UninitializedParameter)]
    if lazy:
        raise InputError(f"parameter {lazy[0]!r} is not initialised yet; run one batch through the lazy modules first")
    parameters = list(named.values())
    spread = next((name for name, p in named.items() if is_spread(p)), None)
    spread = spread if spread is not None else _flattened(model)
    if spread is not None:
        raise InputError(
            f"{spread!r} is sharded over several ranks, and nothing is measured that they would have to take part in: "
            "give the model as it is before fully_shard (FullyShardedDataParallel) or parallelize_module; "
            "gradtrace.watch measures it as it trains"
        )
    if not parameters:
        packed = " (a quantized one keeps its weights elsewhere, and they take no gradient)"
        raise InputError("the model has no parameters" + (packed if _is_quantized(model) else ""))
    if any(p.is_meta for p in parameters):
        raise InputError(
            "the model is on the meta device and holds no numbers; move it with .to_empty() and initialise"
        )
    if not any(p.is_floating_point() or p.is_complex() for p in parameters):
        raise InputError("the model has integer parameters only (quantized?); gradients need floating point")
    if not any(p.requires_grad for p in parameters):
        raise InputError("no parameter requires a gradient: the whole model is frozen")
    return model


def _of_this_rank(model: nn.Module, notes: list[str]) -> nn.Module:
    """Without what would have other ranks take part: buffers sent before a forward pass, a copy that asks for them."""
    if not isinstance(model, nn.parallel.DistributedDataParallel):
        return model
    notes.append("the model is wrapped in DistributedDataParallel: traced on this rank alone, with its own batch")
    return model.module  # type: ignore[no-any-return]


def _flattened(model: nn.Module) -> str | None:
    """A module of which FSDP's first version holds the parameters in one: with hooks on its ops torch may crash."""
    fsdp = getattr(sys.modules.get("torch.distributed.fsdp"), "FullyShardedDataParallel", None)
    found = (path for path, module in model.named_modules() if fsdp is not None and isinstance(module, fsdp))
    return next((path or "the model" for path in found), None)


def _is_quantized(model: nn.Module) -> bool:
    names = {type(module).__module__ for module in model.modules()}
    return any(buffer.is_quantized for buffer in model.buffers()) or any("quantized" in name for name in names)


def _random_cotangents(forward: Forward, tape: Description, seed: int) -> tuple[list[GradientEdge], list[Tensor]]:
    nodes = forward.graph.nodes
    roots, cotangents = [], []
    generator = torch.Generator().manual_seed(seed)
    for index, port in frontier(forward.graph, tape):
        metadata = input_metadata(nodes[index])
        if metadata is None:
            raise InputError("this torch does not say what gradient an op takes, so a random one cannot be sent")
        meta = metadata[port]
        roots.append(GradientEdge(nodes[index], port))
        noise = torch.randn(tuple(meta.shape), generator=generator, dtype=torch.float64)
        cotangents.append(noise.to(dtype=meta.dtype, device=meta.device))
    if not roots:
        raise InputError("no output of the network could be told from the loss, so there is nowhere to probe")
    return roots, cotangents


def environment() -> tuple[tuple[str, str], ...]:
    """Versions that the numbers depend on."""
    from gradtrace import __version__

    return (
        ("gradtrace", __version__),
        ("torch", torch.__version__),
        ("python", platform.python_version()),
        ("numpy", np.__version__),
    )
