"""How is the casebook shown? A page for each family, a card for each case: truth, verdict, picture, source."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING

from docs.extensions.cases import shown
from docs.extensions.code_tables import plain

from gradtrace.casebook import CASES

if TYPE_CHECKING:
    from docs.extensions.cases import Shown


def family(name: str) -> str:
    """Title, introduction and cards of a family."""
    module = importlib.import_module(f"gradtrace.casebook.{name}")
    found = [one for one in shown().values() if one.family == name]
    if not found:
        raise LookupError(f"the casebook has no family {name!r}")
    about = plain(inspect.getdoc(module) or "")
    return "\n\n".join([f"# {_title(name)}", about, *map(_card, found)])


def _title(name: str) -> str:
    return name.replace("_", ": ", 1).capitalize() if name.startswith("healthy") else name.capitalize()


def _card(one: Shown) -> str:
    steps = f" It shows within {one.steps} training steps." if one.steps else ""
    truth = _said(one.truth, one.where)
    verdict = _said(one.verdict, one.places)
    mark = "right" if one.is_right else "wrong"
    message = f"\n\n> {plain(one.message)}" if one.message else ""
    return (
        f"## `{one.name}`\n\n{plain(one.about)}{steps}\n\n::::{{div}} case\n\n"
        f"<figure>{one.picture}</figure>\n\n:::{{div}} told\n\n"
        f"Truth: {truth}.\n\nVerdict: {verdict}, {mark}.{message}\n\n"
        f"[Source: {plain(one.source)}]{{.source}}\n\n:::\n::::"
    )


def _said(what: tuple[str, str], where: tuple[str, ...]) -> str:
    symptom, cause = what
    told = f"**{symptom}**" + ("" if cause == "none" else f", because of **{cause.replace('_', ' ')}**")
    places = ", ".join(f"`{place or 'the model'}`" for place in where[:3]) + (" …" if len(where) > 3 else "")
    return told.replace("_", " ") + (f", at {places}" if places else "")


def totals() -> str:
    """How many verdicts are right."""
    all_of_them = list(shown().values())
    ill = [one for one in all_of_them if one.truth[0] != "healthy"]
    right = sum(one.is_right for one in all_of_them)
    return (
        f"{len(CASES)} cases, {len(ill)} ill and {len(all_of_them) - len(ill)} healthy. Symptom, cause and place "
        f"of the verdict are right in {right} of them."
    )


def overview() -> str:
    """A table of all cases, by family."""
    lines = ["| case | truth | verdict |", "| --- | --- | --- |"]
    for one in shown().values():
        link = f"[`{one.name}`]({one.family}.md#{one.name.replace('_', '-')})"
        lines.append(f"| {link} | {' / '.join(one.truth)} | {' / '.join(one.verdict)} |")
    return "\n".join(lines)
