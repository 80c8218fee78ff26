"""Who stands apart is told, once; who is like the others is not."""

from __future__ import annotations

import numpy as np
import pytest

from gradtrace.distributed.apart import FEWEST_RANKS, LATEST, Apart, odd_one
from gradtrace.distributed.bits import bit_sums
from gradtrace.distributed.report.merged import Merged

NAMES = ("a", "b", "c", "d", "e")


def report(**known) -> Merged:
    whole = np.ones(5, np.float32)
    same = np.zeros(5, bool)
    vectors = dict.fromkeys(("gradients", "clipped", "weights", "moved"), whole)
    flags = {"is_complete": True, "differ": same, "late": same, "parted": same, "summed": False}
    usual = vectors | flags | {"loss": 1.0, "num_bad": 0, "decision": None, "slots": None}
    return Merged(**(usual | known))


def slots(losses, times=None, bad=None, gradients=None):
    zeros = np.zeros(len(losses))
    known = [losses, zeros + 1.0 if times is None else times, zeros if bad is None else bad]
    return np.stack([*known, zeros + 1.0 if gradients is None else gradients], axis=1)


def sentences(reports):
    apart = Apart()
    return [text for step, one in enumerate(reports) for text in apart.look(step, one, NAMES)]


@pytest.mark.parametrize("num_ranks", [2, 4, 16])
def test_ranks_that_are_alike_are_not_told_apart(num_ranks):
    generator = np.random.default_rng(0)
    reports = [
        report(slots=slots(*generator.lognormal(0, 1, (2, num_ranks)), None, generator.lognormal(0, 1, num_ranks)))
        for _ in range(20 * LATEST)
    ]
    assert sentences(reports) == []


def test_a_rank_with_other_data_is_told_once():
    generator = np.random.default_rng(0)
    reports = []
    for _ in range(4 * LATEST):
        losses = generator.normal(1.0, 0.05, 8)
        losses[5] += 1.0
        reports.append(report(slots=slots(losses)))
    (told,) = sentences(reports)
    assert told.startswith("the loss of rank 5 stands apart: 2")


def test_a_rank_with_another_gradient_is_told_once():
    generator = np.random.default_rng(0)
    reports = []
    for _ in range(4 * LATEST):
        gradients = generator.normal(1.0, 0.05, 8)
        gradients[2] *= 0.1
        reports.append(report(slots=slots(np.ones(8) + generator.normal(0, 0.01, 8), gradients=gradients)))
    (told,) = sentences(reports)
    assert told.startswith("the gradient of rank 2 before it is averaged stands apart: 0.1")


def test_one_loss_and_one_gradient_on_all_ranks_stand_nowhere():
    """As under tensor parallelism: the last bits may be different, and always the same rank's."""
    one = np.array([1.0 + 1e-7] + [1.0] * 7)
    reports = [report(slots=slots(one, gradients=one))] * (2 * LATEST)
    assert sentences(reports) == []


def test_of_three_nobody_is_the_odd_one():
    reports = [report(slots=slots(np.array([1.0, 1.1, 9.0]))) for _ in range(2 * LATEST)]
    assert FEWEST_RANKS == 4
    assert sentences(reports) == []


@pytest.mark.parametrize(("factor", "is_told"), [(1.3, False), (10.0, True)])
def test_a_slow_rank_is_told(factor, is_told):
    generator = np.random.default_rng(0)
    reports = []
    for _ in range(2 * LATEST):
        times = generator.normal(1.0, 0.02, 2)
        times[1] *= factor
        reports.append(report(slots=slots(np.ones(2), times)))
    told = sentences(reports)
    assert len(told) == is_told
    assert all("the others wait for rank 1: it takes 1" in one for one in told)


def test_a_rank_whose_loss_is_no_number_is_told():
    bad = report(num_bad=1, slots=slots(np.array([1.0, np.nan]), bad=np.array([0.0, 1.0])))
    assert sentences([report(slots=slots(np.ones(2))), bad, bad]) == [
        "at step 1 the loss of rank 1 was not finite, and the others' was"
    ]
    all_bad = report(num_bad=2, slots=slots(np.array([np.nan, np.nan]), bad=np.ones(2)))
    assert sentences([all_bad]) == []


def test_weights_that_have_parted_are_told_with_the_steps_between():
    parted = np.array([False, True, False, False, False])
    reports = [report(summed=True), report(), report(summed=True), report(), report(summed=True, parted=parted)]
    assert sentences([*reports, reports[-1]]) == [
        "weights are not the same on all ranks after step 2 and not later than step 4 on: b"
    ]


def test_buffers_that_are_not_the_same_are_told_by_name():
    parted = np.array([False, True])
    reports = [report(summed=True), report(summed=True, parted_buffers=parted)]
    told = [text for step, one in enumerate(reports) for text in Apart().look(step, one, NAMES, ("mask", "table"))]
    assert told == ["buffers are not the same on all ranks from step 1 on: table"]


def test_weights_of_what_is_trained_apart_are_no_news():
    all_differ = np.ones(5, bool)
    told = sentences([report(differ=all_differ), report(summed=True, parted=all_differ, differ=all_differ)])
    assert len(told) == 1
    assert told[0].startswith("since step 0 gradients are not the same on all ranks (a, b, c and 2 more): they are not")


def test_the_odd_one_may_be_the_smallest():
    values = np.array([[1.0, 2.0, 2.1, 1.9]] * 40)
    found = odd_one(values)
    assert found is not None
    assert found.rank == 0


def test_a_sum_of_bits_sees_what_a_norm_does_not():
    import torch

    a = torch.randn(100)
    b = a.clone()
    b[3] = -b[3]
    assert float(a.norm()) == float(b.norm())
    assert bit_sums([a])[0] != bit_sums([b])[0]
    assert bit_sums([a])[0] == bit_sums([a.flip(0)])[0]
    kinds = [torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.float8_e4m3fn]
    found = bit_sums([torch.ones(3, dtype=kind) for kind in kinds])
    assert torch.isfinite(found).all()
    assert torch.isnan(bit_sums([torch.ones(2).to_sparse(), None])).all()
    assert bit_sums([]).shape == (0,)
