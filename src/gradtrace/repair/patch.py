"""From a change that was tried to an edit of the user's file, its formatting kept.

Calls are edited where they stand (by line and name); an activation's class is renamed where the file names it; all else
is lines of plain torch in front of the factory's ``return``. What comes out is built once more and held against the
trained copy: module by module, parameter by parameter.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradtrace.errors import InputError
from gradtrace.records.repair import Change, Repair, SourceEdit, Trial
from gradtrace.repair.no_patch import NoPatchError

if TYPE_CHECKING:
    from collections.abc import Callable


Shape = tuple[tuple[str, ...], ...]
"""Modules and parameters, by which two networks are held against each other."""


@dataclass(frozen=True, slots=True)
class UserFile:
    """The file that holds the factory, as it was when the change was tried."""

    path: Path
    text: str
    factory: str
    build: Callable[[str], Shape]
    """From a source text to what it builds; runs the user's code, raises `InputError`."""
    insert: Callable[[Any, list[str]], Any] | None = None
    """Where lines go into the tree; None: in front of the factory's return."""


def with_diffs(repair: Repair, file: UserFile, wanted: Callable[[Trial], Shape]) -> Repair:
    """The repair with the diff of every proven trial, or why it has none."""
    trials = tuple(_with_diff(t, file, wanted) if t.proven else t for t in repair.trials)
    return replace(repair, trials=trials)


def _with_diff(trial: Trial, file: UserFile, wanted: Callable[[Trial], Shape]) -> Trial:
    try:
        text = patched(trial, file, wanted(trial))
    except NoPatchError as error:
        return replace(trial, no_diff=str(error))
    return replace(trial, diff=diff_of(file, text))


def diff_of(file: UserFile, text: str) -> str:
    """A unified diff that ``patch -p1`` applies in the folder that the path is relative to."""
    try:
        name = file.path.resolve().relative_to(Path.cwd()).as_posix()
    except ValueError:
        name = file.path.name
    before, after = (t.splitlines(keepends=True) for t in (file.text, text))
    lines = difflib.unified_diff(before, after, f"a/{name}", f"b/{name}")
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def patched(trial: Trial, file: UserFile, wanted: Shape) -> str:
    """The file's text with the change in, that builds what is `wanted`; raises `NoPatchError`."""
    reason = "its source could not be edited"
    for renamed in (True, False):
        try:
            text = _edited(trial.changes, file, renamed=renamed)
            built = file.build(text)
        except NoPatchError as error:
            reason = str(error)
            continue
        except InputError as error:
            reason = f"the edited file does not run: {error}"
            continue
        if built == wanted:
            return text
        reason = "the edited file builds another network than the one that was tried"
    raise NoPatchError(reason)


def shape_of(model: Any) -> Shape:
    """Class of each module, size of each parameter, hooks on the way forward."""
    modules = [(path, type(m).__name__, str(len(m._forward_pre_hooks) + len(m._forward_hooks)))
               for path, m in model.named_modules()]  # fmt: skip
    return (*modules, *((name, str(tuple(p.shape)), str(p.dtype)) for name, p in model.named_parameters()))


def _edited(changes: Sequence[Change], file: UserFile, *, renamed: bool) -> str:
    libcst = _libcst()
    from gradtrace.repair.edits import edit_calls, insert_lines

    tree = libcst.parse_module(file.text)
    at_lines: list[tuple[int, SourceEdit]] = []
    lines: list[str] = []
    names: dict[str, str] = {}
    for change in changes:
        by_line = [edit for edit in change.edits if edit.source]
        at_lines += [(_line(edit, file), edit) for edit in by_line]
        by_name = {edit.function: edit.text for edit in change.edits if not edit.source}
        code = change.code
        if by_name and renamed:
            names |= by_name
            code = _without_swap(code)
        if code and not (by_line and _is_comment(code)):
            lines += code.splitlines()
    if any(line.lstrip().startswith("#") and not line.startswith(" ") for line in lines[:1]):
        raise NoPatchError("it changes the forward pass, which only its author can write")
    if at_lines or names:
        tree = edit_calls(tree, at_lines, names)
    if lines:
        tree = file.insert(tree, lines) if file.insert is not None else insert_lines(tree, file.factory, lines)
    text: str = tree.code
    if text == file.text:
        raise NoPatchError("no place in the file was found to edit")
    return text


def _without_swap(code: str) -> str:
    """The loop over ``set_submodule`` falls away where the class is renamed."""
    lines = code.splitlines()
    if len(lines) > 1 and lines[0].startswith("for path in") and "set_submodule" in lines[1]:
        lines = lines[2:]
    return "\n".join(lines)


def _is_comment(code: str) -> bool:
    return all(line.lstrip().startswith("#") for line in code.splitlines())


def _line(edit: SourceEdit, file: UserFile) -> int:
    place, _, number = edit.source.rpartition(":")
    parts = Path(place).parts
    if file.path.resolve().parts[-len(parts) :] != parts:
        raise NoPatchError(f"the line to edit is in another file: {edit.source}")
    return int(number)


def _libcst() -> Any:
    try:
        import libcst
    except ImportError as error:
        raise InputError("a patch needs libcst: pip install libcst") from error
    return libcst


def patched_text(text: str, diff: str) -> str:
    r"""What `diff` makes of `text`: the lines that it was made from are known to be there.

    >>> before, after = "a\nb\nc\n", "a\nB\nc\n"
    >>> diff = "".join(difflib.unified_diff(before.splitlines(True), after.splitlines(True)))
    >>> patched_text(before, diff)
    'a\nB\nc\n'
    """
    lines, made, at, kind = text.splitlines(keepends=True), list[str](), 0, ""
    for line in diff.splitlines(keepends=True)[2:]:
        if line.startswith("@@"):
            start = int(line.split()[1].split(",")[0].removeprefix("-"))
            start -= 1 if not line.split()[1].endswith(",0") else 0
            made += lines[at:start]
            at = start
        elif line.startswith("\\"):
            made[-1] = made[-1].removesuffix("\n") if kind == "+" else made[-1]
        elif line.startswith("+"):
            made.append(line[1:])
        else:
            made += [lines[at]] if line.startswith(" ") else []
            at += 1
        kind = line[0]
    return "".join(made + lines[at:])
