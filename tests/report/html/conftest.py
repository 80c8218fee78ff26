"""The pages of the tests, each written once."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.report.html.pages import PAGES


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """Name of a page -> its file, each written once."""
    folder, files = tmp_path_factory.mktemp("pages"), dict[str, Path]()

    def write(name: str) -> Path:
        if name not in files:
            files[name] = folder / f"{name}.html"
            files[name].write_text(PAGES[name](), encoding="utf-8")
        return files[name]

    return write


@pytest.fixture
def visit(open_page, written):
    """Open a page by its name."""
    return lambda name, **options: open_page(written(name).as_uri(), **options)
