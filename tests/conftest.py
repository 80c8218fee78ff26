"""Same seeds, same threads and patient Hypothesis for every test; and a browser for the pages.

Debian's chromium, driven by playwright. Without either the tests of the pages are skipped, loudly.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys

import numpy as np
import pytest
import torch
from hypothesis import settings

settings.register_profile("gradtrace", deadline=None, derandomize=True)
settings.load_profile("gradtrace")

torch.set_num_threads(min(2, torch.get_num_threads()))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a shell's background; every process started here inherits it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _fixed_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _nothing_is_compiled() -> None:
    """What one test compiles is none of the next one's business: a watch takes no whole traces where anything is."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_chromium() -> str | None:
    """$GRADTRACE_CHROMIUM, or the first of the usual names on the path."""
    return os.environ.get("GRADTRACE_CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUMS)), None)


@pytest.fixture(scope="session")
def browser(request):
    playwright = pytest.importorskip("playwright.sync_api", reason="NO PLAYWRIGHT: the pages were not tested")
    path = find_chromium()
    if path is None:
        pytest.skip("NO CHROMIUM: the pages were not tested in a browser; install it (apt-get install chromium)")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # chromium's sandbox refuses to run as root
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=sandbox)
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser):
    """Open a file; whatever the browser complains of fails the test at its end."""
    contexts, complaints, requests = [], list[str](), list[str]()

    def go(uri: str, *, width: int = 1280, height: int = 900, dark: bool = False, script: bool = True):
        scheme = "dark" if dark else "light"
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme,
                                      java_script_enabled=script, reduced_motion="reduce")  # fmt: skip
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        page.on("request", lambda asked: requests.append(asked.url))
        page.goto(uri)
        if script:
            page.wait_for_selector("html[data-ready=yes]", state="attached")
        return page

    yield go
    for context in contexts:
        context.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith("file:")] == []
