"""What does the page carry with it? One style sheet, the scripts, and a policy that allows nothing else.

The Content-Security-Policy names each inline element by its SHA-256 (CSP level 3, section 6.7.3.2): whatever came into
the file by any other way does not run, and nothing is fetched.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_STATIC = Path(__file__).with_name("static")

SCRIPTS = (
    "vendor/d3.min.js",
    "vendor/d3-sankey.min.js",
    "page.js",
    "chart.js",
    "waterfall.js",
    "flow.js",
    "heat.js",
    "activations.js",
    "through_time.js",
    "run.js",
    "ranks.js",
    "repair.js",
    "compare.js",
    "start.js",
)
"""In the order in which they run; each is a script element of its own."""
LIVE_SCRIPT = "live.js"


@cache
def scripts(*, live: bool = False) -> tuple[str, ...]:
    """The text of every script; a live page has one more."""
    return tuple(shared_script(name) for name in (*SCRIPTS, *((LIVE_SCRIPT,) if live else ())))


def shared_script(name: str) -> str:
    """The text of one script of the report's; the lesson uses some of them too."""
    return read(_STATIC / name)


@cache
def style() -> str:
    """The style sheet."""
    return read(_STATIC / "report.css")


def read(path: Path) -> str:
    """A script or a sheet as it stands in its element."""
    text = path.read_text(encoding="utf-8").strip()
    assert not any(end in text for end in ("</script", "</style", "<!--")), f"{path.name} would end its element"
    return text


@cache
def policy(*, live: bool = False) -> str:
    """The Content-Security-Policy of the page; a live page may also ask its own server for news."""
    return policy_of(style(), scripts(live=live), connect="'self'" if live else "'none'")


def policy_of(style: str, scripts: Sequence[str], connect: str = "'none'") -> str:
    """The policy of a page with this sheet and these scripts."""
    told = {
        "default-src": "'none'",
        "script-src": " ".join(_hash(text) for text in scripts),
        "style-src": _hash(style),
        "img-src": "data:",
        "connect-src": connect,
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in told.items())


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
