"""Real pages to click on, written at build: the lesson, the report of the sigmoids and the one of a watched run.

Beside the pages:

    reports/lesson.html        what `gradtrace lesson` writes
    reports/sigmoids.html      what `gradtrace demo` judges, as `diagnosis.report` writes it
    reports/run.html           a training that diverges, as `watch.report` writes it
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradtrace.monitor.watch import Watch


def write_all(folder: Path) -> None:
    """Write them into `folder`."""
    from gradtrace.lesson import write_lesson

    folder.mkdir(parents=True, exist_ok=True)
    write_lesson(folder / "lesson.html")
    write_sigmoids(folder / "sigmoids.html")
    write_run(folder / "run.html")


def write_sigmoids(path: Path) -> None:
    """The network of `gradtrace demo`."""
    import gradtrace
    from gradtrace.commands.demo.lecture import networks

    target, _ = networks()
    diagnosis = gradtrace.check(target.model, target.loss_fn, target.batches, optimizer=target.optimizer)
    replace(diagnosis, title=target.name).report(path)


def write_run(path: Path) -> None:
    """The report of `watched_run`."""
    watched_run().report(path)


def watched_run() -> Watch:
    """A convolutional network that is well, at a learning rate that is not."""
    import torch

    import gradtrace
    from gradtrace.casebook import CASES

    case = CASES["rate_conv"].build()
    optimizer = case.optimizer
    assert isinstance(optimizer, torch.optim.Optimizer)
    with gradtrace.watch(case.model, optimizer, budget=1.0, every=10) as watch:
        for step in range(40):
            optimizer.zero_grad()
            case.loss_fn(case.model, case.batches[step % len(case.batches)]).backward()
            optimizer.step()
    return watch


def _build_finished(app: Any, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        write_all(Path(app.outdir) / "reports")


def setup(app: Any) -> dict[str, bool]:
    """Write them beside the pages."""
    app.connect("build-finished", _build_finished)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
