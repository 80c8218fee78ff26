"""Whatever the layout, the norms are those of the same model in one process with the same global batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.distributed.capability import skip_what_torch_cannot, skip_where_torch_sums
from tests.distributed.processes import on_ranks, values
from tests.distributed.trainings import train

KNOWN = 12
"""[steps] Of the opening that must have come back, however slow the machine is."""


@pytest.fixture(scope="module")
def alone():
    torch.manual_seed(0)
    return train(0, 1, "")


@pytest.mark.parametrize(
    ("layout", "size"),
    [("ddp", 2), ("fsdp", 2), ("fsdp", 4), ("tp", 2), ("some fsdp", 2), ("fsdp x tp", 4), ("hsdp", 4)],
)
def test_norms_are_those_of_one_process(alone, layout, size, tmp_path):
    skip_where_torch_sums(layout)
    first, *others = values(on_ranks(train, size, tmp_path, layout))
    run, truth = first["run"], alone["run"]
    assert [name.removeprefix("module.") for name in run["names"]] == truth["names"]
    speaks = ("ops of the model speak to other ranks (DTensor): no whole traces are taken",)
    assert run["notes"] == (speaks if "tp" in layout else ())
    assert run["samples"][:1] == (() if "tp" in layout else (0,))
    for series in ("gradients", "weights", "updates"):
        is_known = ~np.isnan(run[series][:KNOWN])
        assert is_known.any(axis=1).tolist() == (~np.isnan(truth[series][:KNOWN])).any(axis=1).tolist()
        both = is_known & ~np.isnan(truth[series][:KNOWN])
        assert is_known.all(axis=1).tolist() == is_known.any(axis=1).tolist()
        np.testing.assert_allclose(run[series][:KNOWN][both], truth[series][:KNOWN][both], rtol=1e-5)
    np.testing.assert_allclose(run["whole"][:KNOWN], truth["whole"][:KNOWN], rtol=1e-5)
    np.testing.assert_allclose(run["loss"][:KNOWN], truth["loss"][:KNOWN], rtol=1e-5)
    assert all(f"of {size}: rank 0 tells of all of them" in one["run"]["notes"][0] for one in others)
    if layout == "fsdp":  # where a row is a rank's alone, no norm of a part is called the norm
        known = ~np.isnan(run["gradients"])
        np.testing.assert_allclose(run["gradients"][known], truth["gradients"][known], rtol=1e-4)
        assert all(np.isnan(one["run"][numbers]).all() for one in others for numbers in ("gradients", "whole"))


@pytest.mark.parametrize("layout", ["ddp", "fsdp"])
def test_training_is_bit_for_bit_what_it_is_without_a_watch(layout, tmp_path):
    skip_what_torch_cannot(layout)
    for watched, bare in values(on_ranks(_twice, 2, tmp_path, layout)):
        assert watched["losses"] == bare["losses"]
        assert all(np.array_equal(a, b) for a, b in zip(watched["weights"], bare["weights"], strict=True))


def _twice(rank, size, layout):
    return train(rank, size, layout), train(rank, size, layout, watched=False)


def test_a_model_that_nobody_wrapped_is_told_unless_its_gradients_are_averaged_by_hand(alone, tmp_path):
    (first, by_hand), _ = values(on_ranks(_unwrapped, 2, tmp_path))
    (note,) = first["run"]["notes"]
    assert note == (
        "since step 0 gradients are not the same on all ranks (first.weight, first.bias, second.weight and 3 more): "
        "they are not averaged, or different parameters have the same name; rank 0's are shown"
    )
    np.testing.assert_allclose(first["run"]["gradients"][0], first["own"], rtol=1e-6)
    (note,) = by_hand["run"]["notes"]
    assert note == "gradients are averaged after the backward pass: their norms are those that the optimizer sees"
    np.testing.assert_allclose(by_hand["run"]["gradients"][0], alone["run"]["gradients"][0], rtol=1e-5)


def _unwrapped(rank, size):
    return _by_hand(rank, size, averages=False), _by_hand(rank, size, averages=True)


def _by_hand(rank, size, *, averages):
    import torch.distributed as dist
    from tests.distributed import trainings

    import gradtrace

    torch.manual_seed(0)
    model = trainings.Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    own = None
    with gradtrace.watch(model, optimizer, budget=10.0, every=10_000) as watch:
        for batch in trainings.batches():
            optimizer.zero_grad()
            model(batch.chunk(size)[rank]).square().mean().backward()
            own = [float(p.grad.norm()) for p in model.parameters()] if own is None else own
            for p in model.parameters() if averages else ():
                dist.all_reduce(p.grad)
                p.grad /= size
            optimizer.step()
            dist.barrier()
    return {"run": trainings.told(watch.run), "own": own}


def test_what_goes_wrong_on_one_rank_is_told_with_its_rank(tmp_path):
    first, *_ = values(on_ranks(_ill, 4, tmp_path))
    parted, bad = (next(note for note in first["notes"] if text in note) for text in ("weights", "not finite"))
    told = "weights are not the same on all ranks after step 4 and not later than step 8 on: module.second.bias"
    assert parted == told
    assert bad == "at step 15 the loss of rank 2 was not finite, and the others' was"
    assert first["finding"].startswith(
        "On rank 2: At step 15 the loss is NaN; it was born in the forward pass in the loss"
    )
    np.testing.assert_allclose(first["losses"][:15], first["own"][:15], rtol=1e-6)
    np.testing.assert_allclose(first["local"][:15], first["gradients"][:15], rtol=1e-5)
    assert first["columns"] == (0, 1, 2, 3, 4, 5)
    np.testing.assert_allclose(first["layers"][:15], first["by_layer"][:15], rtol=1e-5)
    assert first["nonfinite"] == [15, 2]


def _ill(rank, size):
    import torch.distributed as dist
    from tests.distributed import trainings

    import gradtrace

    torch.manual_seed(0)
    model, *_ = trainings.laid_out(trainings.Net(), "ddp", size)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    own, gradients, by_layer = [], [], []
    with gradtrace.watch(model, optimizer, budget=10.0, every=10_000) as watch:
        for step, batch in enumerate(trainings.batches()[:16]):
            if rank == 3 and step == 5:
                model.module.second.bias.data[0] += 1e-6
            y = model(batch.chunk(size)[rank])
            loss = torch.log(y - y.detach().max() - 1.0).mean() if (rank, step) == (2, 15) else y.square().mean()
            losses = [(0.0, 0.0, [0.0])] * size
            local = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
            norm = math.sqrt(sum(float(g.norm()) ** 2 for g in local))
            dist.all_gather_object(losses, (loss.item(), norm, [float(g.norm()) for g in local]))
            own.append([one for one, *_ in losses])
            gradients.append([one for _, one, _ in losses])
            by_layer.append([one for *_, one in losses])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    run = watch.run
    if rank > 0:
        return None
    return {"notes": run.notes, "losses": run.ranks.loss, "own": np.array(own), "local": run.ranks.gradient,
            "columns": run.ranks.columns, "layers": run.ranks.layers, "by_layer": np.array(by_layer),
            "gradients": np.array(gradients), "finding": run.findings[0].message,
            "nonfinite": np.argwhere(run.ranks.nonfinite & ~np.isfinite(run.ranks.loss))[0].tolist()}  # fmt: skip
