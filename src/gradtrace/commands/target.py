"""What does TARGET on the command line name? A factory that returns the model, the loss function and the batches.

    package.module:factory       path/to/file.py:factory

The current folder and the file's own stay on ``sys.path``: what `loss_fn` imports later is found too. Whatever goes
wrong is one sentence, with the line of the user's code.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradtrace.errors import InputError, describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from gradtrace.records.finding import Diagnosis

_EXPECTED = "package.module:factory or path/to/file.py:factory"
_PARTS = ("model", "loss_fn", "batches", "optimizer", "held_out")
_RETURNS = (
    "(model, loss_fn, batches), with optimizer and held_out behind these where there are any, or an object or dict "
    "with these names"
)


@dataclass(frozen=True, slots=True)
class Target:
    """What `gradtrace.check` takes, and how the user calls it."""

    name: str
    model: Any
    loss_fn: Any
    batches: Any
    optimizer: Any = None
    held_out: Any = None
    """Batches that nothing is trained on."""

    def check(self, **options: Any) -> Diagnosis:
        """The diagnosis, under the target's name; `options` are those of `gradtrace.check`."""
        import gradtrace

        found = gradtrace.check(self.model, self.loss_fn, self.batches, optimizer=self.optimizer, **options)
        return replace(found, title=self.name)


def load_target(text: str) -> Target:
    """Import the factory that `text` names, call it, and look at what it returns; raises `InputError`."""
    return as_target(load_made(text), text)


def load_made(text: str) -> Any:
    """What the factory that `text` names returns; raises `InputError`."""
    place, colon, name = text.rpartition(":")
    if not colon or not place or not name.isidentifier():
        raise InputError(f"TARGET must be {_EXPECTED}, but it is {text!r}")
    is_file = _is_file(place)
    folders = [str(Path.cwd())] + ([str(Path(place).resolve().parent)] if is_file else [])
    _add_to_path(folders)
    module = _import_file(place) if is_file else _import_module(place)
    with _told(f"calling {text}"):
        return _factory(module, place, name)()


def load_held_out(text: str, target: str) -> Any:
    """Batches of a function in the target's file, or in another that `text` names; raises `InputError`."""
    if ":" in text:
        return load_made(text)
    place = target.rpartition(":")[0]
    module = sys.modules.get(Path(place).stem if _is_file(place) else place)
    assert module is not None, "the target has been loaded"
    with _told(f"calling {place}:{text}"):
        return _factory(module, place, text)()


def file_of(text: str) -> str:
    """The file that the factory is defined in, '' where that is not known; its module is imported already."""
    place = text.rpartition(":")[0]
    return place if _is_file(place) else getattr(sys.modules.get(place), "__file__", None) or ""


def seen_from(text: str, folder: Path, *, of: Path | None = None) -> str:
    """The same target as one would name it in `folder`, where it is named in `of` (by default the current one).

    >>> seen_from("net.py:build", Path("/project"), of=Path("/project/models"))
    'models/net.py:build'
    """
    place, colon, name = text.rpartition(":")
    if not _is_file(place):
        return text
    return f"{Path(os.path.relpath((of or Path.cwd()) / place, folder)).as_posix()}{colon}{name}"


def _is_file(place: str) -> bool:
    return place.endswith(".py") or "/" in place or "\\" in place


def as_target(made: Any, name: str) -> Target:
    """Name the parts of what a factory returned; raises `InputError`."""
    if isinstance(made, tuple):
        if not 3 <= len(made) <= len(_PARTS):
            raise InputError(f"{name} must return {_RETURNS}, but it returned a tuple of {len(made)}")
        return Target(name, *made)
    parts = {key: made.get(key) if isinstance(made, Mapping) else getattr(made, key, None) for key in _PARTS}
    missing = [key for key in _PARTS[:3] if parts[key] is None]
    if missing:
        raise InputError(
            f"{name} must return {_RETURNS}, but it returned {type(made).__name__} without {' and '.join(missing)}"
        )
    return Target(name, **parts)


def load_audited(text: str) -> tuple[Any, Any]:
    """The model and what it is called with: (model, example_input), or the first call that `loss_fn` makes."""
    made = load_made(text)
    if isinstance(made, tuple) and len(made) == 2:
        return made
    loaded = as_target(made, text)
    from gradtrace.audit.arguments import captured_input
    from gradtrace.checkup.batches import take

    return loaded.model, captured_input(loaded.model, loaded.loss_fn, take(loaded.batches, 1)[0])


def _add_to_path(folders: list[str]) -> None:
    sys.path[:0] = [folder for folder in reversed(folders) if folder not in sys.path]


def _import_file(place: str) -> ModuleType:
    path = Path(place)
    if not path.is_file():
        raise InputError(f"there is no file {place} (from {Path.cwd()})")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{place} is not a Python file; expected {_EXPECTED}")
    module = importlib.util.module_from_spec(spec)
    shadowed = sys.modules.get(path.stem)
    sys.modules[path.stem] = module  # dataclasses and pickle look a class's module up
    try:
        with _told(f"importing {place}"):
            spec.loader.exec_module(module)
    except InputError:
        if shadowed is None:
            del sys.modules[path.stem]
        else:
            sys.modules[path.stem] = shadowed
        raise
    return module


def _import_module(place: str) -> ModuleType:
    try:
        with _told(f"importing {place}"):
            return importlib.import_module(place)
    except InputError as error:
        missing = error.__cause__
        if isinstance(missing, ModuleNotFoundError) and f"{place}.".startswith(f"{missing.name}."):
            raise InputError(f"there is no module {missing.name!r}; TARGET must be {_EXPECTED}") from missing
        raise


def _factory(module: ModuleType, place: str, name: str) -> Callable[[], Any]:
    factory = getattr(module, name, None)
    if factory is None:
        near = difflib.get_close_matches(name, [key for key, value in vars(module).items() if callable(value)], n=1)
        raise InputError(f"{place} has no {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    if not callable(factory):
        raise InputError(f"{place}:{name} must be a function without arguments, but it is {type(factory).__name__}")
    return factory  # type: ignore[no-any-return]


@contextlib.contextmanager
def _told(doing: str) -> Iterator[None]:
    """Turn whatever the user's code raises into one sentence; also a script that ends the process."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"{doing} raised {describe(error)}") from error
