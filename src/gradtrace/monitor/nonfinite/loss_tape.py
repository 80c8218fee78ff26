"""Between the model and the loss: which op stands where it, or its derivative, is not a number?

The user's loss cannot be run again, but its tape is at hand. Before a backward pass the values that the ops with a
singularity saved are held on to (references, and only of what lies behind the model's output: a few ops); afterwards
autograd has let go of them. They are looked at only if the pass went wrong.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradtrace.records.shown import counted
from gradtrace.records.vocabulary import Cause
from gradtrace.remedies.catalogue import FINITE_CONSTANT
from gradtrace.tape.graph import release, walk
from gradtrace.tape.kinds import base_name
from gradtrace.tape.private import is_packed, node_sequence_nr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.autograd.graph import Node

    from gradtrace.records.finding import Remedy
    from gradtrace.records.trace import Op

MOST_NODES = 64
"""Of a loss that goes well: a longer one is read where it starts."""


@dataclass(frozen=True, slots=True)
class Singularity:
    """Where an op must not be evaluated or differentiated."""

    saved: tuple[str, ...]
    holds: Callable[..., bool]
    """Whether it stands there, given what was saved."""
    words: str | Callable[..., str]
    """What is wrong there; where it is a function, by what was saved."""
    cause: Cause = Cause.UNSAFE_OP
    shows: bool = False
    """Whether the op's own value, and not only its derivative, is no number there."""
    remedy: Remedy | None = None
    """None: that of the op."""


def _any(condition: Tensor) -> bool:
    return bool(condition.any())


def _bad(x: Tensor) -> bool:
    return x.is_floating_point() and not bool(torch.isfinite(x).all())


def _is_bad_power(x: Tensor, exponent: Any) -> bool:
    if isinstance(exponent, Tensor):
        return _any((x == 0) & (exponent < 1)) or _any((x < 0) & (exponent != exponent.round()))
    power = float(exponent)
    return (power < 1 and _any(x == 0)) or (not power.is_integer() and _any(x < 0))


_LOG = "the logarithm of a number that is not positive"
_TARGET = Singularity(("_saved_target",), _bad, "the target holds NaN or Inf", Cause.INPUT_SCALE, shows=True)
_DIVISION = "a division by zero"
_NOTHING = "a mean over no target at all: all are ignored"

SINGULARITIES: dict[str, Singularity] = {
    "Log": Singularity(("_saved_self",), lambda x: _any(x <= 0), _LOG),
    "Log2": Singularity(("_saved_self",), lambda x: _any(x <= 0), _LOG),
    "Log10": Singularity(("_saved_self",), lambda x: _any(x <= 0), _LOG),
    "Log1P": Singularity(("_saved_self",), lambda x: _any(x <= -1), "log1p of -1 or less"),
    "Sqrt": Singularity(
        ("_saved_result",), lambda y: _any(~(y > 0)),
        "the square root of zero, whose derivative is infinite, or of less",
    ),
    "Rsqrt": Singularity(("_saved_result",), _bad, "the reciprocal square root of zero or of less"),
    "Reciprocal": Singularity(("_saved_result",), _bad, _DIVISION),
    "Div": Singularity(("_saved_other",), lambda x: _any(x == 0), _DIVISION),
    "Exp": Singularity(("_saved_result",), _bad, "an exponential that overflows"),
    "Expm1": Singularity(("_saved_result",), _bad, "an exponential that overflows"),
    "Std": Singularity(("_saved_result",), _bad, "the standard deviation of a single number"),
    "Abs": Singularity(("_saved_self",), _bad, "a value that is NaN or Inf already, as a target may be"),
    "Acos": Singularity(("_saved_self",), lambda x: _any(x.abs() >= 1), "acos at 1 or beyond"),
    "Asin": Singularity(("_saved_self",), lambda x: _any(x.abs() >= 1), "asin at 1 or beyond"),
    "Atanh": Singularity(("_saved_self",), lambda x: _any(x.abs() >= 1), "atanh at 1 or beyond"),
    "Pow": Singularity(
        ("_saved_self", "_saved_exponent"), _is_bad_power, "a power of zero or less that has no finite derivative"
    ),
    "NllLoss": Singularity(("_saved_total_weight",), lambda w: float(w) == 0.0, _NOTHING, shows=True),
    "NllLoss2D": Singularity(("_saved_total_weight",), lambda w: float(w) == 0.0, _NOTHING, shows=True),
    "Mean": Singularity(("_saved_self_sym_numel",), lambda n: n == 0, "the mean of no number at all", shows=True),
    "MseLoss": _TARGET,
    "SmoothL1Loss": _TARGET,
    "HuberLoss": _TARGET,
    "BinaryCrossEntropy": _TARGET,
    "BinaryCrossEntropyWithLogits": _TARGET,
}  # fmt: skip
"""By name of the node without ``Backward0``."""


def _is_zero_times_infinity(one: Tensor, other: Tensor) -> bool:
    return _any(((one == 0) & other.isinf()) | (one.isinf() & (other == 0)))


def _weight_told(weight: Tensor) -> str:
    bad = [str(i) for i in (~torch.isfinite(weight)).flatten().nonzero().flatten().tolist()]
    entries = f" (entry {', '.join(bad[:4])}{', ...' if len(bad) > 4 else ''} of {weight.numel()})"
    return f"its pos_weight holds NaN or Inf{entries}, as a class without an example gives"


