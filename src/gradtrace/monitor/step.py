"""What is a step of a training? What its optimizers say, the same in every loop.

A *block* is one or more backward passes and the optimizer steps that follow them; a *row* of the run is one block, or
several of different optimizers. Of any loop only two things are told here: a backward pass, and an optimizer's step.

| loop                                   | what is told               | rows                                 |
| -------------------------------------- | -------------------------- | ------------------------------------ |
| plain; several losses or roots         | b A, b A                   | A, A                                 |
| accumulation                           | b b b A, b b b A           | A, A                                 |
| no backward pass; gradients by hand    | A, A                       | A, A                                 |
| a closure, of SGD or LBFGS             | A (b b b), A (b)           | A, A                                 |
| an optimizer for each layer            | b A B C, b A B C           | ABC, ABC                             |
| some of them only, in any order        | b C B A, b A B             | CBA, AB                              |
| an optimizer within the backward pass  | b A B C, b A B C           | ABC, ABC                             |
| GAN                                    | b b A b B, b b A b B       | AB, AB                               |
| several critic steps to one            | b A b A b A b B, b A ...   | A, A, A, B at first, then A, A, AB   |
| one phase after the other              | b A b A b B b B            | A, A, B, B                           |

So: an optimizer that has stepped in the row already begins the next one, and where it is not the first of its block,
the whole block goes with it. A block of others joins the row, if what joins is as new as the row: who steps for the
first time joins those who do so, too.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Any

REMEMBERED = 8
"""[rows] Which optimizers a row usually has is known from so many."""


class Begins(Enum):
    """What an optimizer's step begins."""

    NOTHING = "it belongs to the row at hand"
    ROW = "the next row"
    ROW_OF_BLOCK = "the next row, which what stepped in the same block belongs to as well"


class Rows:
    """Counts the rows of a run.

    >>> rows = Rows(num_optimizers=1)
    >>> def row_of(key, backward=True):
    ...     if backward: rows.backward()
    ...     rows.step(key)
    ...     return rows.number
    >>> [row_of(key) for key in "ABAB"]
    [0, 0, 1, 1]
    >>> [row_of("A"), row_of("B", backward=False), row_of("B"), row_of("A", backward=False)]
    [2, 2, 3, 3]
    """

    def __init__(self, num_optimizers: int) -> None:
        self.number = 0
        """Of the row at hand."""
        self.members: set[object] = set()
        """Optimizers that have stepped in it."""
        self._block: set[object] = set()
        self._is_fresh = True
        """Whether there was a backward pass since the last step."""
        self._first: dict[object, int] = {}
        """By optimizer: the row that it first stepped in."""
        self._sizes: deque[int] = deque(maxlen=REMEMBERED)
        self.expect(num_optimizers)

    def expect(self, num_optimizers: int) -> None:
        """So many are known of; who has seen a row knows better.

        >>> rows = Rows(num_optimizers=1)
        >>> rows.expect(2)
        >>> rows.backward(); rows.step("A"), rows.is_complete
        (<Begins.NOTHING: 'it belongs to the row at hand'>, False)
        """
        if not self._first:
            self._sizes.clear()
            self._sizes.extend([num_optimizers] if num_optimizers > 1 else [])

    def backward(self) -> None:
        """There was a backward pass."""
        self._is_fresh = True

    def step(self, key: object) -> Begins:
        """The optimizer `key` steps."""
        is_fresh, self._is_fresh = self._is_fresh, False
        begins = Begins.NOTHING
        if key in self.members:
            same_block = not is_fresh and key not in self._block and self._block != self.members
            begins = Begins.ROW_OF_BLOCK if same_block else Begins.ROW
        elif self.members and is_fresh and self._is_known(key) is not any(map(self._is_known, self.members)):
            begins = Begins.ROW
        if is_fresh or begins is Begins.ROW:
            self._block = set()
        if begins is not Begins.NOTHING:
            self._begin(self._block if begins is Begins.ROW_OF_BLOCK else set())
        self._block.add(key)
        self.members.add(key)
        self._first.setdefault(key, self.number)
        return begins

    def steps(self, key: object, num: int) -> None:
        """The only optimizer there is steps so many times.

        >>> rows = Rows(num_optimizers=1)
        >>> rows.steps("A", 5); rows.steps("A", 3)
        >>> rows.number, rows.step("A"), rows.number
        (7, <Begins.ROW: 'the next row'>, 8)
        """
        self.step(key)
        self.number += num - 1

    @property
    def is_block_new(self) -> bool:
        """Whether the optimizer that has just stepped is the first of its block."""
        return len(self._block) == 1

    def close(self) -> None:
        """Whatever steps next begins a row."""
        if self.members:
            self._begin(set())
            self._block = set()

    @property
    def is_complete(self) -> bool:
        """Whether all have stepped that usually do in a row."""
        return len(self.members) >= max(self._sizes, default=1)

    @property
    def is_single(self) -> bool:
        """Whether a row has one optimizer as far as anybody knows."""
        return len(self._first) <= 1 and max(self._sizes, default=1) == 1

    @property
    def only(self) -> Any:
        """Which one that is; None: there are several, or nobody knows yet."""
        return next(iter(self._first), None) if self.is_single else None

    @property
    def expected(self) -> int:
        """The row that a backward pass begun now is likely to belong to."""
        return self.number + (self.is_complete if self.members else 0)

    def _begin(self, members: set[object]) -> None:
        self._sizes.append(len(self.members - members))
        self.number += 1
        self.members = set(members)
        for key in members:
            if self._first.get(key) == self.number - 1:
                self._first[key] = self.number

    def _is_known(self, key: object) -> bool:
        return self._first.get(key, self.number) < self.number
