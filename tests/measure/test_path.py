"""Critical path, budget and ledger against closed forms, on traces written out by hand."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import pytest

from gradtrace.measure.ledger import ledger
from gradtrace.measure.path import Paths, budget, critical_path
from gradtrace.records.trace import ActivationStats, Op, ParameterStats, Site, TensorStats, Trace
from gradtrace.records.vocabulary import Factor


def stats(norm: float, shape: tuple[int, ...] = (4,)) -> TensorStats:
    return TensorStats(shape, "float64", "cpu", norm, norm, 0.0)


def make_op(index, received, passed, targets, factor=Factor.WEIGHT, shares=None, module="m", **more) -> Op:
    return Op(
        index=index,
        name="Node",
        factor=factor,
        site=Site(module, "Linear"),
        received=None if received is None else stats(received),
        passed=tuple(None if norm is None else stats(norm) for norm in passed),
        targets=tuple((target, 0) if isinstance(target, int) else target for target in targets),
        shares=shares or (1.0,) * len(targets),
        **more,
    )


def make_trace(*ops: Op, parameters: tuple[ParameterStats, ...] = ()) -> Trace:
    return Trace(ops, parameters, loss=1.0)


SIGMOID = ActivationStats("sigmoid", 0.25, 0.2, 0.2, 0.0, 0.0, 4)


def sigmoid_chain(num_layers: int, a: float = 0.2, f: float = 0.5) -> Trace:
    """Loss (gain 0.1), then `num_layers` of sigmoid (gain a) and linear (gain f), the first without input grad."""
    ops, norm = [make_op(0, 1.0, [0.1], [1], Factor.LOSS, module=None)], 0.1
    parameters = []
    for layer in reversed(range(num_layers)):
        index = len(ops)
        name = f"layers.{layer}"
        ops.append(
            make_op(index, norm, [norm * a], [index + 1], Factor.ACTIVATION, module=f"{name}.act", activation=SIGMOID)
        )
        norm *= a
        below = norm * f if layer else None
        ops.append(make_op(index + 1, norm, [below, norm * 3], [index + 3 if layer else None, index + 2], module=name,
                           weights=(f"{name}.weight",)))  # fmt: skip
        ops.append(make_op(index + 2, norm * 3, [], [], parameter=f"{name}.weight", module=name))
        parameters.append(ParameterStats(f"{name}.weight", (4, 4), "float64", "cpu", 2.0, stats(norm * 3, (4, 4))))
        norm *= f
    return make_trace(*ops, parameters=tuple(parameters))


# ------------------------------------------------------------------------------------------------------------- paths


def test_a_chain_telescopes():
    trace = sigmoid_chain(3)
    steps = critical_path(trace, len(trace.ops) - 1)
    assert [step.op for step in steps] == [0, 1, 2, 4, 5, 7, 8]
    assert [step.slot for step in steps] == [0, 0, 0, 0, 0, 0, 1]
    found = budget(trace, len(trace.ops) - 1)
    assert found.start_log10 == 0.0
    assert found.of(Factor.LOSS) == pytest.approx(-1)
    assert found.of(Factor.ACTIVATION) == pytest.approx(3 * math.log10(0.2))
    assert found.of(Factor.WEIGHT) == pytest.approx(2 * math.log10(0.5) + math.log10(3))
    assert found.of(Factor.MERGE) == 0.0
    assert found.residual == pytest.approx(0, abs=1e-12)


def skip(share: float, branch: float) -> Trace:
    """An addition passes 1.0 along a skip and into a branch that gives `branch`; they meet in op 2 as 3.0."""
    return make_trace(
        make_op(0, 1.0, [1.0, 1.0], [2, 1], Factor.RESHAPE, shares=(share, 1.0)),
        make_op(1, 1.0, [branch], [2], shares=(1 - share,)),
        make_op(2, 3.0, [6.0], [3]),
        make_op(3, 6.0, [], [], parameter="w"),
    )


def test_the_larger_share_is_followed():
    assert [(step.op, step.slot) for step in critical_path(skip(0.6, 2.0), 3)] == [(0, 0), (2, 0)]
    assert [(step.op, step.slot) for step in critical_path(skip(0.4, 2.0), 3)] == [(0, 1), (1, 0), (2, 0)]


def test_a_merge_is_a_factor():
    through_skip = budget(skip(0.6, 2.0), 3)
    assert through_skip.of(Factor.MERGE) == pytest.approx(math.log10(3))
    assert through_skip.of(Factor.WEIGHT) == pytest.approx(math.log10(2))
    through_branch = budget(skip(0.4, 2.0), 3)
    assert through_branch.of(Factor.MERGE) == pytest.approx(math.log10(3 / 2))
    for found in (through_skip, through_branch):
        assert found.residual == pytest.approx(0, abs=1e-12)
        assert found.total == pytest.approx(math.log10(6))


@pytest.mark.parametrize("largest", [0, 1, 2])
def test_of_three_branches_the_largest_share_is_followed(largest):
    shares = [0.2, 0.2, 0.2]
    shares[largest] = 0.6
    trace = make_trace(
        make_op(0, 1.0, [1.0, 2.0, 3.0], [1, 1, 1], shares=tuple(shares)), make_op(1, 2.5, [], [], parameter="w")
    )
    (step,) = critical_path(trace, 1)
    assert step.slot == largest
    assert step.merge_log10 == pytest.approx(math.log10(2.5 / (largest + 1)))


def test_an_edge_without_gradient_is_no_path_and_a_missing_share_loses():
    trace = make_trace(
        make_op(0, 1.0, [None, 1.0, 5.0], [1, 1, 1], shares=(None, 0.4, None)), make_op(1, 2.0, [], [], parameter="w")
    )
    assert critical_path(trace, 1)[0].slot == 1


def test_outputs_of_one_op_are_weighed_by_their_size():
    """Shares are told among all outputs of the target."""
    trace = make_trace(
        make_op(0, 1.0, [3.0, 4.0], [(1, 0), (1, 1)], shares=(0.36, 0.64)),
        make_op(1, 5.0, [5.0], [2]),
        make_op(2, 5.0, [], [], parameter="w"),
    )
    assert [step.slot for step in critical_path(trace, 2)] == [1, 0]
    assert budget(trace, 2).of(Factor.MERGE) == pytest.approx(math.log10(5 / 4))


def test_the_start_has_no_path():
    found = budget(sigmoid_chain(2), 0)
    assert critical_path(sigmoid_chain(2), 0) == ()
    assert (found.start_log10, found.end_log10, found.decades, found.residual) == (0.0, 0.0, (), 0.0)


# -------------------------------------------------------------------------------------------- zeros and non-numbers


def chain_of(*norms: float) -> Trace:
    ops = [make_op(i, norm, [after], [i + 1]) for i, (norm, after) in enumerate(itertools.pairwise(norms))]
    return make_trace(*ops, make_op(len(ops), norms[-1], [], [], parameter="w"))


def test_a_gradient_of_zero_is_minus_infinity_once():
    found = budget(chain_of(1.0, 0.5, 0.0, 0.0), 3)
    assert [step.gain_log10 for step in critical_path(chain_of(1.0, 0.5, 0.0, 0.0), 3)[1:]] == [-math.inf, 0.0]
    assert found.end_log10 == found.total == -math.inf
    assert found.residual == 0.0


@pytest.mark.parametrize("strange", [math.nan, math.inf])
def test_decades_of_what_is_not_finite_are_nan(strange):
    steps = critical_path(chain_of(1.0, 0.5, strange, strange), 3)
    assert steps[0].gain_log10 == pytest.approx(math.log10(0.5))
    assert math.isnan(steps[1].gain_log10)
    assert math.isnan(steps[2].gain_log10)
    assert math.isnan(budget(chain_of(1.0, strange), 1).residual)


def test_the_branch_that_is_not_finite_is_the_path():
    trace = make_trace(
        make_op(0, 1.0, [9.0, math.nan], [1, 1], shares=(0.9, math.nan)), make_op(1, math.nan, [], [], parameter="w")
    )
    assert critical_path(trace, 1)[0].slot == 1


# ------------------------------------------------------------------------------------------------------------ ledger


def test_the_ledger_of_a_chain_is_the_recursion():
    rows = ledger(sigmoid_chain(3))
    assert [row.module for row in rows] == ["loss", "layers.2", "layers.1", "layers.0"]
    assert rows[0].of(Factor.LOSS) == pytest.approx(-1)
    for above, row in itertools.pairwise(rows):  # L'(l-1) = L'(l) a'(l) f'(l)
        assert row.gradient_norm == pytest.approx(above.gradient_norm * 0.2 * 0.5)
        assert row.gradient_rms == pytest.approx(row.gradient_norm / 2)
    for number, row in enumerate(rows[1:], start=1):
        assert row.function == "sigmoid"
        assert row.of(Factor.ACTIVATION) == pytest.approx(math.log10(0.2))
        assert row.bound_log10 == pytest.approx(number * math.log10(0.25))
        assert row.weight_gradient_norm == pytest.approx(row.gradient_norm * 0.2 * 3)
        assert row.relative_gradient == pytest.approx(row.weight_gradient_norm / 2)
    assert rows[1].of(Factor.WEIGHT) == pytest.approx(math.log10(0.5))
    assert rows[2].weight_product_log10 == pytest.approx(2 * math.log10(0.5))
    assert rows[3].of(Factor.WEIGHT) == 0.0  # the input needs no gradient
    assert rows[-1].product_log10 == pytest.approx(-1 + 3 * math.log10(0.2) + 2 * math.log10(0.5))


def residual_trace(num_blocks: int, share_of_branch: float) -> Trace:
    """Blocks y = x + fc(x); the sum of a block receives what skip and branch of the block above give."""
    ops, norm = [make_op(0, 1.0, [1.0], [1], Factor.LOSS, module=None)], 1.0
    for block in reversed(range(num_blocks)):
        index, name = len(ops), f"blocks.{block}"
        ops.append(make_op(index, norm, [norm, norm], [index + 2, index + 1], Factor.RESHAPE, module=name,
                           shares=(1 - share_of_branch, 1.0)))  # fmt: skip
        ops.append(make_op(index + 1, norm, [norm], [index + 2], module=f"{name}.fc", shares=(share_of_branch,),
                           weights=(f"{name}.fc.weight",)))  # fmt: skip
        norm *= 2
    ops.append(make_op(len(ops), norm, [norm], [len(ops) + 1], module="stem", weights=("stem.weight",)))
    ops.append(make_op(len(ops), norm, [], [], module="stem", parameter="stem.weight"))
    return make_trace(*ops)


def test_rows_along_skips_are_what_lies_between_two_merges():
    rows = ledger(residual_trace(3, share_of_branch=0.1))
    assert [row.module for row in rows] == ["loss", "blocks.2.fc", "blocks.1.fc", "blocks.0.fc", "stem"]
    assert rows[2].parameters == ("blocks.1.fc.weight",)
    assert rows[2].of(Factor.MERGE) == pytest.approx(math.log10(2))
    assert rows[2].of(Factor.WEIGHT) == 0.0


def test_rows_along_branches_hold_their_weights():
    rows = ledger(residual_trace(3, share_of_branch=0.9))
    assert [row.module for row in rows] == ["loss", "blocks.2.fc", "blocks.1.fc", "blocks.0.fc", "stem"]
    assert [factor for factor, _ in rows[2].gains] == [Factor.WEIGHT, Factor.MERGE, Factor.RESHAPE]
    assert rows[2].of(Factor.MERGE) == rows[2].decades == pytest.approx(math.log10(2))


def test_a_trace_without_layers_has_no_ledger():
    assert ledger(make_trace()) == ()
    assert ledger(chain_of(1.0, 0.5)) == ()


def test_the_backward_pass_may_start_at_the_only_layer():
    (row,) = ledger(make_trace(make_op(0, 2.0, [], [], weights=("w",))))
    assert (row.gains, row.gradient_norm, row.product_log10) == ((), 2.0, 0.0)


def test_a_layer_that_got_no_gradient_is_no_row():
    trace = make_trace(make_op(0, 1.0, [None], [1], Factor.LOSS), make_op(1, None, [None], [None], weights=("w",)))
    assert ledger(trace) == ()


def test_the_ledger_adds_up_to_the_budget_on_random_graphs():
    draw = random.Random(0)
    for _ in range(50):
        num_ops = draw.randint(2, 30)
        received = [draw.uniform(0.1, 2.0) for _ in range(num_ops)]
        ops = []
        for i in range(num_ops - 1):
            targets = sorted({i + 1, draw.randrange(i + 1, num_ops)})
            ops.append(make_op(i, received[i], [draw.uniform(0.1, 2.0) for _ in targets], targets,
                               draw.choice(list(Factor)), shares=tuple(draw.random() for _ in targets),
                               weights=("w",) if draw.random() < 0.3 else ()))  # fmt: skip
        ops.append(make_op(num_ops - 1, received[-1], [], [], weights=("w",)))
        trace = make_trace(*ops)
        paths = Paths(trace)
        for target in range(num_ops):
            assert paths.budget(target).residual == pytest.approx(0, abs=1e-9)
        rows = ledger(trace, paths)
        assert rows[-1].product_log10 == pytest.approx(paths.budget(rows[-1].ops[-1]).total, abs=1e-9)


def test_a_norm_in_front_of_the_sum_has_a_row_of_its_own():
    """head, final norm, then a block whose skip the path takes: the norm is no part of the block."""
    block = Site("block.fc", "Linear")
    trace = make_trace(
        make_op(0, 1.0, [0.5], [1], weights=("head.weight",), module="head"),
        make_op(1, 0.5, [0.1], [2], Factor.NORM, module="norm"),
        make_op(2, 0.1, [0.1, 0.1], [4, 3], Factor.RESHAPE, shares=(0.9, 1.0), module="block"),
        make_op(3, 0.1, [0.02], [4], shares=(0.1,), weights=("block.fc.weight",), module=block.module),
        make_op(4, 0.11, [], [], weights=("stem.weight",), module="stem"),
    )
    rows = ledger(trace)
    assert [row.module for row in rows] == ["head", "norm", "block.fc", "stem"]
    assert dict(rows[1].gains) == {Factor.NORM: pytest.approx(math.log10(0.2))}
    assert rows[1].parameters == ()
    assert Factor.NORM not in dict(rows[2].gains)
    assert rows[-1].product_log10 == pytest.approx(math.log10(0.11))
    inside = make_trace(*(replace(op, site=Site("block.fc.norm")) if op.index == 1 else op for op in trace.ops))
    assert [row.module for row in ledger(inside)] == ["head", "block.fc", "stem"]
