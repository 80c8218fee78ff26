"""What is wrong with a run that nobody has judged yet, because it goes on or was killed?"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gradtrace.diagnosis.judge import judge
from gradtrace.diagnosis.ranking import rank
from gradtrace.diagnosis.timeline.judge import judge_run
from gradtrace.records.exhibit import Exhibit

if TYPE_CHECKING:
    from gradtrace.records.run import Run
    from gradtrace.records.trace import Trace


def standing(run: Run, latest: Trace | None) -> Run:
    """`run` with the findings of its file; where it is unfinished and has none, with those of its numbers so far."""
    if run.finished or run.findings:
        return run
    found = judge_run(run)
    if latest is not None:
        found += judge(Exhibit(traces=(latest,), optimizers=run.header.optimizers)).findings
    return replace(run, findings=rank(found))
