"""The section of a repair: answer, patch, shares, levels and curves, escaped; and the figure of the curves."""

from __future__ import annotations

import math

import pytest
from tests.report.html.repairs import repaired, trained

from gradtrace.errors import InputError
from gradtrace.records.finding import Diagnosis
from gradtrace.records.repair import Repair, Role
from gradtrace.report.figures import plot_repair
from gradtrace.report.html.page import render
from gradtrace.report.html.repair import repair_section
from gradtrace.report.repair import conclusion, to_text


@pytest.fixture
def repair():
    return repaired()


def test_the_section_says_what_helped(repair):
    section = repair_section(repair)
    assert section.answer == "Recommended: Replace <sigmoid> by ReLU."
    assert [plot.key for plot in section.plots] == ["shares", "levels", "trials"]
    assert section.plots[0].table.rows == (
        ("activations a'", "-7.00"), ("weights f'", "-1.00"), ("left without them", "0.00"),
    )  # fmt: skip
    curves = section.plots[2].data["lines"]
    assert curves[0]["low"][-1] == 0.4
    assert curves[0]["high"][-1] == 0.6


def test_the_page_escapes_and_colours(repair):
    page = render(repair.diagnosis, repair=repair)
    assert "Replace &lt;sigmoid&gt; by ReLU." in page
    assert '<span class="added">+new' in page
    assert '<span class="removed">-old' in page
    assert "<sigmoid>" not in page


def test_nothing_helped_is_a_result(repair):
    from dataclasses import replace

    none = replace(repair, trials=tuple(replace(t, proven=False) for t in repair.trials))
    assert conclusion(none) == "None of these helped (1 tried)."
    assert "None of these helped (1 tried)." in to_text(none)
    assert repair_section(none).code == ""


def test_what_was_not_trained_in_full_is_undecided(repair):
    from dataclasses import replace

    short = replace(repair, trials=tuple(replace(t, proven=False, whole=False) for t in repair.trials))
    assert conclusion(short).startswith("Undecided: time was up before any of the 1 tried had been trained in full.")


def test_a_narrow_terminal_is_not_overrun(repair):
    assert max(map(len, to_text(repair, 80).splitlines())) <= 80


def test_the_figure_leaves_out_what_is_not_finite(repair):
    pytest.importorskip("matplotlib")
    broken = trained("broke", Role.CANDIDATE, [math.inf, math.inf])
    figure = plot_repair(Repair(Diagnosis(()), None, (*repair.trials, broken)))
    (axes,) = figure.axes
    assert len(axes.lines) == 4
    with pytest.raises(InputError, match="nothing to draw"):
        plot_repair(Repair(Diagnosis(()), None, ()))
