"""A run that goes on, or was killed, is judged by its reader; a finished one has its verdict."""

from __future__ import annotations

from dataclasses import replace

from tests.diagnosis.timeline.test_timeline import made
from tests.report.html.records import run as finished_run
from tests.report.samples import chain

from gradtrace.diagnosis.timeline.standing import standing
from gradtrace.records.finding import Diagnosis
from gradtrace.records.vocabulary import Symptom
from gradtrace.report.html.verdict import verdict
from gradtrace.report.opened import Opened


def test_the_latest_trace_of_a_run_that_goes_on_is_judged():
    found = standing(made(), chain(20, 0.2, 0.6, "sigmoid")).findings
    assert [finding.symptom for finding in found] == [Symptom.VANISHING]


def test_its_numbers_are_judged_without_a_trace():
    def spike(arrays):
        arrays["gradients"][300] *= 1e6

    assert [f.step for f in standing(made(spike), None).findings] == [300]


def test_a_verdict_that_is_in_the_file_stays():
    for judged in (finished_run(), replace(finished_run(), finished=False)):
        assert standing(judged, chain(20, 0.2, 0.6, "sigmoid")) is judged
    silent = replace(finished_run(), findings=())
    assert standing(silent, chain(20, 0.2, 0.6, "sigmoid")) is silent


def test_a_run_that_goes_on_is_healthy_so_far():
    diagnosis = Diagnosis((), (chain(4, 0.7, 1.4, "relu"),))
    assert verdict(Opened(diagnosis, made())).sentence == "Healthy so far."
    assert verdict(Opened(diagnosis, replace(made(), finished=True))).sentence == "Healthy."
