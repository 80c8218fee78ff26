"""Does the picture of a running run hold its numbers, whatever the run, the width and the terminal?"""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from gradtrace.records.finding import Finding
from gradtrace.records.run import Run, RunHeader, RunSteps, Scalar, Series, WatchedParameter
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.report.live import draw_live, summary, told
from gradtrace.report.run import show_run
from gradtrace.report.strip import ASCII_HEAT, column_of_steps, heat, layer_decades, rows_of_layers, sparkline

FINDING = Finding(
    Symptom.VANISHING, Cause.ACTIVATION_DERIVATIVE, ("0",), Severity.CRITICAL, "It falls by [bold] 0.6 decades.", step=7
)


def run(num_steps=50, num_layers=12, findings=(), decades_per_layer=0.5, name="net") -> Run:
    """Loss 2**-step; the gradient per weight falls from the last layer to the first."""
    names = [f"{name}.{layer}.{kind}" for layer in range(num_layers) for kind in ("weight", "bias")]
    shapes = [(4, 4), (4,)] * num_layers
    parameters = tuple(WatchedParameter(n, s, "float32", 0) for n, s in zip(names, shapes, strict=True))
    scalars = np.full((num_steps, len(Scalar)), np.nan)
    scalars[:, 0] = 2.0 ** -np.arange(num_steps)
    scalars[:, 2] = 1.0
    depth = num_layers - 1 - np.repeat(np.arange(num_layers), 2)
    rms = 10.0 ** (-decades_per_layer * depth)
    norms = rms * np.sqrt([math.prod(shape) for shape in shapes])
    series = np.ones((num_steps, len(Series), len(names)), np.float32)
    series[:, 0] = norms
    counts = np.ones(num_steps, np.int64)
    steps = RunSteps(
        np.arange(num_steps),
        counts,
        np.arange(num_steps) * 0.5,
        scalars,
        scalars,
        series,
        series,
        0 * counts,
        0 * counts,
    )
    return Run(RunHeader("a" * 32, 0.0, title="train", parameters=parameters), steps, findings=findings)


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize(
    "shown",
    [
        run(0),
        run(0, 0),
        run(1),
        run(1, 1),
        run(50, 300),
        run(5000, 2),
        run(9, 2, (FINDING,) * 5),
        run(9, name="é" * 90),
    ],
)
def test_it_always_fits(shown, width, ascii_only):
    lines = draw_live(shown, width, 12, ascii_only=ascii_only)
    assert len(lines) == 12
    assert all(cell_len(line.plain) <= width for line in lines)
    assert all("\n" not in line.plain for line in lines)
    if ascii_only:
        assert "".join(line.plain for line in lines).isascii()


def test_the_latest_numbers_and_the_worst_finding_are_told():
    mild = Finding(Symptom.UNDERFLOW, Cause.NUMERIC_FORMAT, (), Severity.INFO, "some")
    shown = "\n".join(line.plain for line in draw_live(run(4, findings=(mild, FINDING)), 120, 12))
    assert "step 3" in shown
    assert "loss" in shown
    assert "0.125" in shown
    assert shown.index("CRITICAL vanishing since step 7: It falls by [bold] 0.6") < shown.index("INFO underflow")


def test_layers_relative_to_the_largest_in_decades_per_weight():
    shown = run(3, 5)
    names, decades = layer_decades(shown, column_of_steps(shown.steps, 10))
    assert names == [f"net.{i}" for i in range(5)]
    assert decades.shape == (3, 5)
    assert decades[0] == pytest.approx([-2.0, -1.5, -1.0, -0.5, 0.0], abs=1e-6)


def test_a_millionfold_smaller_loss_changes_no_colour():
    small, large = run(3, 5), run(3, 5)
    small.steps.series_high[:, 0] *= np.float32(2.0**-20)
    small.steps.series_low[:, 0] *= np.float32(2.0**-20)
    columns = column_of_steps(small.steps, 10)
    assert heat(layer_decades(small, columns)[1], 5) == heat(layer_decades(large, columns)[1], 5)


def test_the_output_is_on_top_and_darker_means_less():
    decades = np.array([[-6.0, -3.0, 0.0]])
    assert [line.plain for _, line in heat(decades, 3, ascii_only=True)] == ["#", "=", " "]
    assert [line.plain for _, line in heat(np.array([[np.nan, np.inf, -np.inf]]), 3, ascii_only=True)] == [
        " ",
        "!",
        "?",
    ]


@pytest.mark.parametrize(("num_layers", "num_lines", "expected"), [(3, 6, 3), (6, 6, 6), (7, 6, 4), (500, 6, 6)])
def test_every_layer_is_on_one_line(num_layers, num_lines, expected):
    lines = heat(np.zeros((4, num_layers)), num_lines)
    assert len(lines) == expected
    assert sorted(layer for layers, _ in lines for layer in layers) == list(range(num_layers))
    assert all(line.plain == "▀▀▀▀" for _, line in lines)


def test_the_darkest_of_pooled_layers_shows():
    decades = np.array([[0.0, -6.0, 0.0, 0.0]])
    assert [line.plain for _, line in heat(decades, 2, ascii_only=True)] == ["#", " "]


@pytest.mark.parametrize(("num_layers", "num_rows"), [(1, 1), (1, 9), (7, 3), (300, 16), (16, 16)])
def test_rows_of_layers_cover_all_once(num_layers, num_rows):
    rows = rows_of_layers(num_layers, num_rows)
    assert [layer for row in rows for layer in row] == list(range(num_layers))
    assert len(rows) == min(num_layers, num_rows)


@pytest.mark.parametrize("num_steps", [1, 2, 79, 80, 81, 1000, 123457])
def test_columns_fill_at_least_half_the_width(num_steps):
    steps = RunSteps.empty(0)
    steps = RunSteps(
        np.arange(num_steps), np.ones(num_steps, np.int64), *(getattr(steps, f) for f in RunSteps.__slots__[2:])
    )
    columns = column_of_steps(steps, 80)
    assert columns[-1] + 1 <= 80
    assert columns[-1] + 1 >= min(num_steps, 80 // 2)
    assert (np.diff(columns) >= 0).all()


def test_sparklines_turn_logarithmic_over_decades():
    assert sparkline([1.0, 10.0, 100.0, 1000.0]) == "▁▃▆█"
    assert sparkline([5.0, 5.0]) == "▁▁"
    assert sparkline([]) == ""


def test_plain_lines():
    assert summary(run(4)) == "step 3, loss 0.125, gradient 1, 2.67 steps/s"
    assert told(FINDING).plain == "CRITICAL vanishing since step 7: It falls by [bold] 0.6 decades."


@pytest.mark.parametrize("in_colour", [False, True])
def test_without_colour_the_map_is_of_characters(in_colour):
    lines = [line.plain for line in draw_live(run(num_layers=6), 60, 14, in_colour=in_colour)]
    cells = {line[-1:] for line in lines[3:9]}
    if in_colour:
        assert cells == {"▀"}
    else:
        assert len(cells) > 3
        assert cells <= set(ASCII_HEAT)
    assert "▁" in lines[1]  # the curves stay what they were


def test_a_run_in_a_file_is_read_without_colour():
    file = io.StringIO()
    show_run(run(num_layers=6), Console(file=file, width=80, _environ={}))
    assert "▀" not in file.getvalue()
    assert "#####" in file.getvalue()
