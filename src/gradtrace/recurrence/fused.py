"""The gradient through time of a real training step: its fused recurrences and cells once more, step by step.

torch runs nn.RNN, nn.LSTM and nn.GRU as one function, about whose steps the tape is silent, and a cell as a few ops of
which none is its state. What such a function was given is held by reference, and so is the gradient that reached what
it made. After the backward pass the same functions run unrolled beside the training, each from what the one before
handed on, and their backward pass takes the training's gradient wherever that came out of a call: every |L'(h_t)| is
the training's, to rounding. Nothing of the user's code runs, and no weight is touched: leaves over the same memory
stand in for them.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gradtrace.measure.untouched import fixed_random_state, paused_collection
from gradtrace.recurrence.found import link, of_segments
from gradtrace.recurrence.loops import MIN_CALLS
from gradtrace.recurrence.norms import chains_of
from gradtrace.recurrence.reach import random_reach
from gradtrace.tape.dataflow import tensors_in
from gradtrace.tape.private import version_of
from gradtrace.tape.unroll import CELLS, FUSED, Unrolled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch.utils.hooks import RemovableHandle

    from gradtrace.records.time import Chain
    from gradtrace.records.trace import Site
    from gradtrace.recurrence.chain import Recurrence
    from gradtrace.recurrence.origins import Origins

MOST_BYTES = 256 * 2**20
"""Of what these functions were given and of the gradients that came: a step with more is not looked at."""

NUM_TARGETS = 2
"""Random cotangents are put half way and at the end: the horizon is measured, at the least cost."""


@dataclass(slots=True, eq=False)
class _Held:
    """One call."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    site: Site
    versions: tuple[int, ...]
    random_state: Tensor | None
    """Where dropout between layers draws from it."""
    autocast: tuple[str, torch.dtype] | None
    made: list[tuple[Tensor, int]] = field(default_factory=list)
    """What it made, each with its version: the next call may be given it."""
    gradients: dict[int, Tensor] = field(default_factory=dict)
    """By output: what reached it."""
    hooks: list[RemovableHandle] = field(default_factory=list)

    @property
    def is_intact(self) -> bool:
        """Whether inputs and weights are what they were.

        An optimizer may step within the backward pass, and whoever shards weights frees the gathered ones after it.
        """
        given = tensors_in(self.args)
        is_here = all(tensor.untyped_storage().nbytes() or not tensor.numel() for tensor in given)
        return is_here and tuple(map(version_of, given)) == self.versions


