"""What a custom function hands back, and what its forward says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DerivativeStats:
    """What a custom function's backward hands to one of its operands, held against differences of its forward."""

    function: str
    """The class of the function."""
    source: str
    """``file.py:12`` of its backward."""
    operand: str
    """What the forward calls the operand."""
    slope: float
    """How fast the forward's value grows along the gradient handed on, over what that gradient says: 1 where it is the
    derivative, below 0 where it points down."""
    cosine: float
    """Of the angle between the two."""
    off: float
    """|gradient handed on - derivative| / |derivative|, over random directions."""
