"""What is the loss of a known loss function held against? What the best constant gets, and what the output can reach.

A network that has learnt anything beats the best output that does not look at the input at all:

    squared error: Var(t)    absolute error: E|t - median(t)|    cross entropy: the entropy of the mean target
    Huber's error, square within its knee and straight beyond: that of its centre, sum(w t) / sum(w) with
    w = 1 / max(|t - centre|, knee) (Huber 1964), found by iteration

per output, over the batch. An output behind a squashing function lies in its range R, so that no weights bring a
squared or absolute error below E|t - clip(t, R)|^p: targets beyond the range are out of reach. Shapes that broadcast
against each other, as [n, 1] and [n], hold each output against n targets, and the best it can do is their centre.
Logits in [a, b] leave of k classes log(1 + (k - 1) exp(a - b)), where one is at b and all others at a, and of two
classes with the target t softplus(z) - t z, at the z in [a, b] that is nearest to the logit of t.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradtrace.measure.broadcasting import broadcast_shape
from gradtrace.measure.cosines import are_cosines
from gradtrace.tape import private

if TYPE_CHECKING:
    from torch.autograd.graph import Node

_POWERS = {"mse_loss": 2, "l1_loss": 1, "smooth_l1_loss": 2, "huber_loss": 2}
_KNEES = {"smooth_l1_loss": "beta", "huber_loss": "delta"}
_ITERATIONS = 20
"""Of a centre: started at the median, each step lessens what is left, and a thousandth of the spread is enough."""

KNOWN = {
    *_POWERS,
    "soft_margin_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "nll_loss",
}
"""Loss functions (of their first two operands, output and target) whose best constant is known."""

AS_GOOD_AS_ONE = 0.05
"""[nats] Half formats round log probabilities by about as much; the entropy is off by no more."""

_RANGES = {
    "Sigmoid": (0.0, 1.0),
    "Softmax": (0.0, 1.0),
    "Hardsigmoid": (0.0, 1.0),
    "Tanh": (-1.0, 1.0),
    "Relu": (0.0, math.inf),
    "Softplus": (0.0, math.inf),
}
_VIEWS = {"View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Select", "Slice", "Transpose", "T", "Permute"}


def reach(name: str, args: Any, kwargs: Any) -> Tensor | None:
    """[4] on the device: the loss of the best constant, the least that can be reached, how far out targets lie, and ...

    ... against how many of them each output is held. The second is 0 where the output's range has no bounds, the third
    where targets are what the loss expects; None, or a constant's loss of 0, where all that is not known. All of them
    are means over elements, whatever the call's own reduction.

    >>> t = torch.tensor([[0.0], [2.0]])
    >>> reach("mse_loss", (torch.sigmoid(torch.zeros(2, 1, requires_grad=True)), t), {}).tolist()
    [1.0, 0.5, 0.0, 1.0]
    >>> reach("mse_loss", (torch.zeros(2, 1, requires_grad=True), t[:, 0]), {}).tolist()
    [1.0, 1.0, 0.0, 2.0]
    """
    output, target = (kwargs.get(key, args[i] if len(args) > i else None) for i, key in enumerate(("input", "target")))
    if not isinstance(output, Tensor) or not isinstance(target, Tensor) or not output.numel() or not target.numel():
        return None
    of_classes = name in ("cross_entropy", "nll_loss")
    weight = kwargs.get("weight", args[2] if len(args) == 3 else None)  # (positional weights come third)
    if weight is not None and not (of_classes and kwargs.get("reduction", "mean") == "mean"):
        return None
    if kwargs.get("pos_weight") is not None or kwargs.get("label_smoothing") or target.is_complex():
        return None
    if any(isinstance(extra, Tensor) for extra in args[3:]) or target.requires_grad:
        return None
    with torch.no_grad():
        if of_classes:
            bounds = range_of(output.grad_fn) if name == "cross_entropy" else None
            found = _classes(output, target, kwargs.get("ignore_index", -100), weight, bounds)
            return found if found is None or name == "cross_entropy" else found * are_log_probabilities(output)
        t = target.detach().float()
        if name in _POWERS:
            knee = _knee(name, args, kwargs)
            found = errors(t, output.shape, 1 if knee == 0.0 else _POWERS[name], range_of(output.grad_fn), knee or None)
            if name == "mse_loss" and _is_standardised(output):
                return _of_unit_variance(found, t)
            if found is None or not knee or name == "huber_loss":
                return found
            return found / found.new_tensor([knee, knee, 1.0, 1.0])  # (torch's smooth one is Huber's over its knee)
        if output.shape != target.shape or not target.dim():
            return None
        if name == "soft_margin_loss":  # log(1 + exp(-t o)): the cross entropy of two classes, of targets -1 and 1
            p = ((t + 1.0) / 2.0).mean(0).clamp(0.0, 1.0)
            without = (t == 0.0).any() & (t >= 0.0).all()  # labels of 0 and 1
            return four(_entropy(torch.stack([p, 1.0 - p])).mean(), beyond=without.float())
        beyond = torch.maximum(t.max() - 1.0, -t.min()).clamp(min=0.0)
        p = t.mean(0).clamp(0.0, 1.0)
        floor = _of_two(t, range_of(output.grad_fn)) if name.endswith("logits") else None
        return four(_entropy(torch.stack([p, 1.0 - p])).mean(), floor, beyond=beyond)


def num_elements(name: str, operands: list[Tensor]) -> int:
    """How many terms a sum of this loss function has: those of the targets, or of what both broadcast to."""
    if name not in _POWERS:
        return operands[-1].numel()
    return math.prod(broadcast_shape(*(operand.shape for operand in operands[:2])))


def _knee(name: str, args: Any, kwargs: Any) -> float | None:
    """Where Huber's error turns from a square into a straight line; its torch functions differ in where it stands."""
    if name not in _KNEES:
        return None
    place = 5 if name == "smooth_l1_loss" else 3
    return float(kwargs.get(_KNEES[name], args[place] if len(args) > place else 1.0))


