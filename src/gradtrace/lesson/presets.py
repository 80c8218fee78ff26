"""Which networks does the lesson measure? Those that its pictures begin with, and those behind each "try this"."""

from __future__ import annotations

from gradtrace.lesson.facts import PYTORCH_SIGMA_W, facts, three
from gradtrace.lesson.setting import RecurrentSetting, Setting, TrainingSetting

_SIGMOID, _RELU = facts("sigmoid").rule, facts("relu").rule
OFF_BY = 0.1
"""How far off the critical weight scale the "slightly wrong" networks are."""
DEEP = 100

NETWORKS: dict[str, Setting] = {
    "sigmoid": Setting("sigmoid", 20, 1.0),
    "sigmoid_pytorch": Setting("sigmoid", 20, three(PYTORCH_SIGMA_W)),
    "sigmoid_shallow": Setting("sigmoid", 5, 1.0),
    "sigmoid_naive": Setting("sigmoid", 20, three(1 / facts("sigmoid").most)),
    "sigmoid_critical": Setting("sigmoid", 20, _SIGMOID),
    "tanh": Setting("tanh", 20, 1.0),
    "tanh_pytorch": Setting("tanh", 20, three(PYTORCH_SIGMA_W)),
    "tanh_small": Setting("tanh", 20, 0.1),
    "tanh_large": Setting("tanh", 20, 10.0),
    "sigmoid_small": Setting("sigmoid", 20, 0.1),
    "sigmoid_large": Setting("sigmoid", 20, 30.0),
    "relu_pytorch": Setting("relu", 20, three(PYTORCH_SIGMA_W)),
    "relu": Setting("relu", 20, _RELU),
    "relu_one": Setting("relu", 20, 1.0),
    "gelu": Setting("gelu", 20, facts("gelu").rule),
    "gelu_one": Setting("gelu", 20, 1.0),
    "gelu_pytorch": Setting("gelu", 20, three(PYTORCH_SIGMA_W)),
    "exploding": Setting("relu", 60, 2 * _RELU),
    "exploding_slowly": Setting("relu", 60, three((1 + OFF_BY) * _RELU)),
    "exploding_linear": Setting("identity", 60, 2.0),
    "exploding_tanh": Setting("tanh", 60, 3.0),
    "deep_low": Setting("relu", DEEP, three((1 - OFF_BY) * _RELU)),
    "deep": Setting("relu", DEEP, _RELU),
    "deep_skip": Setting("relu", DEEP, _RELU, alpha=1.0),
    "deep_skip_scaled": Setting("relu", DEEP, _RELU, alpha=DEEP**-0.5),
    "deep_skip_low": Setting("relu", DEEP, three((1 - OFF_BY) * _RELU), alpha=DEEP**-0.5),
}

RECURRENT: dict[str, RecurrentSetting] = {
    "short": RecurrentSetting(10, 0.8),
    "middle": RecurrentSetting(50, 0.8),
    "long": RecurrentSetting(200, 0.8),
    "edge": RecurrentSetting(50, 1.2),
    "large": RecurrentSetting(50, 2.5),
}

TRAINING: dict[str, TrainingSetting] = {
    "sigmoid": TrainingSetting("sigmoid", sigma_w=1.0),
    "relu": TrainingSetting("relu", sigma_w=_RELU),
}

SAMENESS = ("deep", "deep_skip_scaled")
"""Networks whose outputs of different inputs are compared."""
