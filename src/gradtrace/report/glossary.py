"""The words of the reports, one noun per concept, each with what it is."""

from __future__ import annotations

import ast
import inspect
from functools import cache
from itertools import pairwise

from gradtrace.records import vocabulary

WORDS = {
    "tape": "autograd's recorded graph",
    "op": "one node of the tape",
    "site": "where an op comes from: module path, call, source line",
    "trace": "one backward pass, measured op by op",
    "gain": "what one op does to the gradient's norm: |passed on| / |received|",
    "decades": "powers of ten: a gain of -3 decades leaves a thousandth",
    "factor": "the kind of op a gain is filed under",
    "merge": "the sum of gradients where a tensor is used more than once",
    "critical path": "the path that carries most of a target's gradient",
    "budget": "the gains along that path, summed per factor",
    "horizon": "how many steps back until a gradient has fallen to 1e-3 (and by half)",
    "finding": "symptom, cause, where, severity, and the numbers that say so",
    "diagnosis": "the findings, the root cause first",
    "symptom": "what is seen; each has a name, as vanishing",
    "cause": "why it is so; each has a name, as small_weights",
    "severity": "how much a finding matters: info, warning, critical",
    "remedy": "what to change, as a person reads it",
    "change": "a remedy that can be executed, at named sites",
    "trial": "a change applied to a copy and trained, beside the unchanged network and a placebo",
    "placebo": "a change that can help by chance alone: a fresh draw of the same initialisation",
    "share": "the decades of the deficit that one cause explains; together they are the whole",
    "repair": "the diagnosis, its shares, the trials ranked, and the patch",
    "run": "a training under watch, in one file",
    "rest": "the watch doing next to nothing between two measurements",
    "not known": "a number that was not measured: never NaN, never zero",
}
ENUMS = {"Symptom": "symptom", "Cause": "cause", "Factor": "factor", "Severity": "severity"}


@cache
def meanings(enum: str) -> dict[str, str]:
    """Value -> what it is, of an enum of the vocabulary; read from its docstrings.

    >>> meanings("Symptom")["nonfinite"]
    'A NaN or Inf in an activation, the loss, a gradient or a parameter.'
    """
    tree = ast.parse(inspect.getsource(vocabulary))
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == enum)
    told = {}
    for statement, below in pairwise(found.body):
        if isinstance(statement, ast.Assign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            value = ast.literal_eval(statement.value)
            told[str(value)] = " ".join(str(below.value.value).split())
    return told
