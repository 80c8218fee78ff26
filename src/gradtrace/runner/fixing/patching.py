"""What was tried on the living network as an edit of the script: lines behind its optimizer, calls where they stand.

The edited script is run once more, up to where its network is known, and held against the one that was tried.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradtrace.errors import InputError
from gradtrace.repair.no_patch import NoPatchError
from gradtrace.repair.patch import UserFile, diff_of, patched
from gradtrace.repair.project import text_of
from gradtrace.repair.training import OutOfTime
from gradtrace.runner.fixing.exchange import Order

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gradtrace.records.repair import Repair, Trial
    from gradtrace.repair.patch import Shape, Texts
    from gradtrace.runner.fixing.course import ScriptCourse
    from gradtrace.runner.fixing.exchange import Probed
    from gradtrace.runner.fixing.process import Processes

PATIENCE_S = 120.0


def with_script_diffs(repair: Repair, given: str, course: ScriptCourse, probed: Probed, processes: Processes) -> Repair:
    """The diff of every proven trial, or why it has none, and where the lines go."""
    trials = [_with_diff(t, given, course, probed, processes) if t.proven else t for t in repair.trials]
    return replace(repair, trials=tuple(trials))


def _with_diff(trial: Trial, given: str, course: ScriptCourse, probed: Probed, processes: Processes) -> Trial:
    place = probed.place
    where = f"; lines go behind {Path(place.file).name}:{place.line}, where the optimizer is made" if place else ""
    try:
        course.say(f"writing the patch: {trial.title}")
        file = _file(given, course, probed, processes)
        kinds = {change.kind for change in trial.changes}
        if probed.sets_rate and kinds & {"rate", "warmup"}:
            raise NoPatchError("the script sets the learning rate itself, step by step: change it there")
        if probed.has_schedule and "warmup" in kinds:
            raise NoPatchError("the script has a schedule of its own: put the two in a SequentialLR")
        texts = patched(trial, file, course.answers[trial.title, 0].shape)
    except InputError as error:
        return replace(trial, no_diff=f"{error}{where}")
    except OutOfTime:
        return replace(trial, no_diff=f"the edited script had made no network in {PATIENCE_S:.0f} s{where}")
    return replace(trial, diff=diff_of(file, texts))


def _file(given: str, course: ScriptCourse, probed: Probed, processes: Processes) -> UserFile:
    path, place = Path(given), probed.place
    if course.script.is_module:
        raise NoPatchError("a module's file is not edited")
    if not path.is_file() or Path(course.script.name).is_absolute():
        raise NoPatchError("the script does not lie in the working folder")

    def insert(tree: Any, lines: list[str]) -> Any:
        from gradtrace.repair.insertions import insert_behind

        if probed.num_optimizers > 1 and any("optimizer" in line for line in lines):
            raise NoPatchError(f"the script has {probed.num_optimizers} optimizers, and the lines are for each of them")
        if place is None or Path(place.file).name != path.name:
            raise NoPatchError("the optimizer is made in another file")
        return insert_behind(tree, place.line, lines, place.model)

    beside = {Path.cwd() / name: name for name in probed.files if Path(name) != path}

    def build(texts: Texts) -> Shape:
        order = Order(course.script, 1, is_shape_only=True)
        edited = {beside.get(place, course.script.name): text for place, text in texts.items()}
        answer = processes.ask(order, PATIENCE_S, edited)
        if not answer.shape:
            raise InputError(answer.failure or answer.refused)
        return answer.shape

    return UserFile(path, text_of(path), "", build, insert, _texts(beside))


def _texts(paths: Iterable[Path]) -> tuple[tuple[Path, str], ...]:
    return tuple((path, text_of(path)) for path in paths if path.is_file())
