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
    assert section.answer == (
        "Recommended: Replace <sigmoid> by ReLU. It beat the unchanged network and the placebo, and was not run again "
        "on other seeds."
    )
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


def test_every_figure_of_the_section_is_drawn(repair, tmp_path, open_page):
    (tmp_path / "repair.html").write_text(render(repair.diagnosis, repair=repair), encoding="utf-8")
    page = open_page((tmp_path / "repair.html").as_uri())
    assert page.locator("#repair svg").count() == 3
    drawn = page.locator("#repair").inner_text()
    assert "The network as it came" in drawn
    assert "Placebo" in drawn


def test_the_network_as_it_came_is_drawn_however_many_placebos_there_are(repair):
    from dataclasses import replace

    placebo = next(trial for trial in repair.trials if trial.role is Role.PLACEBO)
    more = replace(repair, trials=(placebo, replace(placebo, title="Placebo, drawn once more."), *repair.trials))
    names = [line["name"] for line in repair_section(more).plots[2].data["lines"]]
    assert "The network as it came" in names
    assert sum("Placebo" in name for name in names) == 1


def test_a_held_out_loss_has_a_column(repair):
    from dataclasses import replace

    def held_out(trial):
        return replace(trial, outcomes=tuple(replace(one, held_out=7.25) for one in trial.outcomes))

    assert "held-out" not in to_text(repair)
    told = replace(repair, trials=tuple(map(held_out, repair.trials)))
    assert "held-out" in to_text(told, 80)
    assert to_text(told, 80).count("7.25") == 3
    table = repair_section(told).plots[2].table
    assert [row[table.columns.index("held-out")] for row in table.rows] == ["7.25"] * 3


def test_where_nothing_could_be_tried_the_line_and_the_remedy_are_told(repair):
    from gradtrace.records.finding import Finding, Remedy
    from gradtrace.records.vocabulary import Cause, Severity, Symptom

    finding = Finding(
        Symptom.DISCONNECTED,
        Cause.DETACHED_GRAPH,
        ("a",),
        Severity.CRITICAL,
        "No gradient reaches a.",
        remedies=(Remedy("Keep the computation on the tape.", "y = f(x)"),),
        source="net.py:12",
    )
    text = to_text(Repair(Diagnosis((finding,)), None, ()))
    assert "No gradient reaches a." in text
    assert "At net.py:12." in text
    assert "- Keep the computation on the tape.\ny = f(x)\n" in text
