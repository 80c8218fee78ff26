"""Thresholds, words, remedies and activations as Markdown, read from the very source that holds them."""

from __future__ import annotations

import ast
import importlib
import inspect
import math
import pkgutil
import re
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradtrace.casebook import CASES
from gradtrace.diagnosis import rules as rule_files
from gradtrace.diagnosis import thresholds as threshold_file
from gradtrace.records import vocabulary
from gradtrace.records.codes import USUAL, meaning_of
from gradtrace.remedies.catalogue import REMEDIES
from gradtrace.report.explanation import of_code
from gradtrace.report.glossary import WORDS
from gradtrace.tape import kinds
from gradtrace.theory.table import activation_rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results.md"


def plain(text: str) -> str:
    r"""Text of a docstring as Markdown: signs that would be markup are escaped, `code` stays, lines are joined.

    >>> plain("`x` is |a * b| <\n  c_1")
    '`x` is |a \\* b| &lt; c_1'
    """
    parts = re.split(r"(`[^`]+`)", inspect.cleandoc(text))
    escaped = [part if place % 2 else _escape(part) for place, part in enumerate(parts)]
    return " ".join("".join(escaped).split())


def _escape(text: str) -> str:
    return re.sub(r"([\\*\[\]])", r"\\\1", text).replace("<", "&lt;").replace("$", "&#36;")


def documented(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    """(name, docstring below it) of every assignment that has one."""
    for statement, below in pairwise(body):
        told = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(statement, ast.Assign) and told:
            yield ast.unparse(statement.targets[0]), str(below.value.value)  # type: ignore[attr-defined]


def thresholds() -> str:
    """Every number that a rule compares with: value, unit, meaning and where it comes from."""
    found = []
    for name, text in documented(_tree(threshold_file).body):
        unit, rest = re.fullmatch(r"(?:\[(.+?)\])?\s*(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
        value = _value(getattr(threshold_file, name), unit or "")
        found.append(f"`{name}` = {value}\n: {plain(rest)}")
    (function,) = (f for f in _tree(threshold_file).body if isinstance(f, ast.FunctionDef))
    told = plain((ast.get_docstring(function) or "").split("\n\n")[0])
    found.append(f"`{function.name}(...)`\n: {told}")
    return "\n\n".join(found)


def _value(value: object, unit: str) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name} {_entry(each)}" for name, each in value.items())
    number = f"{value:g}".replace("e-0", "e-").replace("e+", "e")
    return f"**{number}**" if unit.startswith("pure number") else f"**{number}** {plain(unit)}"


def _entry(value: object) -> str:
    """Of a number format: its smallest exponent and largest number, or the distance of 1 to the next number."""
    if isinstance(value, tuple):
        exponent, largest = value
        return f"2^{exponent} and {largest:g}"
    return f"2^{math.log2(value):g}"  # type: ignore[arg-type]


def enum(name: str) -> str:
    """The values of an enum of the vocabulary, each with what it is."""
    (found,) = (n for n in _tree(vocabulary).body if isinstance(n, ast.ClassDef) and n.name == name)
    members = getattr(vocabulary, name)
    return "\n\n".join(f"`{members[member].value}`\n: {plain(text)}" for member, text in documented(found.body))


def glossary() -> str:
    """The words of the reports."""
    return "\n\n".join(f"**{word}**\n: {plain(told)}" for word, told in WORDS.items())


def codes() -> str:
    """Every code with a page, a line each."""
    found = [of_code(*meaning) for code in USUAL if (meaning := meaning_of(code)) is not None]
    return "\n".join(f"- [{each.title[:5]}]({each.title[:5]}.md) {each.title[5:].strip()}" for each in found)


def code(name: str) -> str:
    """The page of one code: what is seen, why, what to change, and cases of it."""
    meaning = meaning_of(name)
    assert meaning is not None, name
    told, words = of_code(*meaning), tuple(map(str, meaning))
    changes = "\n".join(map(_remedy, told.remedies))
    alike = [case for case, found in CASES.items() if words in [tuple(map(str, each)) for each in found.accepted]]
    cases = "".join(f"\n- `gradtrace demo {case}`" for case in alike)
    parts = [f"# {told.title}", *map(plain, told.paragraphs), f"## What to change\n\n{changes}" if changes else ""]
    parts += [f"## See it\n{cases}" if cases else "", f"`gradtrace explain {name}` says the same."]
    return "\n\n".join(filter(None, parts))


def remedies() -> str:
    """Every cause with what to change, the most effective first."""
    return "\n\n".join(f"## `{cause.value}`\n\n" + "\n".join(map(_remedy, told)) for cause, told in REMEDIES.items())


def _remedy(remedy: Any) -> str:
    source = f" ({plain(remedy.source)})" if remedy.source else ""
    code = f"\n\n   ```python\n{_indent(remedy.code)}\n   ```\n" if remedy.code else ""
    return f"1. {plain(remedy.title)}{source}{code}"


def _indent(code: str) -> str:
    return "\n".join(f"   {line}" for line in code.splitlines())


def rules() -> str:
    """What each rule asks, in the words of its file."""
    names = sorted(found.name for found in pkgutil.iter_modules(rule_files.__path__))
    told = [(name, inspect.getdoc(importlib.import_module(f"{rule_files.__name__}.{name}")) or "") for name in names]
    return "\n\n".join(f"`{name}`\n: {_paragraphs(text)}" for name, text in told)


def _paragraphs(text: str) -> str:
    return "\n\n  ".join(plain(paragraph) for paragraph in text.split("\n\n"))


def activations(*names: str) -> str:
    """The table of activation functions: the steepest slope, and the gain that keeps the gradient."""
    lines = ["| activation | max abs a' | at | E[a'²] | gain | critical σ_w², σ_b² |", "| --- |" + " ---: |" * 5]
    for row in activation_rows(names):
        gain = f"{row.backward_gain:.3f}" if row.slope_second > 0 else "–"
        critical = f"{row.sigma_w2:.3f}, {row.sigma_b2:.3f}" if row.sigma_w2 == row.sigma_w2 else "–"
        numbers = (f"{row.max_slope:.3g}", f"{row.at:.2g}", f"{row.slope_second:.3f}", gain, critical)
        lines.append(f"| `{row.name}` | {' | '.join(numbers)} |")
    return "\n".join(lines)


def op_kinds() -> str:
    """The names of autograd's nodes that are known, by factor."""
    known: dict[str, list[str]] = {}
    for name, factor in kinds.KINDS.items():
        known.setdefault(factor.value, []).append(f"`{name}`")
    return "\n\n".join(f"`{factor}` ({len(names)})\n: {' '.join(sorted(names))}" for factor, names in known.items())


def measured() -> str:
    """What the benchmarks measured last, where their results are kept; else nothing."""
    if not RESULTS.is_file():
        return ""
    return re.sub(r"^#+ ", "### ", RESULTS.read_text(encoding="utf-8"), flags=re.MULTILINE)


def _tree(module: ModuleType) -> ast.Module:
    return ast.parse(inspect.getsource(module))
