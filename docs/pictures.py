"""Draws the pictures of README.md and of the documentation anew: `make pictures`. Look at them before you commit.

What is drawn:

    docs/pictures/terminal.svg        what `gradtrace demo` prints of its network of sigmoids
    docs/pictures/live.svg            what `gradtrace run` draws of a training that diverges
    docs/pictures/report-*.png        the head of its report in a browser, light and dark
    docs/pictures/waterfall-*.png, flow-*.png, run-*.png    sections of reports
"""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docs.extensions.written_reports import watched_run, write_run
from PIL import Image
from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.terminal_theme import MONOKAI

import gradtrace
from gradtrace.casebook import CASES
from gradtrace.commands.demo.lecture import networks
from gradtrace.report.live import draw_picture

if TYPE_CHECKING:
    from gradtrace.records.finding import Diagnosis

PICTURES = Path(__file__).parent / "pictures"
WIDTH, HEIGHT = 1120, 830
"""CSS pixels of the browser's window."""
LIVE_WIDTH, LIVE_LINES = 80, 14
"""Cells, and lines of the gradient by depth."""
MAX_BYTES = 300_000


@dataclass(frozen=True, slots=True)
class Shot:
    """One photograph of a report: of a section, or of the top of the page."""

    name: str
    write: Callable[[Path], None]
    """Writes the report."""
    section: str = ""
    max_height: int = HEIGHT


def main() -> None:
    """Draw all of them."""
    PICTURES.mkdir(exist_ok=True)
    sigmoids = judge_sigmoids()
    (PICTURES / "terminal.svg").write_text(terminal(sigmoids.show, "gradtrace demo"), encoding="utf-8")
    live = draw_picture(watched_run().run, LIVE_WIDTH, LIVE_LINES)
    told = terminal(lambda console: console.print(*live, sep="\n"), "gradtrace run train.py", LIVE_WIDTH)
    (PICTURES / "live.svg").write_text(told, encoding="utf-8")
    shots = [
        Shot("report", sigmoids.report),
        Shot("waterfall", sigmoids.report, "waterfall", 855),
        Shot("flow", write_residual, "flow"),
        Shot("run", write_run, "run"),
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_chromium(), args=_sandbox())
        for shot in shots:
            photograph(browser, shot)
        browser.close()
    for path in sorted(PICTURES.iterdir()):
        assert path.stat().st_size < MAX_BYTES, f"{path} has {path.stat().st_size} bytes"


def judge_sigmoids() -> Diagnosis:
    """As `gradtrace demo` does."""
    target, _ = networks()
    diagnosis = gradtrace.check(target.model, target.loss_fn, target.batches, optimizer=target.optimizer)
    return replace(diagnosis, title=target.name)


def write_residual(path: Path) -> None:
    """Skips and branches: the flow has something to show."""
    case = CASES["prenorm_transformer"].build()
    diagnosis = gradtrace.check(case.model, case.loss_fn, case.batches)
    replace(diagnosis, title="a pre-norm transformer").report(path)


def terminal(draw: Callable[[Console], None], title: str, width: int = 100) -> str:
    """What `draw` prints, as SVG without a link to the network."""
    console = Console(record=True, width=width, file=io.StringIO(), color_system="truecolor", legacy_windows=False)
    draw(console)
    text = console.export_svg(title=title, theme=MONOKAI, unique_id="gradtrace")
    return re.sub(r"@font-face \{.*?\}\s*", "", text, flags=re.DOTALL)


def photograph(browser: Any, shot: Shot) -> None:
    """Light and dark."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.html"
        shot.write(file)
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme)
            page.goto(file.as_uri())
            page.wait_for_selector("html[data-ready=yes]", state="attached")
            path = PICTURES / f"{shot.name}-{scheme}.png"
            _shoot(page, shot, path)
            Image.open(path).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
            page.close()


def _shoot(page: Any, shot: Shot, path: Path) -> None:
    if not shot.section:
        page.screenshot(path=path)
        return
    box = page.locator(f"section#{shot.section}").bounding_box()
    height = min(box["height"], shot.max_height)
    page.screenshot(path=path, full_page=True, clip={**box, "x": 0, "width": WIDTH, "height": height})


def _chromium() -> str:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("GRADTRACE_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise SystemExit("make pictures needs chromium: install it, or set GRADTRACE_CHROMIUM")
    return found


def _sandbox() -> list[str]:
    return ["--no-sandbox"] if os.geteuid() == 0 else []  # chromium's sandbox refuses to run as root


if __name__ == "__main__":
    main()
