"""What does the factory make once its files are edited? They are imported anew, with other texts, and forgotten."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from gradtrace.commands.seeds import seed_all
from gradtrace.commands.target import Target, as_target
from gradtrace.errors import InputError, describe
from gradtrace.repair.project import project_modules, text_of


def build_edited(texts: Mapping[Path, str], path: Path, factory: str, seed: int) -> Target:
    """What the factory in `path` makes where these files had these texts; raises `InputError`."""
    module = ModuleType(f"{path.stem}_edited")
    module.__file__ = str(path)
    text = texts[path] if path in texts else text_of(path)
    others = {str(other.resolve()): text for other, text in texts.items() if other != path}
    with _imported_anew(others, path.resolve().parent):
        sys.modules[module.__name__] = module  # dataclasses look a class's module up
        try:
            seed_all(seed)
            exec(compile(text, str(path), "exec"), module.__dict__)
            return as_target(getattr(module, factory)(), factory)
        except InputError:
            raise
        except (Exception, SystemExit) as error:
            raise InputError(describe(error)) from error
        finally:
            del sys.modules[module.__name__]


@contextlib.contextmanager
def _imported_anew(texts: Mapping[str, str], folder: Path) -> Iterator[None]:
    """Whatever may hold something of the edited files is imported once more within."""
    if not texts:
        yield
        return
    before = {name: sys.modules.pop(name) for place in (folder, Path.cwd()) for name in project_modules(place)}
    finder = _EditedFinder(texts)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for place in (folder, Path.cwd()):
            for name in project_modules(place):
                del sys.modules[name]
        sys.modules.update(before)


class _EditedFinder:
    """Finds what Python's own finder does, and reads some of it from memory."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Of an edited file alone; everything else is for the others."""
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.origin is None:
            return None
        text = self._texts.get(str(Path(spec.origin).resolve()))
        if text is None:
            return None
        spec.loader = _EditedLoader(name, spec.origin, text)
        return spec


class _EditedLoader(SourceFileLoader):
    def __init__(self, name: str, path: str, text: str) -> None:
        super().__init__(name, path)
        self._text = text

    def get_code(self, fullname: str) -> Any:
        return compile(self._text, self.path, "exec")
