"""Trainers take seconds to import: without the tests marked long their files are not even looked at."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    is_quick = config.option.markexpr == "not long"
    is_trainers = collection_path.suffix == ".py" and collection_path.name not in ("conftest.py", "test_follower.py")
    return True if is_quick and is_trainers else None
