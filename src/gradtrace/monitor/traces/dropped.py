"""Calls of a step whose tape was dropped before its backward pass: an agent that plays, an evaluation in grad mode.

A step begins after the one before, and what is called until its backward pass may be thousands of games of an agent, of
which nothing is learnt. To see them all takes many times what they take. A call whose tape is gone by the next one is
no part of the pass to come, and after a few of them those with arguments of the same shapes are not looked at.
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
    """Of one step; calls are the outermost ones of watched modules.

    >>> import torch
    >>> dropped, layer, x = Dropped(), torch.nn.Linear(2, 2), torch.ones(2)
    >>> def is_one_more():
    ...     found = dropped.come(shapes_of(x))
    ...     dropped.left(shapes_of(x), layer(x))
    ...     return found
    >>> [is_one_more() for _ in range(6)]
    [False, False, False, False, True, True]
    """

    def __init__(self) -> None:
        self.has_more = False
        """Whether the latest `come` found tapes that were dropped."""
        self._num: Counter[Shapes] = Counter()
        self._latest: deque[tuple[Shapes, weakref.ref[_Tape]]] = deque(maxlen=REMEMBERED)
        self._skipped: list[weakref.ref[_Tape]] = []
        """Of calls that were not looked at, with tapes that were there at the latest `come`."""

    def come(self, shapes: Shapes) -> bool:
        """A call with arguments of such shapes begins: were the tapes of those before it dropped?"""
        gone = [call for call in self._latest if call[1]() is None]
        for call in gone:
            self._latest.remove(call)
            self._num[call[0]] += 1
        self.has_more = bool(gone)
        self._skipped = [tape for tape in self._skipped if tape() is not None]
        return self._num[shapes] >= MOST_DROPPED

    def left(self, shapes: Shapes, output: Any, *, is_seen: bool = True) -> None:
        """It returned `output`, and was looked at or not."""
        node = next((tensor.grad_fn for tensor in tensors_in(output) if tensor.grad_fn is not None), None)
        if node is None:
            return
        lives_with(node, tape := _Tape())
        if is_seen:
            self._latest.append((shapes, weakref.ref(tape)))
        else:
            self._skipped.append(weakref.ref(tape))

    @property
    def has_missed(self) -> bool:
        """Whether the tape of a call that was not looked at is still there: the pass to come may go through it."""
        return any(tape() is not None for tape in self._skipped)


class _Tape:
    """Is gone as soon as the tape is that holds it."""

    __slots__ = ("__weakref__",)


def shapes_of(arguments: Any) -> Shapes:
    """Of all tensors among them."""
    return tuple(tensor.shape for tensor in tensors_in(arguments))