def errors(
    t: Tensor, output: torch.Size, power: int, bounds: tuple[float, float], knee: float | None = None
) -> Tensor | None:
    """|o - t|^p of outputs of shape `output` in `bounds`, Huber's error with a `knee`: [4] as `reach` says."""
    if output != t.shape and len(output):
        return _broadcast(output, t, power, knee)
    if output != t.shape or not t.dim():
        return None
    constant = _error(t - _centre(t, power, knee), power, knee)
    return four(constant, _error(t - t.clamp(*bounds), power, knee))


def _error(residual: Tensor, power: int, knee: float | None) -> Tensor:
    """The mean error, in the units of torch's mse_loss, l1_loss or huber_loss (where delta is the knee)."""
    size = residual.abs()
    if knee is None:
        return size.pow(power).mean()
    return torch.where(size < knee, 0.5 * size.square(), knee * (size - 0.5 * knee)).mean()


def _centre(t: Tensor, power: int, knee: float | None) -> Tensor:
    """Over the first axis, what the mean error is least from."""
    if knee is None and power == 2:
        return t.mean(0)
    centre = t.median(0).values
    for _ in range(_ITERATIONS if knee else 0):
        weight = 1.0 / (t - centre).abs().clamp(min=knee)
        centre = (weight * t).sum(0) / weight.sum(0)
    return centre


def _is_standardised(output: Tensor) -> bool:
    """Whether a batch norm without a scale and a shift of its own made it [batch, features], behind views."""
    node: Any = output.grad_fn
    while node is not None and output.dim() < 3 and _name(node) in _VIEWS:
        node = node.next_functions[0][0]
    is_norm = node is not None and _name(node) in ("NativeBatchNorm", "CudnnBatchNorm")
    of_batch = private.saved(node, "training", None) is True if is_norm else False
    return of_batch and output.dim() < 3 and private.saved(node, "weight", None) is None


def _of_unit_variance(found: Tensor | None, t: Tensor) -> Tensor | None:
    """E(o - t)^2 >= E[t]^2 + (std(t) - std(o))^2 (Cauchy and Schwarz), of outputs with mean 0 and a variance up to 1.

    >>> _of_unit_variance(four(torch.tensor(4.0)), torch.tensor([[1.0], [5.0]])).tolist()
    [4.0, 10.0, 0.0, 1.0]
    """
    if found is None:
        return None
    deviation = (t.std(0, correction=0) - 1.0).clamp(min=0.0)
    return four(found[0], (t.mean(0).square() + deviation.square()).mean(), found[2])


