"""The table of kinds is complete, and holds nothing that torch does not have."""

from __future__ import annotations

import pytest
import torch

from gradtrace.records.vocabulary import Factor
from gradtrace.tape.factors import LINEAR
from gradtrace.tape.kinds import KINDS, OPAQUE, base_name, factor_of

NOT_OPS = {"AccumulateGrad", "DelayedError", "Error", "NotImplemented", "UndefinedGrad", "UndefinedGradBackward"}
NOT_OURS = {"SendRpcBackward"}
NAMES = sorted(
    name for name in dir(torch._C._functions)
    if not name.startswith(("__", "Test")) and name not in NOT_OPS | NOT_OURS
)  # fmt: skip


def test_every_op_of_the_installed_torch_is_known() -> None:
    assert len(NAMES) > 500
    assert [name for name in NAMES if factor_of(name) is Factor.OTHER] == []


def test_the_table_names_no_op_that_torch_does_not_have() -> None:
    python_made = {"FlexAttentionAutogradOp"}
    assert set(KINDS) - {base_name(name) for name in NAMES} == python_made


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
