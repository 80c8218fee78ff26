"""How is the verdict on one target, or several, said? To read, for programs, or in the formats of CI."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gradtrace.commands.baseline import shown
from gradtrace.records.shown import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradtrace.commands.baseline import Baseline
    from gradtrace.records.vocabulary import Severity
    from gradtrace.report.checked import Checked

FORMATS = ("text", "json", "github", "sarif", "junit")


def told(checked: Sequence[Checked], form: str, fail_on: Severity, known: Baseline | None) -> str:
    """In the format `form`; the text is printed at once, a target after the other, and only its end is returned."""
    from gradtrace.report.checked import repository_root

    root = repository_root(Path.cwd())
    if form == "json":
        documents = [each.diagnosis.to_json() for each in checked]
        return documents[0] if len(documents) == 1 else "[" + ",\n".join(documents) + "]"
    if form == "github":
        from gradtrace.report.annotations import annotate

        return annotate(checked, root)
    if form == "sarif":
        from gradtrace import __version__
        from gradtrace.report.sarif import sarif

        return sarif(checked, root, __version__, has_baseline=known is not None)
    if form == "junit":
        from gradtrace.report.junit import junit

        return junit(checked, root, fail_on)
    return _shown(checked, known)


def _shown(checked: Sequence[Checked], known: Baseline | None) -> str:
    from gradtrace.report.terminal import verdict, verdict_on_all

    for place, each in enumerate(checked):
        if place:
            click.echo()
        each.diagnosis.show()
        click.echo()
        if not each.diagnosis.healthy:
            click.echo(f"Prove it: gradtrace fix {each.target}")
        click.echo(verdict(each.diagnosis))
    if len(checked) > 1:
        click.echo(f"\n{verdict_on_all([each.diagnosis for each in checked])}")
    return _compared(checked, known) if known is not None else ""


def _compared(checked: Sequence[Checked], known: Baseline) -> str:
    """How much of it is new."""
    num_new, num_known = sum(len(each.new) for each in checked), sum(len(each.known) for each in checked)
    line = f"New: {counted(num_new, 'finding')}; {num_known} more listed in {shown(known.path)}."
    if known.num_gone:
        line += f" Gone: {counted(known.num_gone, 'finding')} that it lists (--write-baseline takes them out)."
    return line
