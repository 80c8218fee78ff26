"""Where does the path go through a residual sum, and what does it add?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.records.vocabulary import Factor
from gradtrace.tape.kinds import base_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.measure.path import Paths
    from gradtrace.records.trace import Op


def is_sum(op: Op) -> bool:
    """Whether an op adds two tensors (and is no matrix product with a bias)."""
    return base_name(op.name) == "Add"


def skip_share(op: Op, paths: Paths) -> float | None:
    """Where gradients meet at `op`: the share of the one that comes straight from an addition (a skip), if one does."""
    arrivals = paths.arrivals[op.index]
    if len(arrivals) < 2:
        return None
    shares = [paths.ops[i].shares[slot] for i, slot in arrivals if is_sum(paths.ops[i])]
    return max((share for share in shares if share is not None), default=None)


def branches(skips: Sequence[Op], paths: Paths) -> list[Op]:
    """What the branches begin with whose gradients join the skips' where those are summed.

    A stack of all states, of which a loss is taken, is none.
    """
    sources = [paths.ops[source] for op in skips for source, _ in paths.arrivals[op.index]]
    sources = [op for op in sources if not is_sum(op)]
    return [op for op in sources if op.factor is not Factor.RESHAPE] or sources


def is_one_map(added: Sequence[Op]) -> bool:
    """Whether all branches are one map that is applied again and again, as the steps of a differential equation are.

    Branches of their own add up like random numbers, and n of them make the sum sqrt(n) times as large; one map adds
    the like again and again, (1 + h f')^n, and wants h = 1/n.
    """
    return len(added) > 1 and bool(added[0].weights) and len({op.weights for op in added}) == 1


def after_merge(op: Op, paths: Paths) -> bool:
    """Whether a norm stands behind a residual sum: its operand is an addition of two computed values."""
    for target in op.targets[:1]:
        index = target[0] if target else None
        for _ in range(4):
            if index is None:
                return False
            below = paths.ops[index]
            ways = [t for t in below.targets if t is not None and paths.ops[t[0]].parameter is None]
            if is_sum(below) and len(ways) >= 2:
                return True
            if below.factor is not Factor.RESHAPE or len(ways) != 1:
                return False
            index = ways[0][0]
    return False