def _alignments_told(losses: Tensor, targets: Tensor, given: Any, lengths: Any) -> str:
    """The labels of a sequence need a step each, and one more between two that are the same (Graves et al. 2006)."""
    bad = (~torch.isfinite(losses)).flatten().nonzero().flatten().tolist()
    steps, lengths = [int(n) for n in given], [int(n) for n in lengths]
    start = sum(lengths[: bad[0]])
    labels = (targets[bad[0]] if targets.dim() > 1 else targets[start:])[: lengths[bad[0]]]
    repeats = int((labels[1:] == labels[:-1]).sum())
    which = f"{len(bad)} of {losses.numel()} sequences cannot be aligned"
    if len(labels) + repeats <= steps[bad[0]]:
        return f"{which}: a label has probability zero"
    blanks = f" with {counted(repeats, 'blank')} between equal ones" if repeats else ""
    return f"{which}: {counted(len(labels), 'label')}{blanks} do not fit into {counted(steps[bad[0]], 'step')}"


_CTC = Singularity(
    ("_saved_result0", "_saved_targets", "_saved_input_lengths", "_saved_target_lengths"),
    lambda losses, *_: _bad(losses),
    _alignments_told,
)

OF_VALUES: dict[str, Singularity] = {
    "Mul": Singularity(
        ("_saved_self", "_saved_other"),
        _is_zero_times_infinity,
        "a product of zero and an infinite number, as of a probability of zero and its logarithm",
    ),
    "BinaryCrossEntropyWithLogits": Singularity(
        ("_saved_pos_weight",), _bad, _weight_told, shows=True, remedy=FINITE_CONSTANT
    ),
    "CtcLoss": _CTC,
    "CudnnCtcLoss": _CTC,
}
"""The same of what makes the loss itself no number: asked only where it is none, for products are in many a loss."""


def function_of(name: str) -> str:
    """An op's name as one calls it.

    >>> function_of("LinalgVectorNormBackward0")
    'linalg_vector_norm'
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", base_name(name)).lower()


@dataclass(frozen=True, slots=True)
class Suspect:
    """One op that can go wrong, and what it saved."""

    name: str
    number: int
    """Its place in the order of the forward pass."""
    saved: tuple[Any, ...]
    singularity: Singularity

    @property
    def function(self) -> str:
        """Its name as one calls it."""
        return function_of(self.name)

    @property
    def guilt(self) -> Singularity | None:
        """What is wrong with it, if anything."""
        with contextlib.suppress(AttributeError, RuntimeError, TypeError, ValueError):
            if self.singularity.holds(*self.saved):
                return self.singularity
        return None

    @property
    def words(self) -> str:
        """What is wrong with it."""
        words = self.singularity.words
        return words if isinstance(words, str) else words(*self.saved)


def suspects(
    loss: Tensor, since: int, *, most: int | None = MOST_NODES, is_finite: bool | None = None
) -> list[Suspect]:
    """The ops behind `loss` that can go wrong and were recorded after number `since`, in the order of backward.

    Of a loss that `is_finite` the last op is none of them where it would show; None: nobody has looked.
    """
    tables = (SINGULARITIES, OF_VALUES) if is_finite is False else (SINGULARITIES,)
    found: list[Suspect] = []
    seen: set[Node] = set()
    stack = [loss.grad_fn]
    while stack and (most is None or len(seen) < most):
        node = stack.pop()
        if node is None or node in seen or not since < (number := node_sequence_nr(node)) < 2**63:
            continue
        seen.add(node)
        stack.extend(child for child, _ in node.next_functions)
        name = node.name()
        for singularity in [table[base_name(name)] for table in tables if base_name(name) in table]:
            if is_finite and singularity.shows and node is loss.grad_fn:
                continue
            if any(is_packed(node, key) for key in singularity.saved):
                continue  # looking would run a checkpointed part again
            with contextlib.suppress(AttributeError, RuntimeError):  # not saved, or freed already
                saved = tuple(getattr(node, key) for key in singularity.saved)
                found.append(Suspect(name, number, saved, singularity))
    release(list(seen))
    return sorted(found, key=lambda suspect: -suspect.number)


def op_on(loss: Tensor, suspect: Suspect, ops: Sequence[Op]) -> Op | None:
    """`suspect` among the `ops` of an earlier trace of the same tape, as far as the two are alike.

    Where the tape is gone (`loss` is detached), by its name, if there was one op of that name.
    """
    if loss.grad_fn is None:
        namesakes = [op for op in ops if op.name == suspect.name]
        return namesakes[0] if len(namesakes) == 1 else None
    nodes = list(walk([loss.grad_fn]).nodes)
    numbers = [node_sequence_nr(node) for node in nodes]
    names = [node.name() for node in nodes]
    release(nodes)
    for number, name, op in zip(numbers, names, ops, strict=False):
        if name != op.name:
            break
        if number == suspect.number:
            return op
    return None


def feeder_of(op: Op, ops: Sequence[Op]) -> str:
    """The module that made what `op` stands on, a divisor for a division; '' where none is known."""
    waiting = [op.targets[-1] if base_name(op.name) == "Div" else op.targets[0]] if op.targets else []
    for _ in range(MOST_NODES):
        target = waiting.pop(0) if waiting else None
        if target is None:
            break
        source = ops[target[0]]
        if source.site.module:
            return source.site.module
        waiting += [t for t in source.targets if t is not None]
    return ""
