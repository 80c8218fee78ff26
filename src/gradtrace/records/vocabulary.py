"""The words: one noun per concept, as enums whose values are fixed (they appear in JSON and in exit reports)."""

from __future__ import annotations

from enum import StrEnum


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
    VANISHING = "vanishing"
    EXPLODING = "exploding"
    NONFINITE = "nonfinite"
    DEAD_UNITS = "dead_units"
    SATURATED = "saturated"
    DISCONNECTED = "disconnected"
    LOSS_SATURATED = "loss_saturated"
    UNDERFLOW = "underflow"


class Cause(StrEnum):
    """Why it is so."""

    ACTIVATION_DERIVATIVE = "activation_derivative"
    SATURATED_PREACTIVATION = "saturated_preactivation"
    SMALL_WEIGHTS = "small_weights"
    LARGE_WEIGHTS = "large_weights"
    DEPTH_WITHOUT_SKIP = "depth_without_skip"
    RECURRENT_CONTRACTION = "recurrent_contraction"
    RECURRENT_EXPANSION = "recurrent_expansion"
    BATCHNORM_EXPLOSION = "batchnorm_explosion"
    RESIDUAL_GROWTH = "residual_growth"
    ATTENTION_SATURATION = "attention_saturation"
    POST_NORM = "post_norm"
    LEARNING_RATE = "learning_rate"
    INPUT_SCALE = "input_scale"
    NUMERIC_FORMAT = "numeric_format"
    DETACHED_GRAPH = "detached_graph"
    LOSS_FUNCTION = "loss_function"
    UNSAFE_OP = "unsafe_op"
    REDUCTION_SCALE = "reduction_scale"
    NONE = "none"


class Severity(StrEnum):
    """How much it matters; ordered: info < warning < critical."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for info, 1 for warning, 2 for critical."""
        return list(Severity).index(self)
