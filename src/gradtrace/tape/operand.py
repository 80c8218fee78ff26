"""What does the user's line call the operand of an op? In ``torch.sqrt(distance)`` it is ``distance``."""

from __future__ import annotations

import ast
import linecache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_LETTERS = 60
"""A longer operand is no name that helps."""
_OPERATORS = {"truediv": ast.Div, "div": ast.Div, "pow": ast.Pow}
_METHODS_OF = {"torch", "F", "functional", "special", "linalg", "nn", "np"}
"""Modules: `torch.log(x)` is a function of x, and no method of torch."""


def operand_of(filename: str, line: int, function: str) -> str:
    """The operand of `function` in this line, or '' where it is not one and the same expression.

    Of a division it is the divisor, and of a power the base.
    """
    text = "".join(linecache.getlines(filename))
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return ""
    name = function.strip("_").lower()
    found = {
        ast.unparse(operand)
        for node in ast.walk(tree)
        if isinstance(node, ast.expr) and node.lineno <= line <= (node.end_lineno or node.lineno)
        for operand in _operands(node, name)
    }
    told = found.pop() if len(found) == 1 else ""
    return told if len(told) <= MOST_LETTERS and "\n" not in told else ""


def _operands(node: ast.expr, name: str) -> Iterator[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, _OPERATORS.get(name, ())):
        yield node.left if name == "pow" else node.right
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr.strip("_") == name:
        owner = node.func.value
        of_module = (isinstance(owner, ast.Name) and owner.id in _METHODS_OF) or (
            isinstance(owner, ast.Attribute) and owner.attr in _METHODS_OF
        )
        operands = node.args if of_module else [owner, *node.args]
        yield from operands[1:2] if name == "div" else operands[:1]
