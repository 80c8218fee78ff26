"""What is said of a run's steps follows from its rows, gaps and pooled rows included."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gradtrace.records.run import RunSteps, Scalar


def steps(first: list[int], count: list[int], whole: list[float], left: list[float]) -> RunSteps:
    scalars = np.full((len(first), len(Scalar)), np.nan)
    scalars[:, list(Scalar).index(Scalar.GRADIENT_NORM)] = whole
    scalars[:, list(Scalar).index(Scalar.CLIPPED_NORM)] = left
    return replace(
        RunSteps.empty(0), first=np.array(first), count=np.array(count), scalars_low=scalars, scalars_high=scalars
    )


def test_steps_between_measured_ones_count() -> None:
    assert steps([10, 14, 20], [2, 1, 4], [1.0] * 3, [1.0] * 3).num_steps == 14
    assert RunSteps.empty(2).num_steps == 0


def test_how_often_clipping_bites_and_how_hard() -> None:
    bitten = steps([0, 1, 2, 3], [1] * 4, [4.0, 10.0, 0.5, np.nan], [1.0, 1.0, 0.5, np.nan])
    frac, factor = bitten.clipping or (0.0, 0.0)
    assert frac == pytest.approx(2 / 3)
    assert factor == pytest.approx((0.25 + 0.1) / 2)
    assert steps([0, 1], [1, 1], [1.0, 2.0], [1.0, 2.0]).clipping is None
    assert RunSteps.empty(1).clipping is None
