"""How far is the compiled code from the uncompiled one, by the norms of the weights' gradients?"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.monitor.traces.splice import Placed
    from gradtrace.records.trace import Trace


def parting(front: Trace, calls: Sequence[Placed], *, is_random: bool) -> tuple[str, ...]:
    """What to say of it."""
    return ()
