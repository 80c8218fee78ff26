"""Where do residual branches end, and how many are there? A sum of two values of which one is computed from the other.

Each branch is scaled by 1 / sqrt(N), N branches: growth (1 + 1/N)^N < e instead of 2^N.

Source: Zhang et al., Fixup initialization (2019); Hayou et al., Stable ResNet (2021); Radford et al. (2019) for GPT-2.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradtrace.audit.recording import Recording, Step

SCALED = {"linear", "conv1d", "conv2d", "conv3d", "conv_transpose2d", "multi_head_attention_forward",
          "batch_norm", "layer_norm", "group_norm", "rms_norm"}  # fmt: skip
"""What a branch can be scaled by: its last weights, or the gamma of a norm behind them."""


def branch_ends(recording: Recording) -> list[int]:
    """The step to scale of every residual branch; -1 for a branch with nothing to scale."""
    uses = Counter(id(step.argument(1, "weight")) for step in recording.steps if step.function in SCALED)
    ends = [
        _last_scaled(recording, branch)
        for step in recording.steps
        if step.function in ("add", "iadd", "radd") and len(step.inputs) == 2
        if (branch := _branch(recording, step)) is not None
    ]
    # weights that are used again and again make a recurrence, no chain of blocks
    return [end for end in ends if end < 0 or uses[id(recording.steps[end].argument(1, "weight"))] == 1]


def _branch(recording: Recording, step: Step) -> int | None:
    """Which of the two is the branch: the one made from the other, else the one with more steps since they met."""
    one, other = step.inputs
    above = [_ancestors(recording, one), _ancestors(recording, other)]
    if other in above[0]:
        return one
    if one in above[1]:
        return other
    if not above[0] & above[1]:
        return None
    return one if len(above[0] - above[1]) >= len(above[1] - above[0]) else other


def _ancestors(recording: Recording, value: int) -> set[int]:
    found, stack = set[int](), [value]
    while stack:
        producer = recording.values[stack.pop()].producer
        fresh = set(recording.steps[producer].inputs) - found if producer is not None else set()
        found |= fresh
        stack += fresh
    return found


def _last_scaled(recording: Recording, value: int) -> int:
    producer = recording.values[value].producer
    while producer is not None:
        step = recording.steps[producer]
        if step.function in SCALED:
            return producer
        if len(step.inputs) != 1:
            return -1
        producer = recording.values[step.inputs[0]].producer
    return -1
