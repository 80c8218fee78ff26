"""A rank that dies, raises, lags, stops early or never comes: the others end as they would without a watch."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from tests.distributed.processes import on_ranks, values
from tests.distributed.trainings import Net, batches, told

import gradtrace
from gradtrace.runs.reader import read_run

LONG = 60.0
"""[seconds] Nobody waits as long as that for a rank that is gone."""


def train(
    rank: int, size: int, path: str, ill: str, *, wrapped: bool = True, watchers: tuple[int, ...] = (0, 1, 2, 3)
) -> Any:
    """Rank 1 falls ill in step 18, after the opening."""
    torch.manual_seed(0)
    model: Any = Net()
    if wrapped:
        model = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    is_watched = rank in watchers
    watch = gradtrace.watch(model, optimizer, path=path, budget=10.0, every=10_000) if is_watched else None
    outcome = "ended"
    begun = time.perf_counter()
    try:
        with watch if watch is not None else contextlib.nullcontext():
            for step, batch in enumerate(batches() + batches()):
                if rank == 1 and step == 18:
                    if ill == "dies":
                        os._exit(17)
                    if ill == "raises":
                        raise ArithmeticError("on rank 1")
                    if ill == "stops":
                        break
                if rank == 1 and ill == "lags":
                    time.sleep(0.05)
                if step == 30 and ill == "destroys":
                    dist.destroy_process_group()
                    break
                optimizer.zero_grad()
                model(batch).square().mean().backward()
                optimizer.step()
    except ArithmeticError:
        outcome = "raised"
    except RuntimeError as error:  # torch's own, where a rank is gone
        outcome = type(error).__name__
    run = told(watch.run) if watch is not None else None
    return {"outcome": outcome, "run": run, "seconds": time.perf_counter() - begun}


def known(run: Any) -> int:
    return int((~np.isnan(run["gradients"])).all(axis=1).sum())


def test_a_rank_dies(tmp_path):
    path = tmp_path / "run.db"
    first, second = on_ranks(train, 2, _folder(tmp_path), str(path), "dies")
    assert (first.exit_code, second.exit_code) == (0, 17)
    assert first.value["outcome"] != "ended"
    assert first.value["seconds"] < LONG
    run = read_run(path)
    assert not run.finished
    assert 16 <= run.steps.num_steps <= 19


def test_a_rank_raises(tmp_path):
    path = tmp_path / "run.db"
    first, second = on_ranks(train, 2, _folder(tmp_path), str(path), "raises")
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert second.value["outcome"] == "raised"
    assert first.value["seconds"] < LONG
    assert 16 <= read_run(path).steps.num_steps <= 19


def test_a_rank_lags(tmp_path):
    path = tmp_path / "run.db"
    first, second = values(on_ranks(train, 2, _folder(tmp_path), str(path), "lags"))
    assert (first["outcome"], second["outcome"]) == ("ended", "ended")
    (note,) = first["run"]["notes"]
    assert note.startswith("the others wait for rank 1: it takes ")
    assert known(first["run"]) == 40
    assert read_run(path).finished


def test_one_stops_before_the_others(tmp_path):
    """Trained apart, so that nobody waits in the training itself."""
    path = tmp_path / "run.db"
    first, second = values(on_ranks(_apart, 2, _folder(tmp_path), str(path), "stops"))
    assert (first["outcome"], second["outcome"]) == ("ended", "ended")
    assert max(first["seconds"], second["seconds"]) < LONG
    assert read_run(path).steps.num_steps == 40


def _apart(rank, size, path, ill):
    return train(rank, size, path, ill, wrapped=False)


def test_the_process_group_is_destroyed_under_watch(tmp_path):
    path = tmp_path / "run.db"
    first, second = values(on_ranks(train, 2, _folder(tmp_path), str(path), "destroys"))
    assert (first["outcome"], second["outcome"]) == ("ended", "ended")
    assert first["run"]["notes"] == ()
    assert read_run(path).steps.num_steps == 30


@pytest.mark.parametrize("watcher", [0, 1])
def test_only_one_rank_is_watched(watcher, tmp_path):
    """As of a script that says ``if rank == 0``; nobody waits for the others, and what is a replica is known."""
    path = tmp_path / "run.db"
    ended = values(on_ranks(_one, 2, _folder(tmp_path), str(path), watcher))
    run = ended[watcher]["run"]
    assert known(run) >= 16
    assert max(one["seconds"] for one in ended) < LONG
    assert path.exists() is (watcher == 0)


def _one(rank, size, path, watcher):
    return train(rank, size, path, "", watchers=(watcher,))


def test_the_others_write_no_file_and_one_that_goes_on_says_how_many_there_are(tmp_path):
    path = tmp_path / "run.db"
    (_, again), (_, second) = values(on_ranks(_again, 2, _folder(tmp_path), str(path)))
    assert second["run"]["notes"] == ("this is rank 1 of 2: rank 0 tells of all of them",)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ranks", "run.db"]
    assert again["run"]["notes"] == ("from step 40 on 2 ranks train together",)
    run = read_run(path)
    assert run.steps.num_steps == 80
    assert run.ranks.steps.max() >= 40 + 12


def _again(rank, size, path):
    return train(rank, size, path, ""), train(rank, size, path, "")


def _folder(tmp_path):
    (tmp_path / "ranks").mkdir()
    return tmp_path / "ranks"
