"""From a change that was tried to an edit of the user's file, its formatting kept.

Calls are edited where they stand (by line and name), in whichever file of the project; an activation's class is renamed
where a file names it; all else is lines of plain torch in front of the factory's ``return``. What comes out is built
once more and held against the trained copy: module by module, parameter by parameter.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradtrace.errors import InputError
from gradtrace.records.change import Change, SourceEdit
from gradtrace.records.repair import Repair, Trial
from gradtrace.repair.no_patch import NoPatchError
from gradtrace.tape.private import hooks_of, step_hooks_of

if TYPE_CHECKING:
    from collections.abc import Callable


Shape = tuple[tuple[str, ...], ...]
"""Modules and parameters, by which two networks are held against each other."""


Texts = dict[Path, str]
"""What files become."""


@dataclass(frozen=True, slots=True)
class UserFile:
    """The file that holds the factory, and those beside it, as they were when the change was tried."""

    path: Path
    text: str
    factory: str
    build: Callable[[Texts], Shape]
    """From edited files to what they build; runs the user's code, raises `InputError`."""
    insert: Callable[[Any, list[str]], Any] | None = None
    """Where lines go into the tree; None: in front of the factory's return."""
    beside: tuple[tuple[Path, str], ...] = ()
    """Other files of the project that the network comes from, with their texts."""

    @property
    def texts(self) -> Texts:
        """Of all of them, the factory's first."""
        return {self.path: self.text, **dict(self.beside)}


def with_diffs(repair: Repair, file: UserFile, wanted: Callable[[Trial], Shape]) -> Repair:
    """The repair with the diff of every proven trial, or why it has none."""
    trials = tuple(_with_diff(t, file, wanted) if t.proven else t for t in repair.trials)
    return replace(repair, trials=trials)


def _with_diff(trial: Trial, file: UserFile, wanted: Callable[[Trial], Shape]) -> Trial:
    try:
        texts = patched(trial, file, wanted(trial))
    except NoPatchError as error:
        return replace(trial, no_diff=str(error))
    return replace(trial, diff=diff_of(file, texts))


def name_in_diff(path: Path) -> str:
    """Relative to the working folder, where it lies within."""
    try:
        return path.resolve().relative_to(Path.cwd()).as_posix()
    except ValueError:
        return path.name


def diff_of(file: UserFile, texts: Texts) -> str:
    """A unified diff that ``patch -p1`` applies in the folder that the paths are relative to."""
    told = []
    for path, text in texts.items():
        name = name_in_diff(path)
        before, after = (t.splitlines(keepends=True) for t in (file.texts[path], text))
        lines = difflib.unified_diff(before, after, f"a/{name}", f"b/{name}")
        told += [line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines]
    return "".join(told)


def patched(trial: Trial, file: UserFile, wanted: Shape) -> Texts:
    """The texts with the change in, that build what is `wanted`; raises `NoPatchError`."""
    reason = "its source could not be edited"
    for naming in Naming:
        try:
            texts = _edited(trial.changes, file, naming)
            built = file.build(texts)
        except NoPatchError as error:
            reason = str(error)
            continue
        except InputError as error:
            reason = f"the edited file does not run: {error}"
            continue
        if built == wanted:
            return texts
        reason = "the edited file builds another network than the one that was tried"
    raise NoPatchError(reason)


class Naming(Enum):
    """Where classes are renamed: in the order in which it is tried."""

    HERE = 0
    """In the file of the factory."""
    BESIDE = 1
    """In every other file that names them."""
    NOWHERE = 2
    """Lines put one in the place of the other."""


def shape_of(model: Any, optimizer: Any = None) -> Shape:
    """Class of each module, size of each parameter, hooks on the way forward; what each optimizer steps with."""
    modules = [(path, type(m).__name__, str(len(hooks_of(m))))
               for path, m in model.named_modules()]  # fmt: skip
    parameters = [(name, str(tuple(p.shape)), str(p.dtype)) for name, p in model.named_parameters()]
    optimizers = optimizer if isinstance(optimizer, list | tuple) else [optimizer] if optimizer is not None else []
    return (*modules, *parameters, *map(_steps_with, optimizers))


