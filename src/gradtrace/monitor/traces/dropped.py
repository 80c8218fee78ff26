"""Calls of a step whose tape was dropped before its backward pass: an agent that plays, an evaluation in grad mode.

A step begins after the one before, and what is called until its backward pass may be thousands of games of an agent, of
which nothing is learnt. To look at them all takes many times what they take. A call whose tape is gone by the next one
is no part of the pass to come, and after a few of them those with arguments of the same shapes are passed by: they are
neither recorded nor held.
"""

from __future__ import annotations

import weakref
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from gradtrace.tape.dataflow import tensors_in
from gradtrace.tape.private import lives_with

if TYPE_CHECKING:
    from torch import Size

Shapes = tuple["Size", ...]

MOST_DROPPED = 4
"""[calls] Of the same shapes, that are looked at: a candidate or two may be tried for each step, and thrown away."""

REMEMBERED = 8
"""[calls] The latest: an agent's move may take calls of several modules."""


class Dropped:
    """Since the latest backward pass; calls are the outermost ones of watched modules.

    >>> import torch
    >>> dropped, layer, x = Dropped(), torch.nn.Linear(2, 2), torch.ones(2)
    >>> def is_passed_by():
    ...     dropped.come(x)
    ...     dropped.left(layer(x))
    ...     return dropped.passes_by
    >>> [is_passed_by() for _ in range(6)]
    [False, False, False, False, True, True]
    >>> dropped.pass_ended()
    >>> is_passed_by()
    False
    """

    def __init__(self) -> None:
        self.passes_by = False
        """Whether the latest call is like those before it that were dropped."""
        self.has_more = False
        """Whether tapes were dropped since the latest call but one that was not passed by."""
        self._num_calls = 0
        self._shapes: Shapes | None = None
        """Of the arguments of the latest call; None: it does not count."""
        self._num: Counter[Shapes] = Counter()
        self._latest: deque[tuple[Shapes, weakref.ref[_Tape]]] = deque(maxlen=REMEMBERED)
        self._skipped: list[weakref.ref[_Tape]] = []
        """Of calls that were passed by, with tapes that were there at the latest `come`."""

    def come(self, arguments: Any, *, counts: bool = True) -> None:
        """A call begins; where `counts` is false, the first few do not: most steps have no more of them."""
        self._num_calls += 1
        had_more = self.passes_by and self.has_more
        self.passes_by = self.has_more = False
        self._shapes = shapes_of(arguments) if counts or self._num_calls > MOST_DROPPED else None
        if self._shapes is None:
            return
        gone = [call for call in self._latest if call[1]() is None]
        for call in gone:
            self._latest.remove(call)
            self._num[call[0]] += 1
        self.has_more = had_more or bool(gone)
        self._skipped = [tape for tape in self._skipped if tape() is not None]
        self.passes_by = self._num[self._shapes] >= MOST_DROPPED

    def left(self, output: Any) -> None:
        """It returned `output`."""
        if self._shapes is None:
            return
        node = next((tensor.grad_fn for tensor in tensors_in(output) if tensor.grad_fn is not None), None)
        if node is None:
            return
        lives_with(node, tape := _Tape())
        if self.passes_by:
            self._skipped.append(weakref.ref(tape))
        else:
            self._latest.append((self._shapes, weakref.ref(tape)))

    def pass_ended(self) -> None:
        """What is called from now on is of another pass."""
        self._num_calls, self._shapes = 0, None
        self.passes_by = self.has_more = False
        self._num.clear()
        self._latest.clear()

    @property
    def has_missed(self) -> bool:
        """Whether the pass to come may go through what was passed by, or through ops after that."""
        return self.passes_by or any(tape() is not None for tape in self._skipped)


class _Tape:
    """Is gone as soon as the tape is that holds it."""

    __slots__ = ("__weakref__",)


def shapes_of(arguments: Any) -> Shapes:
    """Of all tensors among them."""
    return tuple(tensor.shape for tensor in tensors_in(arguments))
