"""`gradtrace fix train.py`: what is said before the script is started, and what is made of its trials."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradtrace.commands.screen import working
from gradtrace.commands.writing import may_write

if TYPE_CHECKING:
    from gradtrace.records.repair import Repair
    from gradtrace.repair.patch import UserFile


def fix_script(
    name: str,
    arguments: tuple[str, ...],
    is_module: bool,
    time_budget_s: float,
    writing: tuple[bool, bool],
    options: dict[str, Any],
) -> tuple[Repair, UserFile]:
    """The repair of a training script, and its file as it was."""
    from gradtrace.repair.patch import UserFile
    from gradtrace.repair.project import text_of
    from gradtrace.runner.fixing.fix_script import fix_script as run_trials
    from gradtrace.runner.fixing.fix_script import prepare
    from gradtrace.runner.script import Script

    prepared = prepare(Script(name, arguments, is_module))
    path = Path(name)
    may_write(path, *writing)
    text = text_of(path) if path.is_file() else ""
    beside = tuple(prepared.folder.sources(but=path))
    for sentence in prepared.warnings:
        click.echo(f"gradtrace: {sentence}", err=True)
    with working() as say:
        repair = run_trials(prepared, time_budget_s=time_budget_s, progress=say, **options)
    return repair, UserFile(path, text, "", lambda _: (), None, beside)
