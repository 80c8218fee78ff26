"""What does the best constant get of a loss whose elements count unequally? Written-out losses with masks and weights.

    loss = sum(w e) / sum(w):    squared error: the weighted variance    absolute error: about the weighted median
                                 cross entropy: the entropy of the weighted mean target

A weight of zero leaves an element out. Likelihoods of labels are known where all others of one label weigh the same, as
class weights do, seen on twice as many rows as labels: with others (a policy's advantages) they are no likelihood of
what was observed. Likelihoods of probabilities are known with weights of zero and one other value alone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gradtrace.measure.broadcasting import broadcast_shape
from gradtrace.measure.objective import AS_GOOD_AS_ONE, errors, four


class Terms(NamedTuple):
    """Of a loss c sum(w e)."""

    held_against: Tensor
    """[4] as `objective.reach` says."""
    total_weight: Tensor
    """sum(w)."""
    valid: Tensor
    """Whether weights and targets are what they must be for that."""


def of_errors(
    target: Tensor, output: torch.Size, power: int, bounds: tuple[float, float], weight: Tensor | None
) -> Terms | None:
    """|o - t|^p with outputs of shape `output`; weights have the shape of both together.

    >>> t, w = torch.tensor([[0.0], [2.0], [9.0]]), torch.tensor([[1.0], [1.0], [0.0]])
    >>> terms = of_errors(t, t.shape, 2, (-float("inf"), float("inf")), w)
    >>> terms.held_against.tolist(), terms.total_weight.item(), terms.valid.item()
    ([1.0, 0.0, 0.0, 1.0], 2.0, True)
    """
    shape = broadcast_shape(output, target.shape)
    t = target.detach().float()
    if weight is None:
        found = errors(t, output, power, bounds)
        return None if found is None else Terms(found, t.new_tensor(float(shape.numel())), _true(t))
    if shape != output:
        return None
    t, w = t.expand(shape), weight.expand(shape)
    centre = _weighted_mean(t, w) if power == 2 else _weighted_median(t, w)
    count = w.sum()
    constant = (w * (t - centre).abs().pow(power)).sum() / count
    floor = (w * (t - t.clamp(*bounds)).abs().pow(power)).sum() / count
    return Terms(four(constant, floor), count, (w >= 0.0).all() & (count > 0.0))


def of_labels(labels: Tensor, num_classes: int, weight: Tensor | None) -> Terms:
    """Negative log likelihood of labels.

    >>> of_labels(torch.tensor([0, 1, 1, 0]), 3, None).held_against[0].item()
    0.6931471824645996
    """
    w = torch.ones_like(labels, dtype=torch.float32) if weight is None else weight
    w = w.expand(labels.shape).flatten()
    counts = torch.zeros(num_classes, device=labels.device)
    t = labels.flatten().clamp(0, num_classes - 1)
    counts.index_add_(0, t, w)
    inside = (labels >= 0).all() & (labels < num_classes).all()
    return Terms(four(_entropy(counts, 0)), w.sum(), inside & (_is_mask(w) | _are_of_classes(w, t, num_classes)))


def of_probabilities(target: Tensor, axis: int, weight: Tensor | None) -> Terms | None:
    """Cross entropy of probabilities that add up to one along `axis`, or to nothing where they are left out."""
    y = target.detach().float()
    sums = y.sum(axis, keepdim=True)
    valid = (((sums - 1.0).abs() < AS_GOOD_AS_ONE) | (sums == 0.0)).all() & (y >= 0.0).all()
    if weight is not None:
        if weight.expand(y.shape).stride(axis) and weight.shape[axis - y.dim()] != 1:
            return None
        valid = valid & _is_mask(weight)
        y = y * weight
    return Terms(four(_entropy(y.movedim(axis, 0).flatten(1).sum(1), 0)), y.sum(), valid)


def of_outputs(target: Tensor, weight: Tensor | None) -> Terms:
    """Binary cross entropy of each output.

    >>> of_outputs(torch.tensor([[0.0], [1.0]]), None).held_against.tolist()
    [0.6931471824645996, 0.0, 0.0, 1.0]
    """
    t = target.detach().float()
    w = torch.ones_like(t) if weight is None else weight.expand(t.shape)
    p = _weighted_mean(t, w).clamp(0.0, 1.0)
    beyond = torch.maximum(t.max() - 1.0, -t.min()).clamp(min=0.0)
    constant = (w.sum(0) * _entropy(torch.stack([p, 1.0 - p]), 0)).sum() / w.sum()
    return Terms(four(constant, beyond=beyond), w.sum(), _is_mask(w))


def _is_mask(w: Tensor) -> Tensor:
    largest = w.max()
    return ((w == 0.0) | (w == largest)).all() & (largest > 0.0)


def _are_of_classes(w: Tensor, t: Tensor, num_classes: int) -> Tensor:
    """Whether weights other than 0 depend on the label alone, and that not because each label came but once."""
    counted = w > 0.0
    largest = w.new_zeros(num_classes).scatter_reduce_(0, t, w, "amax")
    num_rows = w.new_zeros(num_classes).index_add_(0, t, counted.to(w.dtype))
    alike = ((w == largest[t]) | ~counted).all() & (w >= 0.0).all()
    return alike & (num_rows.sum() >= 2 * (num_rows > 0.0).sum()) & counted.any()


def _true(like: Tensor) -> Tensor:
    return torch.ones((), dtype=torch.bool, device=like.device)


def _entropy(counts: Tensor, axis: int) -> Tensor:
    p = counts / counts.sum(axis, keepdim=True).clamp(min=1e-30)
    return -torch.xlogy(p, p).sum(axis)


def _weighted_mean(t: Tensor, w: Tensor) -> Tensor:
    """Over the first axis; of what has no weight at all, 0."""
    total = w.sum(0)
    return (w * t).sum(0) / torch.where(total > 0.0, total, 1.0)


def _weighted_median(t: Tensor, w: Tensor) -> Tensor:
    """Over the first axis: half of the weight is at or below it."""
    values, order = t.sort(0)
    below = w.gather(0, order).cumsum(0)
    first = (below < below[-1:] / 2.0).sum(0, keepdim=True).clamp(max=len(t) - 1)
    return values.gather(0, first)[0]
