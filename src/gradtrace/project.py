"""What does the project want to be checked? ``[tool.gradtrace]`` of pyproject.toml, or gradtrace.toml.

    [tool.gradtrace]                            # in gradtrace.toml without a table
    targets = ["net.py:build"]                  # what `gradtrace check` checks without a TARGET
    fail-on = "critical"
    baseline = "gradtrace-baseline.json"
    steps = 20

    [tool.gradtrace.thresholds]                 # those of `diagnosis.moved.MOVABLE`, each with the reason
    vanishing-decades = { value = 3.5, reason = "forty layers by design; it trains" }

The nearest of these files above the current folder counts; paths in it are relative to it. What a command or a function
is given comes first.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradtrace.errors import InputError
from gradtrace.records.vocabulary import Severity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from gradtrace.diagnosis.moved import Moved

OWN, PROJECT = "gradtrace.toml", "pyproject.toml"


@dataclass(frozen=True, slots=True)
class Settings:
    """What is not said is None."""

    file: Path | None = None
    """Where it is said."""
    targets: tuple[str, ...] = ()
    """As seen from the file's folder."""
    fail_on: Severity | None = None
    baseline: Path | None = None
    steps: int | None = None
    seed: int | None = None
    thresholds: tuple[Moved, ...] = ()


def find_settings(folder: Path | None = None) -> Settings:
    """Those of the nearest file above `folder`, or none; raises `InputError` for what cannot be."""
    for file, table in _files(folder or Path.cwd()):
        if table is not None:
            return _settings(file, table)
    return Settings()


def _files(folder: Path) -> Iterator[tuple[Path, Any]]:
    for one in (folder, *folder.parents):
        if (one / OWN).is_file():
            yield one / OWN, _read(one / OWN)
        if (one / PROJECT).is_file():
            tools = _read(one / PROJECT).get("tool")
            yield one / PROJECT, tools.get("gradtrace") if isinstance(tools, dict) else None


def _read(file: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        read: dict[str, Any] = tomllib.loads(file.read_text("utf-8"))
        return read
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {file}: {error}") from error


def _settings(file: Path, table: Any) -> Settings:
    if not isinstance(table, dict):
        raise InputError(f"{file}: gradtrace cannot be {table!r}; it is a table, as [tool.gradtrace]")
    takes: dict[str, Callable[[Any, Path], Any]] = {
        "targets": _targets,
        "fail-on": lambda value, _: Severity(value),
        "baseline": lambda value, folder: folder / _as(str, value),
        "steps": lambda value, _: _as_number(value, 2**31 - 1),
        "seed": lambda value, _: _as_number(value, 2**32 - 1),
        "thresholds": lambda value, _: _thresholds(file, value),
    }
    found: dict[str, Any] = {}
    for key, value in table.items():
        if key not in takes:
            raise InputError(f"{file}: there is no setting {key!r}; there are {', '.join(takes)}")
        try:
            found[key.replace("-", "_")] = takes[key](value, file.parent)
        except InputError:
            raise
        except (TypeError, ValueError) as error:
            raise InputError(f"{file}: {key} cannot be {value!r}; {_EXPECTED[key]}") from error
    return Settings(file=file, **found)


_EXPECTED = {
    "targets": "it is a list of targets, as ['net.py:build']",
    "fail-on": f"it is one of {', '.join(severity.value for severity in Severity)}",
    "baseline": "it is a file's path",
    "steps": "it is a number of optimizer steps",
    "seed": "it is a number from 0 to 2^32 - 1",
    "thresholds": "it is a table, as vanishing-decades = {value = 3.5, reason = '...'}",
}


def thresholds_here(given: Mapping[str, Any] | Iterable[Moved] | None) -> tuple[Moved, ...]:
    """Those that are given; None: those of the project."""
    if given is None:
        return find_settings().thresholds
    from gradtrace.diagnosis.moved import as_moved

    return as_moved(given)


def _thresholds(file: Path, table: Any) -> tuple[Moved, ...]:
    from gradtrace.diagnosis.moved import as_moved

    try:
        return as_moved(_as(dict, table))
    except InputError as error:
        raise InputError(f"{file}: {error}") from None


def _as(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError
    return value


def _as_number(value: Any, most: int) -> int:
    if not 0 <= _as(int, value) <= most:
        raise ValueError
    return int(value)


def _targets(value: Any, _folder: Path) -> tuple[str, ...]:
    return tuple(_as(str, target) for target in _as(list, value))
