"""Figures for papers: what they show agrees with the records, print takes them, and nothing is left behind."""

from __future__ import annotations

import io
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from tests.report.html.records import SPIKE_LAYER, SPIKE_STEP, pooled_run, run, through_time
from tests.report.samples import SAMPLES, chain
from tests.report.samples import through_time as lstm

from gradtrace.errors import InputError
from gradtrace.records.finding import Diagnosis
from gradtrace.records.run import Run, RunSteps
from gradtrace.records.time import Reach, ThroughTime
from gradtrace.records.vocabulary import Factor
from gradtrace.report.figures import paper
from gradtrace.report.figures.heat import heat_colours
from gradtrace.report.figures.palette import FACTOR_COLOURS
from gradtrace.report.tables import picture

DRAWABLE = [name for name in SAMPLES if name != "empty"]
CSS = Path(paper.__file__).parents[1] / "html/static/report.css"
NASTY = "$\\frac12$_x^2<script>&%#.{}"


def saved(figure: Figure, kind: str) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format=kind)
    return file.getvalue()


def bars(figure: Figure) -> list[Rectangle]:
    return [patch for bar in figure.axes[0].containers for patch in bar]


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("name", DRAWABLE)
def test_every_sample_is_a_figure_of_its_width(name, columns):
    figure = SAMPLES[name]().plot(columns=columns)
    assert figure.get_figwidth() == {1: 3.5, 2: 7.2}[columns]
    assert saved(figure, "pdf").startswith(b"%PDF")


@pytest.mark.parametrize("make", [run, pooled_run, through_time, lstm], ids=["run", "pooled", "rnn", "lstm"])
@pytest.mark.parametrize("kind", ["pdf", "svg", "png"])
def test_runs_and_records_through_time_are_drawn(make, kind):
    assert len(saved(make().plot(columns=1), kind)) > 1000


def test_the_bars_add_up_to_the_way_of_the_gradient():
    diagnosis = SAMPLES["vanishing"]()
    found = bars(diagnosis.plot())
    table = picture(diagnosis.traces[0])
    assert math.fsum(bar.get_width() for bar in found) == pytest.approx(table.rows[-1].after, abs=0.01)
    by_colour: dict[str, float] = {}
    for bar in found:
        colour = matplotlib.colors.to_hex(bar.get_facecolor())
        by_colour[colour] = by_colour.get(colour, 0.0) + bar.get_width()
    for factor in (Factor.ACTIVATION, Factor.WEIGHT, Factor.LOSS):
        assert by_colour[FACTOR_COLOURS[factor]] == pytest.approx(table.totals[factor], abs=0.01)


def test_each_bar_begins_where_the_one_before_it_ends():
    found = bars(SAMPLES["vanishing"]().plot())
    level = 0.0
    for bar in found:
        assert bar.get_x() == pytest.approx(level, abs=0.01)
        level = bar.get_x() + bar.get_width()


def test_the_bound_is_the_product_of_the_largest_derivatives():
    (bound,) = (line for line in SAMPLES["vanishing"]().plot().axes[0].lines if line.get_label().startswith("bound"))
    assert np.asarray(bound.get_xdata())[-1] == pytest.approx(20 * math.log10(0.25))


def test_a_thousand_layers_fold_and_the_lines_end_where_they_should():
    axes = SAMPLES["thousand"]().plot().axes[0]
    assert len(axes.get_yticklabels()) < 30
    (bound,) = (line for line in axes.lines if line.get_label().startswith("bound"))
    assert np.asarray(bound.get_xdata())[-1] == pytest.approx(1000 * math.log10(0.25), rel=1e-6)


def test_names_show_as_they_are():
    axes = chain(3, 0.2, 0.5, "sigmoid", name=NASTY).plot(columns=2).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["loss", *(NASTY.format(i) for i in (2, 1, 0))]
    assert not any(text.get_parse_math() or text.get_usetex() for text in axes.get_yticklabels())
    svg = saved(axes.get_figure(), "svg").decode()
    assert "<script>" not in svg


@pytest.mark.parametrize("name", ["\x1b[31mred\x00.{}", "a\nb.{}", "\u202eabc.{}"])
def test_control_characters_do_not_reach_the_paper(name):
    labels = [text.get_text() for text in chain(2, 0.2, 0.5, "sigmoid", name=name).plot().axes[0].get_yticklabels()]
    assert "?" in labels[1]
    assert all(label.isprintable() for label in labels)


def test_fonts_are_embedded_as_truetype_whatever_the_reader_set():
    with matplotlib.rc_context({"pdf.fonttype": 3, "pdf.compression": 0}):
        pdf = saved(SAMPLES["vanishing"]().plot(), "pdf")
        assert matplotlib.rcParams["pdf.fonttype"] == 3
    assert b"/CIDFontType2" in pdf
    assert b"/Type3" not in pdf


