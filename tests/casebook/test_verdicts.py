"""Every case gets its true verdict, no healthy one an alarm, and no rule stumbles."""

from __future__ import annotations

import pytest

import gradtrace
from gradtrace.casebook import CASES
from gradtrace.casebook.score import score


@pytest.mark.parametrize("name", list(CASES))
def test_verdict(name: str) -> None:
    case = CASES[name]
    setup = case.build()
    options = {"optimizer": setup.optimizer, "steps": case.steps, "accumulate": case.accumulate}
    diagnosis = gradtrace.check(setup.model, setup.loss_fn, setup.batches, **options)
    result = score(case, diagnosis)
    assert result.right, diagnosis.findings
    assert not [text for text in diagnosis.refusals if "please report" in text]
