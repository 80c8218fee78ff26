"""Stages of a pipeline, traced one by one and joined, are the trace of the whole."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gradtrace
from gradtrace.distributed.traces.stitch import NOTE, stitched
from gradtrace.measure.ledger import ledger
from gradtrace.measure.path import Paths
from gradtrace.records.storage import pack, unpack

CUTS = ((0, 2), (2, 5), (5, 7))


class Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x):
        return x + torch.relu(self.inner(x))


def whole_model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 6), nn.Tanh(), Skip(), nn.Linear(6, 6), nn.Sigmoid(), nn.LayerNorm(6), nn.Linear(6, 2)
    )


def stages():
    """Each under the names of the whole, with its optimizer."""
    whole = whole_model()
    found = []
    for first, last in CUTS:
        stage = nn.Sequential()
        for place in range(first, last):
            stage.add_module(str(place), whole[place])
        found.append(stage)
    return found


def traced_apart():
    """One step, stage by stage, each under a watch of its own."""
    models = stages()
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    watches = [
        gradtrace.watch(model, optimizer, budget=10.0, every=1000).start()
        for model, optimizer in zip(models, optimizers, strict=True)
    ]
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(1))
    given, made = [], []
    for model in models:
        given.append(x)
        made.append(model(x))
        x = made[-1].detach().requires_grad_()
    loss = made[-1].square().mean()
    loss.backward()
    for place in (1, 0):
        made[place].backward(given[place + 1].grad)
    for optimizer in optimizers:
        optimizer.step()
    for watch in watches:
        watch.close()
    return [watch.traces[0] for watch in watches]


def truth():
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(1))
    return gradtrace.trace(whole_model(), lambda model, x: model(x).square().mean(), x)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_joined_stages_are_the_whole(order, tmp_path):
    apart = traced_apart()
    found, whole = stitched([apart[i] for i in order]), truth()
    assert found is not None
    assert found.loss == pytest.approx(whole.loss)
    assert [p.name for p in found.parameters] == [p.name for p in whole.parameters]
    assert sorted(op.name for op in found.ops) == sorted(op.name for op in whole.ops)
    for ours, theirs in zip(ledger(found), ledger(whole), strict=True):
        assert (ours.module, ours.parameters) == (theirs.module, theirs.parameters)
        assert ours.decades == pytest.approx(theirs.decades, abs=1e-5)
        assert ours.product_log10 == pytest.approx(theirs.product_log10, abs=1e-5)
    assert NOTE in found.coverage.notes
    assert not any("a stage of a pipeline?" in note for note in found.coverage.notes)
    assert unpack(pack(found), tmp_path / "trace.json.gz") == found  # of consistent places


def test_the_way_leads_from_the_loss_to_the_first_layer_and_adds_up():
    found = stitched(traced_apart())
    assert found is not None
    paths = Paths(found)
    target = next(op.index for op in found.ops if op.parameter == "0.weight")
    modules = {found.ops[step.op].site.module for step in paths.path(target)}
    assert {"2", "4", "5"} <= modules
    assert paths.path(target)[0].op == 0
    for op in found.ops:
        assert abs(paths.budget(op.index).residual) < 1e-6
    sequences = [op.sequence for op in found.ops if op.weights]
    assert len(set(sequences)) == len(sequences)
    by_forward = [op.weights[0].split(".")[0] for op in sorted(found.ops, key=lambda op: op.sequence) if op.weights]
    assert by_forward == ["0", "2", "3", "6"]


def test_what_is_no_row_of_stages_is_not_joined():
    first, second, third = traced_apart()
    assert stitched([first, third]) is None  # one is missing between
    assert stitched([first, second]) is None  # nobody has the loss
    assert stitched([first, second, third, third]) is None
