"""How are symptoms, causes and factors said in a sentence?"""

from __future__ import annotations

from gradtrace.records.vocabulary import Cause, Factor, Severity, Symptom

SYMPTOMS: dict[Symptom, str] = {
    Symptom.HEALTHY: "The gradient is healthy",
    Symptom.VANISHING: "The gradient vanishes",
    Symptom.EXPLODING: "The gradient explodes",
    Symptom.NONFINITE: "A number is not finite",
    Symptom.DEAD_UNITS: "Units are dead",
    Symptom.SATURATED: "Units are saturated",
    Symptom.DISCONNECTED: "Parameters do not learn",
    Symptom.LOSS_SATURATED: "The loss is flat",
    Symptom.UNDERFLOW: "Numbers are rounded away",
}

CAUSES: dict[Cause, str] = {
    Cause.ACTIVATION_DERIVATIVE: "the derivative of the activation is small",
    Cause.SATURATED_PREACTIVATION: "pre-activations lie on the flat part of the activation",
    Cause.SMALL_WEIGHTS: "the weights are too small",
    Cause.LARGE_WEIGHTS: "the weights are too large",
    Cause.DEPTH_WITHOUT_SKIP: "the stack is too deep without skip connections",
    Cause.RECURRENT_CONTRACTION: "one shrinking map is applied again and again",
    Cause.RECURRENT_EXPANSION: "one growing map is applied again and again",
    Cause.BATCHNORM_EXPLOSION: "batch norm without skip connections amplifies it layer by layer",
    Cause.RESIDUAL_GROWTH: "the residual sum grows, its branches unscaled",
    Cause.ATTENTION_SATURATION: "attention is one-hot: its logits are too large",
    Cause.POST_NORM: "layer norms stand behind the residual sums",
    Cause.LEARNING_RATE: "the steps are too large",
    Cause.INPUT_SCALE: "inputs or targets are not normalised",
    Cause.NUMERIC_FORMAT: "the number format is too small",
    Cause.DETACHED_GRAPH: "the link from the loss to them is cut",
    Cause.LOSS_FUNCTION: "the loss does not fit the output",
    Cause.UNSAFE_OP: "an op was evaluated where it is singular or overflows",
    Cause.REDUCTION_SCALE: "the loss is a sum where a mean was meant",
    Cause.NONE: "",
}

FACTORS: dict[Factor, str] = {
    Factor.ACTIVATION: "activations a'",
    Factor.WEIGHT: "weights f'",
    Factor.NORM: "norms",
    Factor.ATTENTION: "attention",
    Factor.MERGE: "merges",
    Factor.RESHAPE: "reshaping",
    Factor.LOSS: "loss",
    Factor.OTHER: "other ops",
}

SEVERITIES: dict[Severity, str] = {
    Severity.CRITICAL: "Critical",
    Severity.WARNING: "Warning",
    Severity.INFO: "Remark",
}

OF_BOTH = {(Symptom.UNDERFLOW, Cause.LEARNING_RATE): "Nothing moves: the learning rate is zero"}
"""Where the two together say something else."""