def test_the_readers_settings_stay_as_they_were():
    before = dict(matplotlib.rcParams)
    for record in (SAMPLES["vanishing"](), run(), through_time()):
        saved(record.plot(), "png")
    assert dict(matplotlib.rcParams) == before


def test_no_figure_goes_through_pyplot():
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "from tests.report.samples import chain\n"
        "figure = chain(3, 0.2, 0.5, 'sigmoid').plot(); figure.savefig(sys.stdout.buffer, format='svg')\n"
        "sys.stderr.write(str('matplotlib.pyplot' in sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=120)
    assert (result.returncode, result.stderr) == (0, b"False")
    assert b"<svg" in result.stdout


def test_two_networks_go_into_one_figure():
    figure = paper.new_figure(2, 3.0)
    traces = (SAMPLES["vanishing"]().traces[0], chain(3, 0.2, 0.5, "sigmoid", name=NASTY))
    for axes, trace in zip(figure.subplots(1, 2), traces, strict=True):
        assert trace.plot(axes=axes) is figure
    assert not any(text.get_parse_math() for axes in figure.axes for text in axes.get_yticklabels())
    assert all(axes.get_legend() is not None for axes in figure.axes)
    saved(figure, "pdf")


def test_the_colours_are_those_of_the_page():
    light = CSS.read_text(encoding="utf-8").split("@media", 1)[0]
    css = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6});", light))
    assert {factor.value: css[factor.value] for factor in Factor} == {f.value: c for f, c in FACTOR_COLOURS.items()}


def test_a_figure_shows_itself_in_a_notebook():
    assert SAMPLES["healthy"]().plot()._repr_png_().startswith(b"\x89PNG")


# ---------------------------------------------------------------------------------------------------- runs and time


def test_a_spike_of_one_step_is_on_the_map():
    figure = run(24, 5000 // 10).plot()
    axes = next(axes for axes in figure.axes if axes.get_xlabel() == "step")
    (mesh,) = axes.collections
    colours = mesh.get_array()
    broken = np.argwhere(np.all(np.isclose(colours, matplotlib.colors.to_rgb("#b3261e")), axis=-1))
    assert broken.tolist() == [[SPIKE_LAYER, SPIKE_STEP]]


def test_old_rows_are_as_wide_as_they_are_many():
    axes = next(axes for axes in pooled_run().plot().axes if axes.get_xlabel() == "step")
    assert axes.get_xlim() == (0.0, 20.0)


def test_colours_of_what_has_no_logarithm():
    colours = heat_colours(np.array([[np.nan, np.inf, 0.0, 1.0]]), -1.0, 0.0)
    assert len(np.unique(colours[0], axis=0)) == 4
    assert colours[0, 2].tolist() == [0.0, 0.0, 0.0]


def test_the_gradient_by_step_is_on_a_scale_of_decades():
    axes = through_time().plot().axes[0]
    (line,) = (line for line in axes.lines if line.get_label() == "rnn")
    assert np.asarray(line.get_ydata())[40] == pytest.approx(0.0)
    assert np.asarray(line.get_ydata())[20] == pytest.approx(20 * math.log10(0.7))


def test_positions_of_an_input_are_drawn_without_a_recurrence():
    reach = Reach("loss", (2, 4), ((0.1, 0.5, 1.0), (0.01, 0.1, 0.2, 0.5, 1.0)))
    record = ThroughTime("net", 1.0, 1.0, losses=(reach,), positions="the input")
    assert len([axes for axes in record.plot().axes if axes.get_xlabel()]) == 2


# -------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("record", "match"),
    [
        (Diagnosis(()), "no backward pass was measured"),
        (replace(chain(2, 0.5, 0.5, "relu"), ops=()), "no layer with weights received a gradient"),
        (replace(run(), steps=RunSteps.empty(48)), "no step was watched"),
        (ThroughTime("net", 1.0, 1.0), "no recurrence and no position"),
    ],
)
def test_nothing_to_draw_is_said(record: Diagnosis | Run | ThroughTime, match):
    with pytest.raises(InputError, match=match):
        record.plot()


def test_a_figure_has_one_column_or_two():
    with pytest.raises(InputError, match="columns is 1 or 2"):
        SAMPLES["healthy"]().plot(columns=3)


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    paper._matplotlib.cache_clear()
    try:
        with pytest.raises(InputError, match=r"figures need matplotlib: pip install '\.\[figures\]'"):
            SAMPLES["healthy"]().plot()
    finally:
        paper._matplotlib.cache_clear()
