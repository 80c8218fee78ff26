"""How does the lesson become one file? With the report's sheet, scripts and policy, and chapters of its own."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

import gradtrace
from gradtrace.lesson import presets
from gradtrace.lesson.equations import mathml
from gradtrace.lesson.facts import NAMES, PYTORCH_SIGMA_W, SATURATED_FRAC, facts
from gradtrace.lesson.figures import figures
from gradtrace.lesson.words import decades, exact, factor, lost, number, percent
from gradtrace.report.html.assets import policy_of, read, shared_script
from gradtrace.report.html.assets import style as report_style
from gradtrace.report.html.page import write_text
from gradtrace.report.html.section import as_json

if TYPE_CHECKING:
    from gradtrace.lesson.measured import Lesson

_STATIC = Path(__file__).with_name("static")
SCRIPTS = (
    "generator.js",
    "functions.js",
    "network.js",
    "theory.js",
    "chapter.js",
    "chain.js",
    "slopes.js",
    "decades.js",
    "growth.js",
    "sizes.js",
    "training.js",
    "compare.js",
    "sameness.js",
    "recurrent.js",
)
"""In the order in which they run, behind those that are shared with the report."""
SHARED = ("vendor/d3.min.js", "page.js", "chart.js", "waterfall.js", "run.js", "repair.js")
CHAPTERS = (
    ("step", "Step"),
    ("product", "Product"),
    ("slope", "Slope"),
    ("bound", "Bound"),
    ("offset", "Offset"),
    ("sizes", "Sizes"),
    ("learning", "Learning"),
    ("relu", "ReLU"),
    ("exploding", "Exploding"),
    ("deep", "Very deep"),
    ("recurrent", "Recurrent"),
    ("proof", "Proof"),
    ("yours", "Yours"),
)
"""Key and short name; each is a file in templates/chapters."""


def write_lesson(path: str | Path) -> None:
    """Measure the lesson's networks (seconds) and write it to `path`: one HTML file that needs no network.

    Always the same page; the caller's random numbers are not touched.

    Raises:
        TraceFileError: the file cannot be written.
    """
    from gradtrace.lesson.measurement import measure_lesson

    write_text(Path(path), render(measure_lesson()))


def render(lesson: Lesson) -> str:
    """The page as text."""
    plots = figures(lesson)
    about = [asdict(facts(name)) for name in NAMES]
    style = f"{report_style()}\n{read(_STATIC / 'lesson.css')}"
    scripts = [*map(shared_script, SHARED), *(read(_STATIC / name) for name in SCRIPTS), shared_script("start.js")]
    return _template().render(
        chapters=CHAPTERS,
        version=gradtrace.__version__,
        policy=policy_of(style, scripts),
        style=Markup(style),
        scripts=[Markup(text) for text in scripts],
        data=Markup(as_json({"functions": about} | {key: plot.data for key, plot in plots.items()})),
        plots=plots,
        lesson=lesson,
        networks=lesson.networks,
        facts={name: facts(name) for name in NAMES},
        names=NAMES,
        presets=presets,
        pytorch_sigma_w=PYTORCH_SIGMA_W,
        saturated_frac=SATURATED_FRAC,
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader("gradtrace.lesson"), jinja2.PackageLoader("gradtrace.report.html")]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["math"] = mathml
    environment.filters |= {
        "number": number,
        "exact": exact,
        "decades": decades,
        "lost": lost,
        "factor": factor,
        "percent": percent,
        "times": times,
        "setting": setting,
        "log10": log10,
    }
    return environment.get_template("lesson.html.j2")


def times(log: float) -> str:
    """What is left of a loss, of a paired difference of logarithms.

    >>> times(-1.0)
    '0.368'
    """
    return number(math.exp(log))


def log10(value: float) -> float:
    """Where a value stands on a slider of decades."""
    return round(math.log10(value), 4)


def setting(values: dict[str, Any]) -> str:
    """What a button sets, for its data attribute."""
    return json.dumps(values)
