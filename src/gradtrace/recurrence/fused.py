"""The gradient through time of a real training step: its fused recurrences and cells once more, step by step.

torch runs nn.RNN, nn.LSTM and nn.GRU as one function, about whose steps the tape is silent, and a cell as a few ops of
which none is its state. What such a function was given is held, cut off its tape, and so is the gradient that reached
what it made. After the backward pass the same functions run unrolled beside the training, each from what the one before
handed on, and their backward pass takes the training's gradient wherever that came out of a call: every |L'(h_t)| is
the training's, to rounding. Nothing of the user's code runs, and no weight is touched: leaves over the same memory
stand in for them.
"""

from __future__ import annotations

import contextlib
import functools
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gradtrace.measure.untouched import fixed_random_state, paused_collection
from gradtrace.recurrence.found import link, of_segments
from gradtrace.recurrence.loops import MIN_CALLS, depends
from gradtrace.recurrence.norms import chains_of
from gradtrace.recurrence.reach import random_reach
from gradtrace.tape.dataflow import tensors_in
from gradtrace.tape.private import LEAF_SEQUENCE_NR, node_sequence_nr, version_of
from gradtrace.tape.unroll import CELLS, FUSED, Unrolled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch.autograd.graph import Node
    from torch.utils.hooks import RemovableHandle

    from gradtrace.records.time import Chain
    from gradtrace.records.trace import Site
    from gradtrace.recurrence.chain import Recurrence
    from gradtrace.recurrence.origins import Origins
    from gradtrace.tape.segment import Segment

    Key = tuple[int, int]
    """Of a tensor on the tape: the number of the op that made it, and which of the op's outputs it is."""

MOST_BYTES = 2**29
"""Of what these functions were given and what running them step by step takes: more is not looked at."""

KEPT_BY_A_STEP = 20
"""[tensors of the state's size] That the tape of an LSTM's step holds; those of others hold fewer."""

NUM_TARGETS = 2
"""Random cotangents are put half way and at the end: the horizon is measured, at the least cost."""


@dataclass(slots=True, eq=False)
class _Held:
    """One call."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    """In leaves of their own over the same memory."""
    given: dict[int, Key]
    """By the identity of such a leaf: what it stands for on the training's tape."""
    state: Key | None
    """The state that it began with, where that is on the tape."""
    site: Site
    versions: tuple[int, ...]
    random_state: Tensor | None
    """Where dropout between layers draws from it."""
    autocast: tuple[str, torch.dtype, bool]
    values: list[int]
    """The state before and after, as `Origins` numbers them."""
    made: list[Key | None] = field(default_factory=list)
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

    def keep(self, index: int, output: int, arrived: Sequence[Tensor | None]) -> None:
        """A hook in front of the op that made output `index`."""
        with contextlib.suppress(Exception):  # many backward passes at once, whose gradients are none
            gradient = arrived[output]
            if gradient is not None:
                self.gradients[index] = gradient.detach()


class FusedCalls:
    """Those of one forward pass, told by who sees its torch functions; `origins` knows where values come from."""

    def __init__(self, origins: Origins) -> None:
        self._origins = origins
        self._held: list[_Held] = []
        self._nodes: dict[int, Node] = {}
        """Of the tape, by number, once the backward pass is about to begin."""
        self._nbytes = 0

    @property
    def is_too_large(self) -> bool:
        """Whether there was more than is looked at."""
        return self._nbytes > MOST_BYTES

    def before(self, function: Callable[..., Any], args: Any, kwargs: Any, site: Site) -> _Held | None:
        """`function` is about to be called; what is returned goes to `after`."""
        is_one = function in FUSED or function in CELLS
        if not is_one or kwargs or self.is_too_large or not torch.is_grad_enabled():
            return None
        tensors = tensors_in(args)
        if any(type(tensor) not in (Tensor, nn.Parameter) for tensor in tensors):
            return None
        given: dict[int, Key] = {}
        device, states = tensors[0].device.type, tensors_in(args[1] if function in CELLS else args[_hx(args)])
        return _Held(
            function=function,
            args=_apart(args, given),
            given=given,
            state=_key(states[0]),
            site=site,
            versions=tuple(map(version_of, tensors)),
            random_state=torch.default_generator.get_state() if _draws(function, args) else None,
            autocast=(device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)),
            values=[self._origins.number(states[0])],
        )

    def after(self, held: _Held | None, result: Any) -> None:
        """It made `result`."""
        if held is None:
            return
        outputs = tensors_in(result)
        held.made = [_key(output) for output in outputs]
        held.values.append(self._origins.number(outputs[0]))
        num_layers = 1 if held.function in CELLS else outputs[1].shape[0]
        self._nbytes += KEPT_BY_A_STEP * outputs[0].nbytes * num_layers
        self._nbytes += sum(t.nbytes for t in tensors_in(held.args) if id(t) in held.given or not t.requires_grad)
        self._held.append(held)
        if self.is_too_large:
            self._let_go()

    def arm(self, nodes: Sequence[Node]) -> None:
        """The backward pass through `nodes` is about to begin: the gradients that it brings are waited for."""
        self._nodes = by_number(nodes)
        for held in self._held:
            for index, key in enumerate(held.made):
                if key is not None and key[0] in self._nodes:
                    hook = functools.partial(held.keep, index, key[1])
                    held.hooks.append(self._nodes[key[0]].register_prehook(hook))

    def close(self) -> None:
        """Let go of everything; more than once does no harm."""
        self._let_go()
        self._nbytes = 0

    def _let_go(self) -> None:
        for held in self._held:
            for handle in held.hooks:
                handle.remove()
        self._held.clear()
        self._nodes = {}

    def chains(self) -> tuple[Chain, ...]:
        """Every recurrence that gradient came to, step by step; then all is let go of."""
        try:
            is_known = all(held.is_intact for held in self._held) and any(held.gradients for held in self._held)
            return _chains(self._held, self._nodes, self._origins) if is_known else ()
        finally:
            self._let_go()


