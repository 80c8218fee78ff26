"""Stages of a pipeline are one run, with the norms and the loss of the whole, whoever runs the schedule."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.distributed as dist
from tests.distributed.capability import skip_where_pipelines_hang
from tests.distributed.processes import on_ranks, values
from tests.distributed.trainings import batches, told
from torch import nn

import gradtrace
from gradtrace.distributed.traces.stitch import NOTE
from gradtrace.measure.ledger import ledger
from gradtrace.measure.path import Paths

KNOWN = 12
"""[steps] Of the opening that must have come back, however slow the machine is."""

NUM_MICROBATCHES = 4


def whole_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2))


def loss_of(y, target):
    return (y - target).square().mean()


def test_stages_of_a_pipeline_are_one_run(tmp_path):
    skip_where_pipelines_hang()
    truth = _in_one_process()
    (by_hand, scheduled, trace, trace_by_hand), _ = values(on_ranks(_stage, 2, tmp_path))
    _leads_through_all_stages(trace_by_hand)
    assert by_hand["notes"] == ()
    if trace is None:  # torch 2.15 keeps a stage's output no longer than it is sent
        (note,) = scheduled["notes"]
        assert "began at an edge of the tape" in note
    else:
        assert scheduled["notes"] == ()
        _leads_through_all_stages(trace)
    for run in (by_hand, scheduled):
        assert run["names"] == ["0.weight", "0.bias", "2.weight", "2.bias"]
        for numbers in ("gradients", "weights", "updates", "whole", "loss"):
            known = ~np.isnan(run[numbers][:KNOWN])
            assert known.any()
            np.testing.assert_allclose(run[numbers][:KNOWN][known], truth[numbers][:KNOWN][known], rtol=1e-5)
        assert (~np.isnan(run["gradients"][:KNOWN])).all()


def _leads_through_all_stages(trace):
    """From the loss to the first layer, though each rank traced its own stage."""
    assert NOTE in trace.coverage.notes
    assert [p.name for p in trace.parameters] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    paths = Paths(trace)
    target = next(op.index for op in trace.ops if op.parameter == "0.weight")
    sites = [trace.ops[step.op].site.module for step in paths.path(target)]
    assert trace.ops[0].received.numel == 1
    assert "1" in sites
    assert any("2.weight" in trace.ops[step.op].weights for step in paths.path(target))
    assert abs(paths.budget(target).residual) < 1e-6


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

    by_hand, trace_by_hand = _trained(rank, lambda stage, batch: _both_passes(rank, stage, batch))
    pipeline = None

    def step(stage, batch):
        nonlocal pipeline
        if pipeline is None:  # imported by the script, but used only after the watch has begun
            made = PipelineStage(stage, rank, size, torch.device("cpu"))
            pipeline = Schedule1F1B(made, NUM_MICROBATCHES, loss_fn=loss_of)
        pipeline.step(*([batch] if rank == 0 else []), **({} if rank == 0 else {"target": torch.zeros(len(batch), 2)}))

    scheduled, trace = _trained(rank, step)
    return by_hand, scheduled, trace, trace_by_hand


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


def test_four_stages_are_joined_into_what_one_process_sees(tmp_path):
    trace = values(on_ranks(_one_of_four, 4, tmp_path))[0]
    assert NOTE in trace.coverage.notes
    truth = gradtrace.trace(_deep(), lambda model, x: loss_of(model(x), torch.zeros(len(x), 6)), _batch())
    for ours, theirs in zip(ledger(trace), ledger(truth), strict=True):
        assert ours.parameters == theirs.parameters
        assert ours.decades == pytest.approx(theirs.decades, abs=1e-5)
        assert ours.weight_gradient_norm == pytest.approx(theirs.weight_gradient_norm, rel=1e-5, nan_ok=True)
    assert len(ledger(trace)) >= 4


def _deep() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(part for _ in range(4) for part in (nn.Linear(6, 6), nn.Sigmoid())))


def _batch() -> torch.Tensor:
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(2))


def _one_of_four(rank, size):
    whole, stage = _deep(), nn.Sequential()
    for name in (2 * rank, 2 * rank + 1):
        stage.add_module(str(name), whole[name])
    optimizer = torch.optim.SGD(stage.parameters(), lr=0.1)
    with gradtrace.watch(stage, optimizer, budget=10.0, every=10_000) as watch:
        for _ in range(3):
            optimizer.zero_grad()
            x = _batch()
            if rank > 0:
                dist.recv(x, rank - 1)
                x.requires_grad_()
            y = stage(x)
            if rank < size - 1:
                dist.send(y.detach(), rank + 1)
                gradient = torch.empty_like(y)
                dist.recv(gradient, rank + 1)
                y.backward(gradient)
            else:
                loss_of(y, torch.zeros(len(y), 6)).backward()
            if rank > 0:
                dist.send(x.grad, rank - 1)
            optimizer.step()
    return next(iter(watch.traces), None)
