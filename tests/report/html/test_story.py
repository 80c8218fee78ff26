"""The page tells the finding's story: its proof first, a slider over the steps, a jump to the layer, many runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.report.html.pages import SAMPLED_STEPS, broken_run, sampled, sigmoids
from tests.report.html.records import run, through_time
from tests.report.samples import chain

from gradtrace.records.finding import Diagnosis, Finding
from gradtrace.records.run import Run, Scalar, WatchCost
from gradtrace.records.vocabulary import Cause, Severity, Symptom
from gradtrace.report.html.order import ordered
from gradtrace.report.html.page import render_opened, sections
from gradtrace.report.html.training import broken_stretches
from gradtrace.report.html.verdict import heading, verdict
from gradtrace.report.opened import Opened, opened
from gradtrace.report.run import compare, list_runs
from gradtrace.report.summary import at_end, facts, loss_told


def found(symptom: Symptom, cause: Cause) -> Finding:
    return Finding(symptom, cause, ("layers.0",), Severity.CRITICAL, "message")


@pytest.mark.parametrize(
    ("finding", "first"),
    [
        (found(Symptom.VANISHING, Cause.RECURRENT_CONTRACTION), "time"),
        (found(Symptom.VANISHING, Cause.ACTIVATION_DERIVATIVE), "waterfall"),
        (found(Symptom.NONFINITE, Cause.NUMERIC_FORMAT), "run"),
        (found(Symptom.UNDERFLOW, Cause.NUMERIC_FORMAT), "formats"),
        (found(Symptom.DEAD_UNITS, Cause.SATURATED_PREACTIVATION), "activations"),
        (found(Symptom.EXPLODING, Cause.LEARNING_RATE), "run"),
    ],
)
def test_the_proof_of_the_first_finding_comes_first(finding: Finding, first: str) -> None:
    diagnosis = replace(sigmoids(), findings=(finding,))
    page = sections(Opened(diagnosis, run(), (through_time(),)))
    keys = [section.key for section in ordered(page, diagnosis)]
    assert first in keys
    assert keys[0] == first
    assert sorted(keys) == sorted(section.key for section in page)


def test_a_proof_that_is_not_on_the_page_gives_way() -> None:
    diagnosis = Diagnosis((found(Symptom.UNDERFLOW, Cause.NUMERIC_FORMAT),), (chain(4, 0.7, 1.4, "relu"),))
    assert ordered(sections(Opened(diagnosis)), diagnosis)[0].key == "waterfall"


def test_a_live_page_begins_with_the_run() -> None:
    text = sampled(live=True)
    assert (
        text.index('<section id="run"') < text.index('<section id="findings"') < text.index('<section id="waterfall"')
    )
    assert sampled().index('<section id="findings"') < sampled().index('<section id="run"')


def test_a_bare_trace_says_that_it_is_one_and_is_not_called_healthy() -> None:
    whole = opened(chain(4, 0.7, 1.4, "relu"), "trace.json.gz")
    top = verdict(whole)
    assert (top.kind, top.sentence) == ("info", "Nothing wrong in this one trace.")
    assert "no optimizer step was seen" in top.detail
    assert "Healthy" not in render_opened(whole)
    assert "Healthy" not in str(chain(4, 0.7, 1.4, "relu"))
    assert "Nothing wrong in this one trace" in str(chain(4, 0.7, 1.4, "relu"))


def test_a_loss_that_was_not_read_any_more_is_not_taken_for_the_last() -> None:
    steps = run().steps
    low, high = (np.where(steps.first[:, None] < 40, part, np.nan) for part in (steps.scalars_low, steps.scalars_high))
    rested = replace(run(), steps=replace(steps, scalars_low=low, scalars_high=high, nan_losses=0 * steps.nan_losses))
    assert loss_told(rested).endswith("(read last at step 39)")
    assert "read last" not in loss_told(run())


def test_a_run_that_ended_in_nan_ends_in_nan_everywhere() -> None:
    made = broken_run()
    assert str(at_end(made, Scalar.LOSS)) == "(299, nan)"
    assert loss_told(made) == "2.32 to NaN at step 137"
    assert dict(facts(made))["Loss, first to last"] == "2.32 to NaN at step 137"
    assert " NaN " in list_runs([(Path("a.db"), made)])
    row = next(line for line in compare([("a", made), ("b", run())]).splitlines() if line.startswith("last loss"))
    assert row.split() == ["last", "loss", "NaN", "0.12"]
    assert broken_stretches(made) == [[137, 137], [250, 299]]
    assert "loss from 2.32 to NaN" in sampled()


def test_what_a_run_says_it_cost_is_told() -> None:
    cost = WatchCost(101.7, 1.7, (("hooks", 0.5), ("norms", 1.2), ("traces", 0.0)), 12)
    made: Run = replace(run(), cost=cost)
    assert dict(facts(made))["Watching cost"] == "1.7 % of 100 s (norms 1.2, hooks 0.5)"
    assert "Watching cost" not in dict(facts(run()))


# ------------------------------------------------------------------------------------------------------- in a browser


def test_the_slider_goes_through_the_traces_of_a_run(visit):
    page = visit("sampled")
    words, slider = page.locator(".step-of"), page.get_by_role("slider", name="Trace of which step")
    so_far = page.locator(".waterfall:visible tbody tr").last.locator("td.sum").last
    assert words.inner_text() == f"Trace of step {SAMPLED_STEPS[-1]}"
    last = so_far.inner_text()
    page.locator(".waterfall:visible tr[aria-expanded=true]").first.click()
    num_rows = page.locator(".waterfall:visible tbody tr").count()
    slider.focus()
    page.keyboard.press("Home")
    assert words.inner_text() == "Trace of step 0"
    page.wait_for_timeout(100)
    assert page.locator(".waterfall:visible tbody tr").count() == num_rows  # what is folded stays folded
    assert so_far.inner_text() != last


def test_a_finding_leads_to_the_row_of_its_layer(visit):
    page = visit("sampled")
    page.locator(".waterfall:visible tr[aria-expanded=true]").first.click()
    page.locator(".jump").first.click()
    row = page.locator(".waterfall:visible tr.found")
    assert ".7" in row.inner_text()
    assert page.evaluate("document.activeElement.classList.contains('found')")


def test_a_layer_is_searched_for(visit):
    page = visit("thousand")
    field = page.get_by_role("searchbox", name="Find a layer")
    field.fill("layers.777")
    assert "777" in page.locator(".waterfall tr.found").inner_text()
    assert "1 of" in page.locator("#said").inner_text()
    field.fill("nowhere")
    assert page.locator(".waterfall tr.found").count() == 0
    assert "no such layer" in page.locator("#said").inner_text()


def test_a_name_in_the_legend_hides_its_line(visit):
    page = visit("sampled")
    picture = page.locator("[data-plot=scalars1]")
    before = picture.locator("path.line").count()
    picture.locator(".switch").last.click()
    assert picture.locator("path.line").count() == before - 1
    assert picture.locator(".switch").last.get_attribute("aria-pressed") == "false"
    picture.locator(".switch").last.click()
    assert picture.locator("path.line").count() == before


def test_what_was_not_finite_is_shaded_and_the_axis_is_chosen(visit):
    page = visit("sampled")
    picture = page.locator("[data-plot=scalars0]")
    shades = picture.locator("rect.broken")
    assert shades.count() == 2
    widths = [float(shade.get_attribute("width")) for shade in shades.all()]
    assert widths[1] > 20 * widths[0]
    labels = picture.locator("svg text").all_text_contents()
    picture.get_by_role("button", name="Linear axis").click()
    assert picture.locator("svg text").all_text_contents() != labels
    picture.get_by_role("button", name="Smoothed").click()
    assert picture.locator("path.faint").count() == 1


def test_runs_lie_over_each_other_and_hide(visit):
    page = visit("comparison")
    picture = page.locator("[data-plot=loss]")
    assert picture.locator("path.line").count() == 3
    picture.get_by_role("button", name="adam").click()
    assert picture.locator("path.line").count() == 2
    assert page.locator("img").count() == 0
    assert "NaN at step 137" in page.locator("#findings").inner_text()


def test_the_flow_of_a_plain_chain_is_folded_away(visit):
    assert visit("vanishing").locator("#flow details.folded").count() == 1
    assert visit("transformer").locator("#flow details.folded").count() == 0


def test_a_learning_rate_of_zero_is_not_called_too_large():
    finding = Finding(Symptom.UNDERFLOW, Cause.LEARNING_RATE, ("",), Severity.WARNING, "It is zero.")
    assert heading(finding) == "Nothing moves: the learning rate is zero"
    assert heading(replace(finding, symptom=Symptom.SATURATED)) == "Units are saturated: the steps are too large"
