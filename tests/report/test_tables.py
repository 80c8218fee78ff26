from __future__ import annotations

import math

import pytest
import torch
from tests.report.samples import SAMPLES, chain, residual
from torch import nn

import gradtrace
from gradtrace.records.vocabulary import Factor
from gradtrace.report.picture import LOOKS, bar, lay_out
from gradtrace.report.rows import Row, fold
from gradtrace.report.tables import BAND_DECADES, picture, told_apart, unseen


@pytest.mark.parametrize("trace", [chain(1000, 0.2, 4.0, "sigmoid"), residual(500), chain(33, 0.5, 0.5, "relu")])
def test_folding_keeps_every_sum(trace):
    whole, folded = picture(trace, max_rows=10**6), picture(trace)
    assert len(folded.rows) <= 32 < len(whole.rows)
    assert sum(row.num_layers for row in folded.rows) == len(whole.rows)
    for factor in whole.factors:
        assert sum(row.gains.get(factor, 0.0) for row in folded.rows) == pytest.approx(whole.totals[factor])
    assert folded.rows[-1].after == whole.rows[-1].after
    assert all(below.before == above.after for above, below in zip(folded.rows, folded.rows[1:], strict=False))


def test_a_slope_stays_visible_among_layers_that_are_alike():
    assert len(picture(chain(1000, 0.2, 4.0, "sigmoid")).rows) >= 12


def make_row(i: int, path: str) -> Row:
    return Row(path, path, 1, {Factor.WEIGHT: math.sin(i) * 5}, 0.0, 0.0, "", 1.0, 1.0)


def test_layers_that_are_not_alike_fold_too():
    rows = [make_row(i, "".join(chr(97 + int(digit)) for digit in str(i))) for i in range(500)]
    assert len(fold(rows)) <= 32


def test_few_rows_stay_as_they_are():
    assert [row.first for row in picture(chain(3, 0.5, 0.5, "relu")).rows] == [
        "loss",
        "layers.2",
        "layers.1",
        "layers.0",
    ]


def test_the_layer_nearest_to_the_loss_has_weights():
    """A penalty on the code reaches the encoder past the decoder: that way no layer lies above the encoder's last."""
    fns = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 8), nn.Linear(8, 8)])

    def loss(model, x):
        code = model[1](model[0](x).relu())
        return (model[4](model[3](code).relu()) - x).square().mean() + 1e3 * model[2](code).square().mean()

    torch.manual_seed(0)
    trace = gradtrace.trace(fns, loss, torch.randn(16, 8))
    table = picture(trace)
    assert [row.last for row in table.ends] == ["0", "1"]
    received = {op.site.module: op.received.norm for op in trace.ops if op.weights and op.received is not None}
    told = told_apart(table, trace)
    assert told is not None
    assert told[0] == "the gradient of"
    assert told[1] == pytest.approx(math.log10(received["0"] / received["1"]))


def test_zero_and_nan_are_rows():
    assert picture(SAMPLES["cut"]().traces[0]).rows[1].after == -math.inf
    assert math.isnan(picture(SAMPLES["hostile"]().traces[0]).rows[-1].after)


@pytest.mark.parametrize("name", [name for name in SAMPLES if name != "empty"])
@pytest.mark.parametrize("width", [40, 80, 120])
def test_every_bar_fills_its_cells(name, width):
    table = picture(SAMPLES[name]().traces[0])
    layout = lay_out(table, width, ascii_only=False)
    assert {len(bar(row, layout)) for row in table.rows} == {layout.bar}


def test_factors_are_told_apart_without_colour():
    assert len({look.letter for look in LOOKS.values()}) == len(Factor)


def test_everything_unseen_is_told():
    told = dict(unseen(residual(1)))
    assert told["no gradient reached"] == ("head.bias",)
    assert told["values went on without the tape"] == ("detach (net.py:12)",)
    assert told["traced uncompiled"] == ()


@pytest.mark.parametrize(("num_steps", "expected"), [(3, "the gradient of"), (40, "in its weights")])
def test_one_way_back_through_a_loop_is_not_told_as_what_the_weights_get(num_steps: int, expected: str) -> None:
    torch.manual_seed(0)

    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.step, self.head = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)

        def forward(self, x):
            h, out = torch.zeros(x.shape[0], 16), []
            for _ in range(num_steps):
                h = torch.tanh(self.step(h) + self.embed(x))
                out.append(self.head(h))
            return out[-1]

    model = Loop()
    trace = gradtrace.trace(model, lambda m, x: m(x).square().mean(), torch.randn(16, 8))
    table = picture(trace)
    apart = told_apart(table, trace)
    assert apart is not None
    assert expected in apart[0]
    assert abs(apart[1]) <= BAND_DECADES
    assert (abs(table.early_decades) <= BAND_DECADES) is (num_steps < 10)
