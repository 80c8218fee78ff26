"""The words: one noun per concept, as enums whose values are fixed (they appear in JSON and in exit reports)."""

from __future__ import annotations

import sys
from enum import Enum

if sys.version_info >= (3, 11):
    from enum import StrEnum
else:

    class StrEnum(str, Enum):
        """A word and its text are one: equal, printed and formatted alike (`enum.StrEnum`, which Python 3.10 lacks)."""

        __str__ = str.__str__
        __format__ = str.__format__  # type: ignore[assignment]


class Factor(StrEnum):
    """What kind of factor an op contributes to the product L'(l-1) = L'(l) a'(l) f'(l)."""

    ACTIVATION = "activation"
    """a': an elementwise non-linearity (or softmax as a hidden unit)."""
    WEIGHT = "weight"
    """f': a map that is linear in its input: linear, convolution, embedding, recurrent cell."""
    NORM = "norm"
    """Batch, layer, group, instance or RMS normalisation."""
    ATTENTION = "attention"
    """Softmax of scores and the products around it."""
    MERGE = "merge"
    """Paths that join: the gradient of a tensor used more than once is a sum."""
    RESHAPE = "reshape"
    """Structure that moves, drops or repeats elements: views, pooling, dropout, concatenation, sums."""
    LOSS = "loss"
    """Everything between the network's output and the scalar loss."""
    OTHER = "other"
    """An op kind that the table does not know: measured and telescoped like any other, and listed in the coverage."""


class Symptom(StrEnum):
    """What is seen."""

    HEALTHY = "healthy"
    """Gradients are finite, early and late layers alike or made so by the optimizer, and training moves."""
    VANISHING = "vanishing"
    """Early layers (or time steps) get a thousandth of the late ones' gradient, or less."""
    EXPLODING = "exploding"
    """They get a thousand times as much, or more; or training diverges."""
    NONFINITE = "nonfinite"
    """A NaN or Inf in an activation, the loss, a gradient or a parameter."""
    DEAD_UNITS = "dead_units"
    """ReLU-like units that are zero on every sample, most of a layer."""
    SATURATED = "saturated"
    """Most units (rows, of a softmax) sit where the derivative is under 5 % of its maximum."""
    DISCONNECTED = "disconnected"
    """Parameters that should learn get no gradient, or no optimizer holds them."""
    LOSS_SATURATED = "loss_saturated"
    """The loss is large, yet its gradient at the network's output is next to nothing."""
    UNDERFLOW = "underflow"
    """Gradients or updates are rounded away by the number format."""


class Cause(StrEnum):
    """Why it is so."""

    ACTIVATION_DERIVATIVE = "activation_derivative"
    """An activation with a small or flat derivative (a sigmoid's is at most 0.25), not yet saturated."""
    SATURATED_PREACTIVATION = "saturated_preactivation"
    """Pre-activations on the flat part of the activation, a ReLU below zero included."""
    SMALL_WEIGHTS = "small_weights"
    """The layers' gain is too small by their scale."""
    LARGE_WEIGHTS = "large_weights"
    """The layers' gain is too large by their scale."""
    DEPTH_WITHOUT_SKIP = "depth_without_skip"
    """A plain stack too deep for its design, each gain near one but under (or over) it."""
    RECURRENT_CONTRACTION = "recurrent_contraction"
    """One shrinking map applied again and again, in time or in shared depth."""
    RECURRENT_EXPANSION = "recurrent_expansion"
    """One growing map applied again and again, in time or in shared depth."""
    BATCHNORM_EXPLOSION = "batchnorm_explosion"
    """Batch norm in a deep network without skips amplifies the gradient layer by layer."""
    RESIDUAL_GROWTH = "residual_growth"
    """A residual sum that grows, its branches neither normalised nor scaled."""
    ATTENTION_SATURATION = "attention_saturation"
    """Attention that is one-hot because its logits are too large."""
    POST_NORM = "post_norm"
    """Layer norm after the residual sum in a deep transformer."""
    LEARNING_RATE = "learning_rate"
    """Steps too large; or, in a run, none at all."""
    INPUT_SCALE = "input_scale"
    """Inputs or targets not normalised."""
    NUMERIC_FORMAT = "numeric_format"
    """Range or precision of float16, bfloat16 or float8."""
    DETACHED_GRAPH = "detached_graph"
    """The link from the loss or the optimizer to the parameters is cut: graph, registration, or optimizer."""
    LOSS_FUNCTION = "loss_function"
    """A loss that is flat, or wrong for the task or the output."""
    UNSAFE_OP = "unsafe_op"
    """log, sqrt, norm, division, acos, exp ... evaluated or differentiated where singular or overflowing."""
    REDUCTION_SCALE = "reduction_scale"
    """A sum where a mean was meant: the loss grows with the batch or the sequence."""
    NONE = "none"
    """No fault."""


class Severity(StrEnum):
    """How much it matters; ordered: info < warning < critical."""

    INFO = "info"
    """Worth knowing; the network is healthy."""
    WARNING = "warning"
    """Outside of the healthy range, or in a part of the network only: it slows training."""
    CRITICAL = "critical"
    """Clear-cut: the network, or a part that matters, does not learn."""

    @property
    def rank(self) -> int:
        """0 for info, 1 for warning, 2 for critical."""
        return list(Severity).index(self)
