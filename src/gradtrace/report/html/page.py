"""How do the sections become one file? Rendered by jinja2 with every name escaped, written whole or not at all."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
from markupsafe import Markup

from gradtrace.records.files import PAGES
from gradtrace.records.storage import write_whole
from gradtrace.report.html.activations import activations
from gradtrace.report.html.assets import policy, scripts, style
from gradtrace.report.html.flow import flow
from gradtrace.report.html.formats import formats
from gradtrace.report.html.order import ordered
from gradtrace.report.html.prediction import prediction
from gradtrace.report.html.provenance import Provenance, provenance
from gradtrace.report.html.ranks import ranks
from gradtrace.report.html.repair import repair_section
from gradtrace.report.html.section import Section, as_json
from gradtrace.report.html.through_time import through_time as of_time
from gradtrace.report.html.training import training
from gradtrace.report.html.verdict import Verdict, verdict
from gradtrace.report.html.waterfall import waterfall
from gradtrace.report.opened import Opened
from gradtrace.report.tables import main_trace
from gradtrace.report.words import clean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.records.finding import Diagnosis
    from gradtrace.records.repair import Repair
    from gradtrace.records.run import Run
    from gradtrace.records.time import ThroughTime


def write_report(
    path: str | Path,
    diagnosis: Diagnosis,
    run: Run | None = None,
    *,
    through_time: Sequence[ThroughTime] = (),
    repair: Repair | None = None,
) -> None:
    """Write the report of `diagnosis` (of a run, through time, of a repair) to `path`: one file that needs no network.

    Raises:
        TraceFileError: the file cannot be written.
    """
    write_text(Path(path), render(diagnosis, run, through_time=through_time, repair=repair))


def write_text(path: Path, text: str) -> None:
    """The whole file or nothing.

    Raises:
        TraceFileError: the file cannot be written, or there is another that is no page of gradtrace's.
    """
    write_whole(path, text.encode(), ours=PAGES)


def render(
    diagnosis: Diagnosis,
    run: Run | None = None,
    *,
    through_time: Sequence[ThroughTime] = (),
    live: bool = False,
    repair: Repair | None = None,
) -> str:
    """The page as text; a live one asks its server for news.

    >>> from gradtrace.records.finding import Diagnosis
    >>> render(Diagnosis(findings=())).startswith("<!doctype html>")
    True
    """
    return render_opened(Opened(diagnosis, run, tuple(through_time), repair=repair), live=live)


def render_opened(opened: Opened, *, live: bool = False) -> str:
    """The page of what a file holds."""
    diagnosis, run = opened.diagnosis, opened.run
    found = ordered(sections(opened), diagnosis, live=live)
    end = provenance(diagnosis, run)
    if end.commands and (again := _command(opened)):
        end = replace(end, commands=(f"gradtrace {again} {clean(diagnosis.title)}",))
    return page(diagnosis.title, verdict(opened), found, end, live=live)


def _command(opened: Opened) -> str:
    """The command that made what is no check; '' for a check or a run."""
    if opened.prediction is not None:
        return "predict"
    is_alone = not opened.diagnosis.traces and opened.run is None and opened.repair is None
    return "through-time" if opened.through_time and is_alone else ""


def page(title: str, top: Verdict, found: Sequence[Section], end: Provenance, *, live: bool = False) -> str:
    """The page with this top, these sections and this end."""
    data = {plot.key: plot.data for section in found for plot in section.plots}
    return _template().render(
        title=clean(title),
        live=live,
        verdict=top,
        sections=found,
        keys={section.key: section.title for section in found},
        provenance=end,
        policy=policy(live=live),
        style=Markup(style()),
        scripts=[Markup(text) for text in scripts(live=live)],
        data=Markup(as_json(data)),
    )


def sections(opened: Opened) -> tuple[Section, ...]:
    """The sections that there is anything to say in."""
    diagnosis, run = opened.diagnosis, opened.run
    trace = main_trace(diagnosis)
    found: list[Section | None] = [repair_section(opened.repair)] if opened.repair is not None else []
    if trace is not None:
        found.append(waterfall(trace, opened.sampled, diagnosis.updates))
        found += [make(trace) for make in (flow, activations, formats)]
    recorded = (diagnosis.through_time,) if diagnosis.through_time is not None else ()
    found.append(of_time(opened.through_time or recorded))
    if opened.prediction is not None:
        found.append(prediction(opened.prediction))
    if run is not None:
        found += [training(run), ranks(run)]
    return tuple(section for section in found if section is not None)


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gradtrace.report.html"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")
