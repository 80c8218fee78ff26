"""What does a code or a word mean, and what is to be done? For `gradtrace explain` and the pages of the codes."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from gradtrace.records.codes import USUAL, code_of, meaning_of
from gradtrace.records.finding import Remedy
from gradtrace.records.vocabulary import Cause, Symptom
from gradtrace.remedies.catalogue import remedies_for
from gradtrace.report.glossary import ENUMS, WORDS, meanings
from gradtrace.report.measured_by import measured_by
from gradtrace.report.words import wrapped


@dataclass(frozen=True, slots=True)
class Explanation:
    """A title, what it is, what to change, and what to read next."""

    title: str
    paragraphs: tuple[str, ...]
    remedies: tuple[Remedy, ...] = ()
    related: tuple[str, ...] = ()
    """Codes that go with it."""


def explain(asked: str) -> Explanation | None:
    """Of a code (``GT101``) or a word (``post_norm``, ``critical path``); None where it is neither."""
    if (meaning := meaning_of(asked)) is not None:
        return of_code(*meaning)
    word = asked.strip().lower().replace("_", " ")
    if word in WORDS:
        return Explanation(word, (f"{WORDS[word][0].upper()}{WORDS[word][1:]}.",))
    for enum, kind in ENUMS.items():
        found = meanings(enum).get(word.replace(" ", "_"))
        if found is not None:
            value = word.replace(" ", "_")
            related = tuple(code for code in USUAL if value in (meaning_of(code) or ()))
            remedies = remedies_for(Symptom.HEALTHY, Cause(value)) if enum == "Cause" else ()
            told = [found, *_measured("How it is told", value), *_causes(related if enum == "Symptom" else ())]
            return Explanation(f"{word} ({kind})", tuple(told), remedies, related)
    return None


def of_code(symptom: Symptom, cause: Cause) -> Explanation:
    """What a finding of this symptom and this cause says."""
    told = f"{symptom.value.replace('_', ' ')}" + ("" if cause is Cause.NONE else f": {cause.value.replace('_', ' ')}")
    return Explanation(
        f"{code_of(symptom, cause)}  {told}",
        (
            f"What is seen: {meanings('Symptom')[symptom.value]}",
            *_measured("How it is seen", symptom.value),
            *([] if cause is Cause.NONE else [f"Why: {meanings('Cause')[cause.value]}"]),
            *([] if cause is Cause.NONE else _measured("How that is told", cause.value)),
        ),
        remedies_for(symptom, cause),
    )


def _measured(title: str, value: str) -> list[str]:
    told = measured_by(value)
    return [f"{title}: {told}"] if told else []


def _causes(codes: tuple[str, ...]) -> list[str]:
    """What to do about a symptom is said with each of its causes."""
    causes = [meaning[1].value for code in codes if (meaning := meaning_of(code)) is not None]
    return [f"What to do depends on the cause: {', '.join(c for c in causes if c != 'none')}."] if codes else []


def known() -> list[str]:
    """All that can be asked for."""
    return [*WORDS, *USUAL, *(value for enum in ENUMS for value in meanings(enum))]


def near(asked: str) -> str:
    """What may have been meant, or ''."""
    return next(iter(difflib.get_close_matches(asked.strip(), known(), n=1)), "")


def explanation_text(told: Explanation, width: int) -> str:
    """For the terminal, at most `width` wide."""
    lines = [told.title]
    for paragraph in told.paragraphs:
        lines += ["", *wrapped(paragraph, width)]
    for remedy in told.remedies:
        title = f"{remedy.title} ({remedy.source})" if remedy.source else remedy.title
        lines += ["", *wrapped(f"- {title}", width, "  "), *(f"    {line}" for line in remedy.code.splitlines())]
    if told.related:
        lines += ["", *wrapped("Findings: " + ", ".join(told.related), width)]
    return "\n".join(lines)