def four(constant: Tensor, floor: Tensor | None = None, beyond: Tensor | None = None, held: float = 1.0) -> Tensor:
    """Together, with 0 for what is not given."""
    zero = constant.new_zeros(())
    return torch.stack([constant, zero if floor is None else floor, zero if beyond is None else beyond, zero + held])


def _broadcast(output: torch.Size, target: Tensor, power: int, knee: float | None) -> Tensor | None:
    """Along the axes where an output is repeated it meets several targets: their spread is the least it can reach."""
    try:
        shape = broadcast_shape(output, target.shape)
    except RuntimeError:
        return None  # (the call itself is about to raise)
    missing = len(shape) - len(output)
    repeated = [i for i, size in enumerate(shape) if size > 1 and (i < missing or output[i - missing] == 1)]
    t = target.expand(shape)
    constant = _spread(t, sorted({0, *repeated}), power, knee)
    held = math.prod(shape[i] for i in repeated)
    return four(constant, _spread(t, repeated, power, knee) if repeated else None, held=float(held))


def _spread(t: Tensor, dims: list[int], power: int, knee: float | None) -> Tensor:
    """E|t - centre|^p, the centre being that over `dims`."""
    rows = t.movedim(dims, list(range(len(dims)))).flatten(0, len(dims) - 1)
    return _error(rows - _centre(rows, power, knee), power, knee)


def _of_two(t: Tensor, bounds: tuple[float, float]) -> Tensor | None:
    """What logits in `bounds` leave of the cross entropy of two classes; None without bounds."""
    if not any(map(math.isfinite, bounds)):
        return None
    z = torch.logit(t.clamp(0.0, 1.0)).clamp(*bounds)
    return torch.where(z.isfinite(), torch.nn.functional.softplus(z) - t * z, 0.0).mean()


def _of_many(num_classes: int, bounds: tuple[float, float] | None) -> float:
    """The same of one class among many."""
    return 0.0 if bounds is None else math.log1p((num_classes - 1) * math.exp(bounds[0] - bounds[1]))


def _classes(
    output: Tensor, target: Tensor, ignored: int, weight: Tensor | None, bounds: tuple[float, float] | None
) -> Tensor | None:
    """The entropy of the mean target; with a weight for each class, of the weighted counts."""
    if target.is_floating_point():
        if weight is not None:
            return None
        axis = 1 if output.dim() > 1 else 0
        mean = target.float().movedim(axis, -1).flatten(0, -2).mean(0) if target.dim() > 1 else target.float()
        return four(_entropy(mean))
    if output.dim() < 2:
        return None
    labels = target.flatten()
    counts = torch.zeros(output.shape[1], device=output.device)
    used = ((labels != ignored) & (labels >= 0) & (labels < output.shape[1])).float()
    counts.index_add_(0, labels.clamp(0, output.shape[1] - 1), used)
    counts = counts if weight is None else counts * weight.detach().float()
    entropy = _entropy(counts / counts.sum().clamp(min=1e-30))
    return four(entropy, entropy.new_tensor(_of_many(output.shape[1], bounds)))


def are_log_probabilities(output: Tensor, axis: int = 1) -> Tensor:
    """Whether exp of the classes adds up to 1: of anything else the entropy bounds nothing (to `AS_GOOD_AS_ONE`)."""
    return output.detach().float().logsumexp(axis).abs().amax() < AS_GOOD_AS_ONE


def _entropy(p: Tensor) -> Tensor:
    return -torch.xlogy(p, p).sum(0)


def range_of(node: Node | None) -> tuple[float, float]:
    """Of the squashing function, or the cosines, that the output comes from, behind views.

    >>> z = torch.zeros(1, requires_grad=True)
    >>> range_of(torch.tanh(z).grad_fn), range_of(torch.nn.functional.relu6(z)[0].grad_fn), range_of(z.exp().grad_fn)
    ((-1.0, 1.0), (0.0, 6.0), (-inf, inf))
    """
    for _ in range(8):
        if node is None:
            break
        name = _name(node)
        if name == "Hardtanh":  # ReLU6 is one, too
            saved: Any = node
            return float(saved._saved_min_val), float(saved._saved_max_val)
        if are_cosines(node):
            return -1.0, 1.0
        if name not in _VIEWS:
            return _RANGES.get(name, (-math.inf, math.inf))
        node = node.next_functions[0][0]
    return -math.inf, math.inf


def _name(node: Node) -> str:
    return node.name().rpartition("::")[2].partition("Backward")[0]
