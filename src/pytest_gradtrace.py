"""gradtrace in pytest: the fixture ``gradtrace`` with its assertions, and a page of the report per test that fails.

It stands outside of the package and imports neither it nor torch before a test asks: pytest loads it in every session.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

_MOST_LETTERS = 80
"""Of a test's name that a file's name keeps, so that folders of any depth can hold it."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option ``--gradtrace-report DIR``."""
    group = parser.getgroup("gradtrace", "the gradient of networks under test")
    group.addoption(
        "--gradtrace-report",
        metavar="DIR",
        help="keep the report of what was seen, one HTML page per test that fails by one of gradtrace's assertions",
    )


@pytest.fixture
def gradtrace() -> Any:
    """The assertions of `gradtrace.testing`: assert_gradients_flow, assert_trains, assert_finite."""
    from gradtrace import testing

    return testing


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep the page where a test fails with a diagnosis, and say where it is."""
    report = yield
    folder = item.config.getoption("--gradtrace-report")
    diagnosis = getattr(call.excinfo.value, "diagnosis", None) if call.excinfo is not None else None
    if folder is not None and report.failed and hasattr(diagnosis, "report"):
        report.sections.append(("gradtrace", _kept(diagnosis, item.config.invocation_params.dir / folder, item.nodeid)))
    return report


def _kept(diagnosis: Any, folder: Path, nodeid: str) -> str:
    """Write the page; what goes wrong is a sentence, and costs the test's own report nothing."""
    path = folder / f"{_file_name(nodeid)}.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        diagnosis.report(path)
    except Exception as error:
        return f"the report could not be kept ({type(error).__name__}: {error})"
    return f"report: {path}"


def _file_name(nodeid: str) -> str:
    """Of a test: readable, and another one for every test, also where parameters differ in signs alone."""
    file, _, test = nodeid.partition("::")  # a parameter may hold a slash as well
    readable = re.sub(r"[^\w.-]+", "-", f"{Path(file).stem}-{test}").strip("-")[-_MOST_LETTERS:]
    return f"{readable}-{hashlib.sha256(nodeid.encode()).hexdigest()[:8]}"
