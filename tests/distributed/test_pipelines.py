"""Stages of a pipeline are one run, with the norms and the loss of the whole, whoever runs the schedule."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
from tests.distributed.processes import on_ranks, values
from tests.distributed.trainings import batches, told
from torch import nn

import gradtrace

KNOWN = 12
"""[steps] Of the opening that must have come back, however slow the machine is."""

NUM_MICROBATCHES = 4


def whole_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2))


def loss_of(y, target):
    return (y - target).square().mean()


def test_stages_of_a_pipeline_are_one_run(tmp_path):
    truth = _in_one_process()
    (by_hand, scheduled, trace), _ = values(on_ranks(_stage, 2, tmp_path))
    assert by_hand["notes"] == ()
    if trace is None:  # torch 2.15 keeps a stage's output no longer than it is sent
        (note,) = scheduled["notes"]
        assert "began at an edge of the tape" in note
    else:
        assert scheduled["notes"] == ()
        assert any("began at 12 numbers with a gradient that was given to it" in note for note in trace.coverage.notes)
    for run in (by_hand, scheduled):
        assert run["names"] == ["0.weight", "0.bias", "2.weight", "2.bias"]
        for numbers in ("gradients", "weights", "updates", "whole", "loss"):
            known = ~np.isnan(run[numbers][:KNOWN])
            assert known.any()
            np.testing.assert_allclose(run[numbers][:KNOWN][known], truth[numbers][:KNOWN][known], rtol=1e-5)
        assert (~np.isnan(run["gradients"][:KNOWN])).all()


def _in_one_process():
    model = whole_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradtrace.watch(model, optimizer, budget=10.0, every=10_000) as watch:
        for batch in batches():
            optimizer.zero_grad()
            loss_of(model(batch), torch.zeros(len(batch), 2)).backward()
            optimizer.step()
    return told(watch.run)


def _stage(rank, size):
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B

    by_hand, _ = _trained(rank, lambda stage, batch: _both_passes(rank, stage, batch))
    pipeline = None

    def step(stage, batch):
        nonlocal pipeline
        if pipeline is None:  # imported by the script, but used only after the watch has begun
            made = PipelineStage(stage, rank, size, torch.device("cpu"))
            pipeline = Schedule1F1B(made, NUM_MICROBATCHES, loss_fn=loss_of)
        pipeline.step(*([batch] if rank == 0 else []), **({} if rank == 0 else {"target": torch.zeros(len(batch), 2)}))

    scheduled, trace = _trained(rank, step)
    return by_hand, scheduled, trace


def _trained(rank, step):
    whole, stage = whole_model(), nn.Sequential()
    for name in ("0", "1") if rank == 0 else ("2",):
        stage.add_module(name, whole.get_submodule(name))
    optimizer = torch.optim.SGD(stage.parameters(), lr=0.1)
    with gradtrace.watch(stage, optimizer, budget=10.0, every=10_000) as watch:
        for batch in batches():
            optimizer.zero_grad()
            step(stage, batch)
            optimizer.step()
    return told(watch.run), next(iter(watch.traces), None)


def _both_passes(rank, stage, batch):
    if rank == 0:
        h = stage(batch)
        dist.send(h.detach(), 1)
        gradient = torch.empty_like(h)
        dist.recv(gradient, 1)
        h.backward(gradient)
    else:
        h = torch.empty(len(batch), 6)
        dist.recv(h, 0)
        h.requires_grad_()
        loss_of(stage(h), torch.zeros(len(batch), 2)).backward()
        dist.send(h.grad, 0)
