"""All ranks measure at the same steps, whoever is slow, or a watch on one rank would make all of them wait."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from tests.distributed.capability import skip_what_torch_cannot
from tests.distributed.processes import on_ranks, values
from tests.distributed.trainings import Net, laid_out

import gradtrace
from gradtrace.distributed.agreement import OPENING


def _measured(rank, size, budget, pause_s, num):
    torch.manual_seed(0)
    model, *_ = laid_out(Net(), "fsdp", size)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with gradtrace.watch(model, optimizer, budget=budget) as watch:
        for _ in range(num):
            optimizer.zero_grad()
            model(torch.randn(4, 5)).square().mean().backward()
            optimizer.step()
            time.sleep(pause_s * (rank == 1))
        measured = watch._training._rooms.schedule.cost.rows
    steps = watch.run.steps
    known = steps.first[(~np.isnan(steps.series("gradient_norm")[1])).all(axis=1)].tolist()
    reported = watch.run.ranks.steps.tolist() if watch.run.ranks is not None else []
    return {level.name: rows for level, rows in measured.items()} | {"known": known, "reported": reported}


@pytest.mark.long
def test_ranks_measure_at_the_same_steps_as_the_budget_allows(tmp_path):
    skip_what_torch_cannot("fsdp")
    first, second = values(on_ranks(_measured, 2, tmp_path, 0.02, 0.003, 200))
    assert first["known"] == first["reported"]
    assert first["known"][:OPENING] == list(range(OPENING))
    assert len(first["known"]) > OPENING
    assert second["known"] == second["reported"] == []
    assert 0 <= first["MEASURE"] - len(first["known"]) <= 0.1 * first["MEASURE"] + 2
    assert abs(first["MEASURE"] - second["MEASURE"]) <= 2


def test_every_step_is_reported_where_the_budget_is_large(tmp_path):
    skip_what_torch_cannot("fsdp")
    first, _ = values(on_ranks(_measured, 2, tmp_path, 1.0, 0.02, 120))
    missing = set(range(120)) - set(first["reported"])
    assert len(missing) <= 12  # while the second stretch is being agreed on
    assert not any(step > 60 for step in missing)