def by_number(nodes: Sequence[Node]) -> dict[int, Node]:
    """Those that have one of their own."""
    numbers = {node_sequence_nr(node): node for node in nodes}
    return {number: node for number, node in numbers.items() if number < LEAF_SEQUENCE_NR}


def _hx(args: tuple[Any, ...]) -> int:
    """Where the state stands: (packed data, batch sizes, hx, weights, ...) or (input, hx, weights, ...)."""
    return 1 if isinstance(args[3], bool) else 2


def _draws(function: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    """Whether dropout between layers is on: behind the state are weights, biases, layers, dropout, train."""
    return function not in CELLS and bool(args[_hx(args) + 4] and args[_hx(args) + 5])


def _key(tensor: Tensor) -> Key | None:
    if tensor.grad_fn is None:
        return None
    number = node_sequence_nr(tensor.grad_fn)
    return (number, tensor.output_nr) if number < LEAF_SEQUENCE_NR else None


def _apart(value: Any, given: dict[int, Key]) -> Any:
    """The same numbers in leaves over the same memory; `given` is told what each of them stands for."""
    if isinstance(value, Tensor):
        leaf = value.detach().requires_grad_(value.requires_grad)
        if (key := _key(value)) is not None:
            given[id(leaf)] = key
        return leaf
    if type(value) in (tuple, list):
        return type(value)([_apart(item, given) for item in value])
    return value


# ------------------------------------------------------------------------------------------------- once more


def _chains(calls: Sequence[_Held], nodes: Mapping[int, Node], origins: Origins) -> tuple[Chain, ...]:
    once = Unrolled(nn.Module())
    again: dict[Key, Tensor] = {}
    """What the training's calls made, made once more."""
    seeds: list[tuple[Tensor, Tensor]] = []
    links = _Links(nodes, origins)
    with contextlib.ExitStack() as stack:
        for context in (fixed_random_state(), paused_collection(), torch.enable_grad()):
            stack.enter_context(context)
        for held in calls:
            num = len(once.segments)
            outputs = _made_again(once, held, again)
            links.owners |= {id(segment): held for segment in once.segments[num:]}
            again |= {key: new for key, new in zip(held.made, outputs, strict=True) if key is not None}
            seeds += [(outputs[i], gradient) for i, gradient in held.gradients.items() if outputs[i].requires_grad]
        found = [one for one in of_segments(once.segments, links.between) if one.starts and one.num_steps >= MIN_CALLS]
        if not found or not seeds:
            return ()
        for one in found:
            if one.module_type.endswith("Cell"):
                one.inputs = links.inputs(one)
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
        # no random gradient goes through what lies between two calls
        reaches = [None if id(one) in links.open else random_reach(one, None, NUM_TARGETS, generator) for one in found]
    return tuple(replace(chain, reach=reach) for chain, reach in zip(chains, reaches, strict=True))


def _made_again(once: Unrolled, held: _Held, again: dict[Key, Tensor]) -> list[Tensor]:
    def joined(value: Any) -> Any:
        if isinstance(value, Tensor):
            key = held.given.get(id(value))
            return value if key is None else again.get(key, value)
        return type(value)(map(joined, value)) if type(value) in (tuple, list) else value

    args = joined(held.args)
    if held.random_state is not None:
        torch.set_rng_state(held.random_state)
    device, dtype, enabled = held.autocast
    autocast = torch.autocast(device, dtype, enabled=enabled)
    with autocast, once, once.within(held.site.module or "", held.site.module_type):
        return tensors_in(held.function(*args))


class _Links:
    """Which call goes on with the state of which: by the tape of what was made once more, or by the training's."""

    def __init__(self, nodes: Mapping[int, Node], origins: Origins) -> None:
        self._nodes, self._origins = nodes, origins
        self.owners: dict[int, _Held] = {}
        """By the identity of a segment."""
        self.open: set[int] = set()
        """Recurrences, by identity, between two of whose calls the state goes through the user's own ops."""

    def between(self, chain: Recurrence, segment: Segment) -> str:
        """As `link`; what is given without the tape was the fused function's, which rounds in its own way."""
        last, given = chain.states[-1].h, segment.given.h
        if given.grad_fn is not None and (how := link(last, given)):
            return how
        if given.requires_grad:
            goes_on = self._goes_on(self.owners[id(chain.segments[-1])], self.owners[id(segment)])
            if goes_on:
                self.open.add(id(chain))
            return "tape" if goes_on else ""
        if given.shape != last.shape or not last.requires_grad:
            return ""
        size, away = torch.linalg.vector_norm(last.detach()), torch.linalg.vector_norm(last.detach() - given)
        return "cut" if size > 0.0 and away <= math.sqrt(torch.finfo(last.dtype).eps) * size else ""

    def _goes_on(self, before: _Held, held: _Held) -> bool:
        """Whether the state that `held` was given was computed from what `before` made."""
        node = self._nodes.get(held.state[0]) if held.state is not None else None
        earlier = {key[0] for key in before.made if key is not None and key[0] in self._nodes}
        return node is not None and before is not held and any(depends(node, self._nodes[n]) for n in earlier)

    def inputs(self, one: Recurrence) -> str:
        """What the calls of a cell take in, by the values of the training."""
        calls = [self.owners[id(segment)] for segment in one.segments]
        values = [calls[0].values[0], *(held.values[1] for held in calls)]
        return self._origins.inputs(values, values[1])
