"""Is the documentation whole: do links lead somewhere, is every page in the contents, is every command one that exists?

The long test builds it as `make docs` does: tutorials executed, warnings as errors. It needs the extra `docs`.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path
from xml.etree import ElementTree

import click
import pytest
from docs.extensions import cases, code_tables, drawing, from_code

from gradtrace.casebook import CASES
from gradtrace.commands.main import main
from gradtrace.diagnosis import thresholds
from gradtrace.records import vocabulary
from gradtrace.records.finding import Diagnosis
from gradtrace.records.vocabulary import Factor
from gradtrace.report.rows import Row
from gradtrace.report.tables import Picture
from gradtrace.report.words import decades

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8") for path in DOCS.rglob("*.md")
         if "_build" not in path.parts}  # fmt: skip
MAX_COLUMNS = 92
"""What a block of code shows beside the navigation without scrolling."""


def blocks(text: str, *languages: str) -> list[str]:
    fences = re.findall(r"^```(\S+)[^\n]*\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(text) for language, text in fences if language in languages]


def test_every_page_is_in_the_contents():
    listed = set()
    for page, text in PAGES.items():
        for body in re.findall(r"^```\{toctree\}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
            names = [line for line in body.splitlines() if line and not line.startswith(":")]
            listed |= {(Path(page).parent / f"{name}.md").as_posix() for name in names}
    assert listed == PAGES.keys() - {"index.md"}


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_and_pictures_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", PAGES[page]) + re.findall(r"\{image\} (\S+)", PAGES[page])
    for target in targets:
        file, _, anchor = target.partition("#")
        if "://" in target:
            continue
        found = (DOCS / page).parent / file if file else DOCS / page
        assert found.is_file(), f"{page} links to {target}"
        if anchor:
            titles = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, target


@pytest.mark.parametrize("page", PAGES)
def test_blocks_of_python_are_python_and_fit(page):
    for block in blocks(PAGES[page], "python", "{code-cell}"):
        lines = [line for line in block.splitlines() if not line.startswith("!")]
        ast.parse("\n".join(lines))
        if page.startswith(("howto", "tutorials", "start")):
            assert max(map(len, lines), default=0) <= MAX_COLUMNS, max(lines, key=len)


@pytest.mark.parametrize("page", [*PAGES, "README.md"])
def test_commands_exist_with_their_options(page):
    text = PAGES.get(page) or (ROOT / page).read_text(encoding="utf-8")
    shell = "\n".join(blocks(text, "bash", "yaml", "{code-cell}"))
    told = re.findall(r"^(?:!|- run: |  run: )?gradtrace (\w.*)$", shell, flags=re.MULTILINE)
    told += [command for command in re.findall(r"`gradtrace (\w[^`]*)`", text) if not command.endswith("...")]
    for command in told:
        name, *arguments = shlex.split(command.partition(" | ")[0], comments=True)
        found = main.get_command(click.Context(main), name)
        assert found is not None, f"{page}: gradtrace {command}"
        found.parse_args(click.Context(found, resilient_parsing=True), arguments)  # raises NoSuchOption


def test_a_readme_s_picture_exists_and_is_light():
    names = re.findall(r"docs/pictures/[\w.-]+", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(names) >= 2
    for path in {*(ROOT / name for name in names), *(DOCS / "pictures").iterdir()}:
        assert 5_000 < path.stat().st_size < 300_000, path


# ------------------------------------------------------------------------------------------------ what comes from code


def test_marks_are_known_and_every_family_of_the_casebook_has_its_page():
    marks = [mark.split() for text in PAGES.values() for mark in re.findall(r"^<!-- from code: (.+) -->$", text, re.M)]
    assert {name for name, *_ in marks} == from_code.WRITERS.keys()
    families = {case.build.__module__.rpartition(".")[2] for case in CASES.values()}
    assert {rest[0] for name, *rest in marks if name == "casebook"} == families


def test_no_threshold_is_left_out():
    names = {name for name in vars(thresholds) if name.isupper()}
    assert set(re.findall(r"^`([A-Z_]+)` = ", code_tables.thresholds(), flags=re.MULTILINE)) == names


@pytest.mark.parametrize("name", ["Symptom", "Cause", "Factor", "Severity"])
def test_every_word_says_what_it_is(name):
    told = re.findall(r"^`(\w+)`\n: \w", code_tables.enum(name), flags=re.MULTILINE)
    assert told == [member.value for member in getattr(vocabulary, name)]


def test_a_picture_s_bars_add_up_and_names_are_escaped():
    first, second = "</svg><script>", "input"
    rows = (
        Row(first, first, 1, {Factor.WEIGHT: -1.0, Factor.ACTIVATION: -2.0}, 0.0, -3.0, "sigmoid", 1.0, 0.1),
        Row(second, second, 1, {Factor.NORM: 1.0}, -3.0, -2.0, "", 1.0, 0.1),
    )
    table = Picture(rows, 2, (Factor.WEIGHT,), {}, 0.0, 0.0, 0, ())
    svg = ElementTree.fromstring(drawing.waterfall(table, []))
    bars = {bar.get("class"): (float(bar.get("x")), float(bar.get("width"))) for bar in svg.iter("rect")}
    assert bars["activation"][1] == pytest.approx(2 * bars["weight"][1], abs=0.1)
    assert bars["norm gained"][1] == pytest.approx(bars["weight"][1], abs=0.1)
    assert bars["activation"][0] == pytest.approx(bars["weight"][0] + bars["weight"][1], abs=0.1)
    texts = [text.text for text in svg.iter("text")]
    assert {first, decades(-3.0), decades(-2.0)} <= set(texts)


def test_nothing_to_draw_is_said():
    assert "nothing to draw" in drawing.draw(Diagnosis(findings=()))


def test_a_curve_has_a_gap_where_a_number_is_not_finite():
    svg = drawing.curve([1.0, 2.0, float("nan"), 4.0], "loss").partition("<figcaption>")[0]
    points = [line.get("points").split() for line in ElementTree.fromstring(svg).iter("polyline")]
    assert [len(each) for each in points] == [2, 1]
    assert float(points[0][0].split(",")[1]) > float(points[1][0].split(",")[1])  # the larger the higher up


@pytest.mark.parametrize("name", ["detach", "sqrt_zero"])
def test_a_case_is_shown_with_truth_verdict_and_what_no_bar_can_show(name):
    shown = cases.show(name)
    assert shown.is_right
    assert (shown.truth, shown.verdict) == (tuple(map(str, CASES[name].accepted[0])), shown.truth)
    assert ("no gradient" if name == "detach" else "born here: Sqrt, backward") in shown.picture


# -------------------------------------------------------------------------------------------------------------- build


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("sphinx") is None, reason="NO SPHINX: the documentation was not built")
def test_it_builds_without_a_warning_and_needs_no_network(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-E", "-W", "--keep-going", "-q", "-d", str(tmp_path / "doctrees")]
    result = subprocess.run([*command, str(DOCS), str(tmp_path / "html")], capture_output=True, text=True, timeout=900,
                            check=False)  # fmt: skip
    assert result.returncode == 0, result.stderr
    built = {page: (tmp_path / "html" / page).with_suffix(".html").read_text(encoding="utf-8") for page in PAGES}
    for page, text in built.items():
        asked = re.findall(r'<(?:script|img|link|iframe)[^>]+(?:src|href)="(https?:[^"]+)"', text)
        assert asked == [], page
    assert "activation_derivative" in built["tutorials/first_diagnosis.md"]
    assert "<math" in built["explanation/identity.md"]
    names = re.findall(r'href="(reports/\w+\.html)"', PAGES["report.md"] + PAGES["lesson.md"])
    assert len(names) == 3
    for name in names:
        assert (tmp_path / "html" / name).stat().st_size > 100_000