def _steps_with(optimizer: Any) -> tuple[str, ...]:
    """Rates, eps and decay as they are told, how many parameters it holds, hooks around its steps."""
    groups = optimizer.param_groups
    keys = "lr", "eps", "weight_decay"
    told = [f"{key}={group[key]:.4g}" for group in groups for key in keys if isinstance(group.get(key), float)]
    hooks = tuple(map(len, step_hooks_of(optimizer)))
    return (type(optimizer).__name__, *told, str(sum(len(group["params"]) for group in groups)), str(hooks))


def _edited(changes: Sequence[Change], file: UserFile, naming: Naming) -> Texts:
    from gradtrace.repair.edits import edit_calls
    from gradtrace.repair.insertions import insert_lines

    at_lines: dict[Path, list[tuple[int, SourceEdit]]] = {path: [] for path in file.texts}
    lines: list[str] = []
    names: dict[str, str] = {}
    for change in changes:
        by_line = [edit for edit in change.edits if edit.source]
        for edit in by_line:
            path, line = _place(edit, file)
            at_lines[path].append((line, edit))
        by_name = {edit.function: edit.text for edit in change.edits if not edit.source}
        code = change.code
        if by_name and naming is not Naming.NOWHERE:
            names |= by_name
            code = _without_swap(code)
        if code and not (by_line and _is_comment(code)):
            lines += code.splitlines()
    if any(line.lstrip().startswith("#") and not line.startswith(" ") for line in lines[:1]):
        raise NoPatchError("it changes the forward pass, which only its author can write")
    named = _named_in(file, names, naming)
    texts = {}
    for path, text in file.texts.items():
        tree = _libcst().parse_module(text)
        if at_lines[path] or path in named:
            tree = edit_calls(tree, at_lines[path], named.get(path, {}))
        if lines and path == file.path:
            tree = file.insert(tree, lines) if file.insert is not None else insert_lines(tree, file.factory, lines)
        if tree.code != text:
            texts[path] = tree.code
    if not texts:
        raise NoPatchError("no place in the file was found to edit")
    return texts


def _named_in(file: UserFile, names: dict[str, str], naming: Naming) -> dict[Path, dict[str, str]]:
    """Which of the names are renamed in which file; raises `NoPatchError` for one that stands in none."""
    if not names or naming is Naming.HERE:
        return {file.path: names} if names else {}
    found = {}
    for path, text in file.beside:
        here = {name: new for name, new in names.items() if re.search(rf"\b{re.escape(name)}\b", text)}
        if here:
            found[path] = here
    missing = set(names).difference(*found.values())
    if missing:
        raise NoPatchError(f"no file of the project names {', '.join(sorted(missing))}")
    return found


def _without_swap(code: str) -> str:
    """The loop over ``set_submodule`` falls away where the class is renamed."""
    lines = code.splitlines()
    if len(lines) > 1 and lines[0].startswith("for path in") and "set_submodule" in lines[1]:
        lines = lines[2:]
    return "\n".join(lines)


def _is_comment(code: str) -> bool:
    return all(line.lstrip().startswith("#") for line in code.splitlines())


def _place(edit: SourceEdit, file: UserFile) -> tuple[Path, int]:
    """File and line; the file as it is seen from the working folder, or by its last names."""
    place, _, number = edit.source.rpartition(":")
    parts = Path(place).parts
    exact = [path for path in file.texts if path.resolve() == Path(place).resolve()]
    alike = [path for path in file.texts if path.resolve().parts[-len(parts) :] == parts]
    if not exact and len(alike) != 1:
        raise NoPatchError(f"the line to edit is in another file: {edit.source}")
    return (exact or alike)[0], int(number)


def _libcst() -> Any:
    try:
        import libcst
    except ImportError as error:
        raise InputError("a patch needs libcst: pip install libcst") from error
    return libcst


def parts_of(diff: str) -> dict[str, str]:
    r"""The diff of each file, by its name.

    >>> list(parts_of("--- a/net.py\n+++ b/net.py\n@@ -1 +1 @@\n-a\n+b\n--- a/m.py\n+++ b/m.py\n"))
    ['net.py', 'm.py']
    """
    found: dict[str, list[str]] = {}
    lines = diff.splitlines(keepends=True)
    name = ""
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("--- a/") and following.startswith("+++ b/"):
            name = line.removeprefix("--- a/").rstrip("\n")
        found.setdefault(name, []).append(line)
    return {name: "".join(part) for name, part in found.items()}


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
