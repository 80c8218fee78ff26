"""A browser for the page's tests: Debian's chromium, driven by playwright. Without either they are skipped, loudly."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from tests.report.html.pages import PAGES

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_chromium() -> str | None:
    """$GRADTRACE_CHROMIUM, or the first of the usual names on the path."""
    return os.environ.get("GRADTRACE_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture(scope="session")
def browser(request):
    playwright = pytest.importorskip("playwright.sync_api", reason="NO PLAYWRIGHT: the report's page was not tested")
    path = find_chromium()
    if path is None:
        pytest.skip("NO CHROMIUM: the report's page was not tested in a browser; install it (apt-get install chromium)")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # chromium's sandbox refuses to run as root
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=sandbox)
        yield opened
        opened.close()


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
def visit(browser, written):
    """Open a page; whatever the browser complains of fails the test at its end."""
    contexts, complaints, requests = [], list[str](), list[str]()

    def go(name: str, *, width: int = 1280, height: int = 900, dark: bool = False, script: bool = True):
        scheme = "dark" if dark else "light"
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme,
                                      java_script_enabled=script, reduced_motion="reduce")  # fmt: skip
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        page.on("request", lambda asked: requests.append(asked.url))
        page.goto(written(name).as_uri())
        if script:
            page.wait_for_selector("html[data-ready=yes]", state="attached")
        return page

    yield go
    for context in contexts:
        context.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith("file:")] == []