class FusedCalls:
    """Those of one forward pass, told by who sees its torch functions; `origins` knows where values come from."""

    def __init__(self, origins: Origins) -> None:
        self._origins = origins
        self._held: list[_Held] = []
        self._nbytes = 0

    def before(self, function: Callable[..., Any], args: Any, kwargs: Any, site: Site) -> _Held | None:
        """`function` is about to be called; what is returned goes to `after`."""
        if (function not in FUSED and function not in CELLS) or kwargs or not torch.is_grad_enabled():
            return None
        given = tensors_in(args)
        device = given[0].device.type
        self._nbytes += sum(tensor.nbytes for tensor in given if tensor.grad_fn is not None or not tensor.requires_grad)
        return _Held(
            function=function,
            args=args,
            site=site,
            versions=tuple(map(version_of, given)),
            random_state=torch.default_generator.get_state() if _draws(function, args) else None,
            autocast=(device, torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else None,
        )

    def after(self, held: _Held | None, result: Any) -> None:
        """It made `result`."""
        if held is None:
            return
        for index, made in enumerate(tensors_in(result)):
            held.made.append((made, version_of(made)))
            if made.grad_fn is not None:
                held.hooks.append(made.grad_fn.register_prehook(self._keeper(held, index, made.output_nr)))
        self._held.append(held)

    def _keeper(self, held: _Held, index: int, output: int) -> Callable[[Sequence[Tensor | None]], None]:
        def keep(arrived: Sequence[Tensor | None]) -> None:
            gradient = arrived[output]
            if gradient is not None:
                self._nbytes += gradient.nbytes
                held.gradients[index] = gradient.detach()

        return keep

    def close(self) -> None:
        """Let go of everything; more than once does no harm."""
        for held in self._held:
            for handle in held.hooks:
                handle.remove()
        self._held.clear()
        self._nbytes = 0

    def chains(self) -> tuple[Chain, ...]:
        """Every recurrence that gradient came to, step by step; then all is let go of."""
        try:
            is_whole = self._nbytes <= MOST_BYTES and all(held.is_intact for held in self._held)
            return _chains(self._held, self._origins) if is_whole and any(h.gradients for h in self._held) else ()
        finally:
            self.close()


def _draws(function: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    """Whether dropout between layers is on."""
    if function in CELLS:
        return False
    # (packed data, batch sizes, hx, weights, biases, layers, dropout, train, ...) or (input, hx, weights, ...)
    dropout, train = args[5:7] if isinstance(args[3], bool) else args[6:8]
    return bool(dropout and train)


def _chains(calls: Sequence[_Held], origins: Origins) -> tuple[Chain, ...]:
    once = Unrolled(nn.Module())
    again: dict[int, Tensor] = {}
    """By the identity of what the training's call made: the same, made once more."""
    seeds: list[tuple[Tensor, Tensor]] = []
    owners: dict[int, _Held] = {}
    with contextlib.ExitStack() as stack:
        for context in (fixed_random_state(), paused_collection(), torch.enable_grad()):
            stack.enter_context(context)
        for held in calls:
            num = len(once.segments)
            outputs = _made_again(once, held, again)
            owners |= {id(segment): held for segment in once.segments[num:]}
            again |= {id(old): new for (old, version), new in zip(held.made, outputs, strict=True)
                      if version_of(old) == version}  # fmt: skip
            seeds += [(outputs[i], gradient) for i, gradient in held.gradients.items() if outputs[i].requires_grad]
        found = [one for one in of_segments(once.segments, _linked) if one.starts and one.num_steps >= MIN_CALLS]
        if not found or not seeds:
            return ()
        for one in found:
            if one.module_type.endswith("Cell"):
                one.inputs = _inputs(one, owners, origins)
        gradients = [gradient.to(output.dtype) for output, gradient in seeds]
        # what came out of a call is given the gradient that it had in the training, whoever else is fed by it here
        hooks = [
            output.register_hook(lambda _, gradient=gradient: gradient)
            for (output, _), gradient in zip(seeds, gradients, strict=True)
        ]
        chains, _ = chains_of([], [output for output, _ in seeds], gradients, found)
        for hook in hooks:
            hook.remove()
        generator = torch.Generator().manual_seed(0)
        reaches = [random_reach(one, None, NUM_TARGETS, generator) for one in found]
    return tuple(replace(chain, reach=reach) for chain, reach in zip(chains, reaches, strict=True))


def _made_again(once: Unrolled, held: _Held, again: dict[int, Tensor]) -> list[Tensor]:
    def apart(value: Any) -> Any:
        """The same numbers in leaves of their own over the same memory; what an earlier call made, made once more."""
        if isinstance(value, Tensor):
            known = again.get(id(value))
            return value.detach().requires_grad_(value.requires_grad) if known is None else known
        return type(value)(map(apart, value)) if type(value) in (tuple, list) else value

    args = apart(held.args)
    if held.random_state is not None:
        torch.set_rng_state(held.random_state)
    autocast = torch.autocast(*held.autocast) if held.autocast is not None else contextlib.nullcontext()
    with autocast, once, once.within(held.site.module or "", held.site.module_type):
        return tensors_in(held.function(*args))


def _linked(last: Tensor, given: Tensor) -> str:
    """As `link`, where what is given without the tape was the fused function's, which rounds in its own way.

    A leaf that stands for something on the tape goes on with nothing, whatever its values.
    """
    if given.grad_fn is not None:
        return link(last, given)
    if given.requires_grad or given.shape != last.shape or not last.requires_grad:
        return ""
    size, away = torch.linalg.vector_norm(last.detach()), torch.linalg.vector_norm(last.detach() - given)
    return "cut" if size > 0.0 and away <= math.sqrt(torch.finfo(last.dtype).eps) * size else ""


def _inputs(one: Recurrence, owners: dict[int, _Held], origins: Origins) -> str:
    """What the calls of a cell take in, by the values of the training."""
    calls = [owners[id(segment)] for segment in one.segments]
    values = [origins.number(tensors_in(calls[0].args[1])[0]), *(origins.number(held.made[0][0]) for held in calls)]
    return origins.inputs(values, values[1])
