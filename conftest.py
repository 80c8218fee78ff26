"""Executes the Python blocks of README.md, in order and in one namespace, in a folder of their own."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

# They import what may not be installed; tests/integrations/ runs them.
collect_ignore = [
    f"src/gradtrace/integrations/{name}.py"
    for name in ("accelerate", "fabric", "ignite", "keras", "lightning", "skorch", "transformers")
]


def _enter_folder(namespace: dict[str, Any]) -> None:
    namespace["_home"] = Path.cwd()
    namespace["_folder"] = tempfile.TemporaryDirectory()
    os.chdir(namespace["_folder"].name)


def _leave_folder(namespace: dict[str, Any]) -> None:
    os.chdir(namespace["_home"])
    namespace["_folder"].cleanup()


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()],
    patterns=["README.md"],
    excludes=["src/**"],
    setup=_enter_folder,
    teardown=_leave_folder,
).pytest()
