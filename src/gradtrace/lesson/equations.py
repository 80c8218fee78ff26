"""How are equations written? A line of text, as one types it, becomes MathML: no fonts, no scripts, readable aloud.

    L'(l-1) = L'(l) a'(l) f'(l)      prod_{k=1}^{L} a'(k)      sqrt{chi}      sigma_w^2      |W| <= 1

A name may have a prime, a subscript and a superscript; braces group, `quad` is a wide space. (MathML Core, W3C, which
browsers draw since 2023.)
"""

from __future__ import annotations

import re

from markupsafe import Markup, escape

SYMBOLS = {
    "sigma": "σ", "alpha": "α", "chi": "χ", "phi": "φ", "eta": "η", "Delta": "Δ", "sum": "∑", "prod": "∏",
    "<=": "≤", ">=": "≥", "*": "·", "-": "−", "->": "→", "~~": "≈", "...": "…", "partial": "∂", "tanh": "tanh",
    "empty": "∅",
}  # fmt: skip
_TOKEN = re.compile(r"\s*(\d+(?:\.\d+)?|[A-Za-z]+|<=|>=|->|~~|\.\.\.|\S)")
_BIG = ("sum", "prod")


def mathml(text: str, *, block: bool = False) -> Markup:
    """`text` as a math element; `block` puts it on a line of its own.

    >>> mathml("a'(z) <= 0.25")  # doctest: +ELLIPSIS
    Markup('<math><mrow><mrow><mi>a</mi><mo ...>′</mo></mrow><mo ...>(</mo>...<mo>≤</mo><mn>0.25</mn></mrow></math>')

    Raises:
        ValueError: a brace is missing.
    """
    tokens = _TOKEN.findall(text)
    inner = _row(tokens)
    if tokens:
        raise ValueError(f"no brace opens before {tokens[0]!r} in {text!r}")
    return Markup('<math display="block">' if block else "<math>") + inner + Markup("</math>")


def _row(tokens: list[str]) -> Markup:
    parts = []
    while tokens and tokens[0] != "}":
        parts.append(_item(tokens))
    return Markup("<mrow>") + Markup("").join(parts) + Markup("</mrow>")


def _item(tokens: list[str]) -> Markup:
    """An atom with its prime, its subscript and its superscript."""
    big = tokens[0] in _BIG
    base = _atom(tokens)
    if tokens and tokens[0] == "'":
        tokens.pop(0)
        base = Markup('<mrow>{}<mo lspace="0" rspace="0">′</mo></mrow>').format(base)
    under, over = _script(tokens, "_"), _script(tokens, "^")
    if under and over:
        name = "munderover" if big else "msubsup"
        return Markup(f"<{name}>") + base + under + over + Markup(f"</{name}>")
    if under or over:
        name = "msub" if under else "msup"
        return Markup(f"<{name}>") + base + (under or over) + Markup(f"</{name}>")
    return base


def _script(tokens: list[str], mark: str) -> Markup:
    if not tokens or tokens[0] != mark:
        return Markup("")
    tokens.pop(0)
    return _atom(tokens)


def _atom(tokens: list[str]) -> Markup:
    token = tokens.pop(0)
    if token == "{":
        inner = _row(tokens)
        if not tokens:
            raise ValueError("a brace opens that never closes")
        tokens.pop(0)
        return inner
    if token == "sqrt":
        return Markup("<msqrt>{}</msqrt>").format(_atom(tokens))
    if token == "quad":
        return Markup('<mspace width="2em"></mspace>')
    if token == "frac":
        return Markup("<mfrac>{}{}</mfrac>").format(_atom(tokens), _atom(tokens))
    shown = escape(SYMBOLS.get(token, token))
    if token[0].isdigit():
        return Markup("<mn>{}</mn>").format(shown)
    if token == "max":
        return Markup('<mi>max</mi><mspace width="0.17em"></mspace>')
    if token[0].isalpha() and token not in (*_BIG, "partial"):
        return Markup("<mi>{}</mi>").format(shown)
    if token == "|":
        return Markup('<mo stretchy="false" lspace="0" rspace="0">|</mo>')
    return Markup('<mo stretchy="false">{}</mo>' if token in "()[]" else "<mo>{}</mo>").format(shown)
