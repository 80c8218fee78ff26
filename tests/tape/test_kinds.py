"""The table of kinds is complete, and holds nothing that torch does not have."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from gradtrace.records.vocabulary import Factor
from gradtrace.tape.derivatives import activation_of
from gradtrace.tape.factors import LINEAR
from gradtrace.tape.kinds import KINDS, OPAQUE, base_name, factor_of
from gradtrace.tape.private import NEWEST_TRIED

NOT_OPS = {"AccumulateGrad", "DelayedError", "Error", "NotImplemented", "UndefinedGrad", "UndefinedGradBackward"}
NOT_OURS = {"SendRpcBackward"}
NO_ACTIVATIONS = set(
    "Tensor alpha_dropout dropout dropout1d dropout2d dropout3d feature_alpha_dropout gumbel_softmax instance_norm "
    "normalize".split()
)
NAMES = sorted(
    name for name in dir(torch._C._functions)
    if not name.startswith(("__", "Test")) and name not in NOT_OPS | NOT_OURS
)  # fmt: skip


PYTHON_MADE = {"FlexAttentionAutogradOp", "RegisterPostBackwardFunction"}
NOT_IN_EVERY_TORCH = set(
    "Aminmax Cholesky CudnnAttention FusedRmsNorm GroupedMm Ldexp LinalgLuFactor LinalgMatrixSqrth LinalgPolar "
    "MiopenCtcLoss NarrowCopy SpecialBesselJ0 SpecialBesselJ1 SpecialBesselY0 SpecialBesselY1 SpecialModifiedBesselI0 "
    "SpecialModifiedBesselI1 SpecialModifiedBesselK0 SpecialModifiedBesselK1 UpsampleLanczos2DAa".split()
)
"""Ops that one of the versions that were tried has and another has not."""


def is_newer_than_any_tried() -> bool:
    return tuple(map(int, torch.__version__.split(".")[:2])) > NEWEST_TRIED


def test_every_op_of_the_installed_torch_is_known() -> None:
    assert len(NAMES) > 500
    new = [name for name in NAMES if factor_of(name) is Factor.OTHER]
    if new and is_newer_than_any_tried():  # users lose nothing: such an op is measured, and named in the coverage
        pytest.skip(f"NEW IN TORCH {torch.__version__}, to be filed under their factor: {', '.join(new)}")
    assert new == []


def test_the_table_names_no_op_that_torch_does_not_have() -> None:
    gone = set(KINDS) - {base_name(name) for name in NAMES} - PYTHON_MADE - NOT_IN_EVERY_TORCH
    if gone and is_newer_than_any_tried():
        pytest.skip(f"GONE FROM TORCH {torch.__version__}: {', '.join(sorted(gone))}")
    assert gone == set()
    assert set(KINDS) >= NOT_IN_EVERY_TORCH


def test_every_activation_of_the_installed_torch_is_known() -> None:
    """Elementwise functions of torch.nn.functional that keep a shape and bend: each has its derivative in the table."""
    x, new = torch.linspace(-2.0, 2.0, 24).view(4, 6).requires_grad_(), []
    for name in sorted(dir(F)):
        function = getattr(F, name)
        if name.startswith("_") or not callable(function) or name in NO_ACTIVATIONS or name.endswith("_"):
            continue
        try:
            y = function(x)
        except Exception:  # needs more than one operand: no activation
            continue
        bends = isinstance(y, torch.Tensor) and y.shape == x.shape and y.requires_grad
        if bends and activation_of(function, (x,), {}) is None:
            new.append(name)
    if new and is_newer_than_any_tried():
        pytest.skip(f"NEW IN TORCH {torch.__version__}, without a derivative in the table: {', '.join(new)}")
    assert new == []


def test_every_layer_is_in_the_table() -> None:
    assert {factor_of(f"{name}Backward0") for name in LINEAR} == {Factor.WEIGHT}


@pytest.mark.parametrize(
    ("node", "name", "factor"),
    [
        ("torch::autograd::CopySlices", "CopySlices", Factor.RESHAPE),
        ("SqueezeBackwardAutogradNestedTensor1", "Squeeze", Factor.RESHAPE),
        ("ViewBackward0_copy", "View", Factor.RESHAPE),
        ("ConvolutionBackwardBackward0", "ConvolutionBackward", Factor.WEIGHT),
        ("SoftmaxBackwardDataBackward0", "SoftmaxBackwardData", Factor.ACTIVATION),
        ("NativeLayerNormBackwardBackward0", "NativeLayerNormBackward", Factor.NORM),
        ("ForeachTanhBackward0", "ForeachTanh", Factor.ACTIVATION),
        ("ReluBackward", "ReluBackward", Factor.ACTIVATION),
        ("MyOpBackward", "MyOp", Factor.OTHER),
        ("Block2Backward", "Block2", Factor.OTHER),
    ],
)
def test_names(node: str, name: str, factor: Factor) -> None:
    assert base_name(node) == name
    assert factor_of(node) is factor


def test_a_custom_function_named_like_an_op_is_not_read_as_one() -> None:
    assert not {base_name("MkldnnRnnLayerBackward")} & set(OPAQUE)
