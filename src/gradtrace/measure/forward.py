"""What the forward pass shows of itself: pre-activations and their a', scales into and out of linear maps, NaN and Inf.

An activation is measured at its pre-activation x as the torch function is called, before an in-place one overwrites it.
Where the call is hidden (inside multi-head attention, a recurrence, a scripted function) the tape's saved values serve.
"""

from __future__ import annotations

import weakref
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradtrace.measure.attention import attention_rows, fused_logits, heads, without_masked
from gradtrace.measure.objective import KNOWN, num_elements, reach
from gradtrace.measure.reduction import are_alike, count, in_memory_order, put_sample, spread, whole_norm
from gradtrace.measure.seen import MOMENTS, SATURATED_FRAC, Seen
from gradtrace.measure.written_out.follow import FOLLOWED, WrittenOut
from gradtrace.tape.activations import Activation
from gradtrace.tape.dataflow import WRITES, tensors_in
from gradtrace.tape.derivatives import NODES, activation_of, activation_of_node
from gradtrace.tape.kinds import base_name
from gradtrace.tape.private import inside_fake, inside_functorch, version_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.autograd.graph import Node

    from gradtrace.measure.deferred import Deferred
    from gradtrace.tape.recorder import Call

_SCALED = set(
    "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d bilinear matmul __matmul__ "
    "__rmatmul__ mm bmm addmm baddbmm einsum embedding embedding_bag layer_norm batch_norm group_norm instance_norm "
    "rms_norm scaled_dot_product_attention multi_head_attention_forward lstm gru rnn_tanh rnn_relu lstm_cell gru_cell "
    "rnn_tanh_cell rnn_relu_cell add __add__ __iadd__ add_ __radd__ cross_entropy nll_loss "
    "binary_cross_entropy_with_logits binary_cross_entropy mse_loss log_softmax".split()
)
"""Functions whose input and output scale are always measured."""

_LAYERS = {"linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}
"""Whose first operand has examples along its first axis."""

_OF_DATA = {*_LAYERS, "embedding"}
"""Of these it is asked whether the examples are one and the same, where they are data."""


_DIVISORS = dict.fromkeys(("div", "div_", "divide", "divide_", "true_divide", "__truediv__", "__itruediv__"), 1)
_DIVISORS |= dict.fromkeys(("reciprocal", "reciprocal_", "__rdiv__", "__rtruediv__"), 0)
"""Functions that divide, and which of their arguments they divide by."""


class ForwardObserver:
    """Measures operands and results of torch functions; with `values`, the range of every one of them."""

    def __init__(self, deferred: Deferred, *, values: bool = False) -> None:
        self.deferred = deferred
        self._values = values
        self._norms: dict[int, tuple[weakref.ref[Tensor], int, int]] = {}
        self._written_out = WrittenOut(deferred)
        self.history: list[tuple[Call, Seen]] = []

    def before(self, call: Call, function: Callable[..., Any], args: Any, kwargs: Any) -> Seen | None:
        """Measure the pre-activation and the operands' scale."""
        if inside_functorch() or inside_fake():
            return None
        seen = Seen()
        operands = tensors_in(args) + tensors_in(kwargs) if kwargs else tensors_in(args)
        first = operands[0] if operands else None
        if first is None:
            return seen
        if any(tensor.is_nested for tensor in operands):
            return None
        activation = activation_of(function, args, kwargs)
        if activation is not None and first.is_floating_point() and first.numel():
            x = first.detach()
            if activation.name == "softmax" and activation.dim is not None and x.dim() in (3, 4):  # perhaps attention's
                x = without_masked(x, activation.dim)
            seen.activation = self.measure_activation(activation, x)
            if activation.name == "softmax" and activation.dim in (-1, x.dim() - 1):
                with torch.no_grad():
                    seen.heads = self._heads(x, None)
        if call.name in _SCALED:
            wide = next((tensor for tensor in operands if tensor.is_floating_point()), None)
            if wide is not None and wide.numel():
                seen.scales["input"] = self._norm(wide)
                seen.numels = (wide.numel(), 0)
                if call.name in _LAYERS and type(wide) is Tensor and wide.dim() > 1 and len(wide) > 1:
                    with torch.no_grad():
                        seen.spread = self.deferred.put(spread(wide))
                if call.name in _OF_DATA and _is_data(first):
                    seen.alike = (self.deferred.put(are_alike(first.detach())), len(first))
        if call.name in KNOWN:
            held_against = reach(call.name, args, kwargs)
            if held_against is not None:
                seen.objective = self.deferred.put(held_against)
                seen.num_summed = num_elements(call.name, operands) if kwargs.get("reduction") == "sum" else 1
        if call.name in _DIVISORS:
            seen.divisor = self._divisor(args, _DIVISORS[call.name])
        if call.name in FOLLOWED:
            seen.arguments = (args, kwargs)
        if self._values:
            seen.operands = [handle for tensor in operands if (handle := self._extremes(tensor)) is not None]
        return seen

    def after(self, call: Call, seen: Seen | None, operands: list[Tensor], result: Any) -> None:
        """Measure the result's scale; `operands` were seen before."""
        if seen is None:
            return
        output = result if isinstance(result, Tensor) else next(iter(tensors_in(result)), None)
        if output is not None and seen.scales and output.is_floating_point() and output.numel():
            seen.scales["output"] = self._norm(output)
            seen.numels = (seen.numels[0], output.numel())
        if output is not None and seen.objective is not None:
            seen.value = self.deferred.put(output.detach().float().mean())
        if seen.arguments is not None:
            (args, kwargs), seen.arguments = seen.arguments, None
            self._written_out.follow(call.name, args, kwargs, result, seen)
        if self._values:
            made = operands[:1] if call.name in WRITES else tensors_in(result)
            seen.results = [handle for out in made if (handle := self._extremes(out)) is not None]
            self.history.append((call, seen))
        call.observed = seen

    def _norm(self, tensor: Tensor) -> int:
        """What one op makes the next one takes: it is measured once."""
        known, version = self._norms.get(id(tensor)), version_of(tensor)
        if known is not None and known[0]() is tensor and known[1] == version:
            return known[2]
        handle = self.deferred.put(whole_norm(tensor))
        self._norms[id(tensor)] = (weakref.ref(tensor), version, handle)
        return handle

    def _divisor(self, args: Any, place: int) -> int | None:
        """The range of what is divided by, where that is several numbers."""
        divisor = args[place] if len(args) > place else None
        if not isinstance(divisor, Tensor) or divisor.numel() < 2 or divisor.is_complex():
            return None
        return self._extremes(divisor)

    def _extremes(self, tensor: Tensor) -> int | None:
        values = tensor.detach()
        if values.is_complex():
            values = torch.view_as_real(values.resolve_conj())
        if not values.is_floating_point() or not values.numel() or values.layout is not torch.strided:
            return None
        low, high = torch.aminmax(values if values.element_size() > 1 else values.float())
        if low.element_size() < 4:  # autocast refuses to stack a half format that is not its own
            low, high = low.float(), high.float()
        return self.deferred.put(torch.stack((low, high)))

    def read_node(self, node: Node) -> Seen | None:
        """Measure an activation from what the tape saved of it; None for other ops."""
        if not _saves_activation(node.name()):
            return None
        with torch.no_grad():
            fused = fused_logits(node)
            if fused is not None:
                seen = Seen(activation=self._measure_rows(_ATTENTION, attention_rows(fused[0]), fused[0]))
                seen.heads = self._heads(*fused)
                return seen
            found = activation_of_node(node)
            if found is None:
                return None
            activation, preactivation, derivative = found
            if not any(part is not None and part.numel() for part in (preactivation, derivative)):
                return None  # applied to nothing: an expert without tokens
            if derivative is None:
                assert preactivation is not None
                return Seen(activation=self.measure_activation(activation, preactivation))
            if not activation.elementwise:
                return Seen(activation=self._measure_rows(activation, derivative))
            return Seen(activation=self._measure(activation, derivative, _itself, preactivation, node))

    def measure_activation(self, activation: Activation, x: Tensor) -> tuple[Activation, dict[str, int], int, int]:
        """Reduce a' and x of one call; returns the handles."""
        with torch.no_grad():
            if activation.elementwise and activation.dim is None:
                return self._measure(activation, x, activation.derivative, x, x.grad_fn)
            if activation.elementwise:
                return self._measure(activation, activation.derivative(x), _itself, x, x.grad_fn)
            rows = activation.derivative(x)
            if activation.dim is not None:  # a row with one unmasked entry is one-hot by construction
                entries = torch.isfinite(x).sum(activation.dim)
                rows = rows[entries > 1] if x.device.type == "cpu" else rows
            return self._measure_rows(activation, rows, x)

    def _measure(
        self,
        activation: Activation,
        values: Tensor,
        slope: Callable[[Tensor], Tensor],
        x: Tensor | None,
        source: Node | None,
    ) -> tuple[Activation, dict[str, int], int, int]:
        """`slope` makes a' of `values`, a part at a time: a' of all of them would take as much memory as they do."""
        axis = unit_axis(values, source) % max(values.dim(), 1)
        others = tuple(i for i in range(values.dim()) if i != axis)
        num_units = values.shape[axis] if values.dim() else 1
        if activation.levels is not None and values is x:
            parts = [low_counts(part, others) for part in in_parts(values)]
            handles = {"low": self.deferred.put(sum(parts[1:], start=parts[0]))}
        else:
            slopes = (slope(part).abs() for part in in_parts(values))
            found = [[*self._moments(activation, size), _largest(size, others)] for size in slopes]
            handles = {name: self.deferred.put(value) for name, value in zip(MOMENTS, _joined(found), strict=True)}
        return activation, handles | self._preactivation(x), values.numel(), num_units

    def _heads(self, logits: Tensor, scales: Tensor | None) -> int | None:
        found = heads(logits, scales, _ATTENTION.flat_below(SATURATED_FRAC))
        return None if found is None else self.deferred.put(found)

    def _measure_rows(
        self, activation: Activation, rows: Tensor, x: Tensor | None = None
    ) -> tuple[Activation, dict[str, int], int, int]:
        found = self._moments(activation, rows)
        handles = {name: self.deferred.put(value) for name, value in zip(MOMENTS, found, strict=False)}
        return activation, handles | self._preactivation(x), rows.numel(), 0

    @staticmethod
    def _moments(activation: Activation, size: Tensor) -> list[Tensor]:
        """Sum of |a'|, its norm, how many are flat and how many not zero."""
        flat = count(torch.lt, size, activation.flat_below(SATURATED_FRAC))
        return [size.sum(), whole_norm(size), flat, count(torch.ne, size, 0.0)]

    def _preactivation(self, x: Tensor | None) -> dict[str, int]:
        return {} if x is None or x.is_complex() else {"x": put_sample(in_memory_order(x.detach()), self.deferred)}


PART_SIZE = 2**18
"""Elements of an activation that a' is evaluated at together: 1 MB in float32, what a cache holds."""


def in_parts(values: Tensor) -> tuple[Tensor, ...]:
    """`values` in parts of about `PART_SIZE` elements along the first axis (the units lie along another)."""
    if values.dim() < 2 or values.numel() <= PART_SIZE:
        return (values,)
    return torch.split(values, max(1, PART_SIZE * values.shape[0] // values.numel()))


def low_counts(x: Tensor, others: tuple[int, ...]) -> Tensor:
    """Per unit, how many entries of `x` are at or below zero."""
    x = x.float() if x.element_size() < 4 else x
    low = torch.le(x, 0.0, out=torch.empty_like(x))
    return low.sum(others) if others else low.reshape(-1)


def _is_data(operand: Tensor) -> bool:
    """Whether it holds several examples that nothing was computed for."""
    return type(operand) is Tensor and not operand.requires_grad and operand.dim() > 0 and len(operand) > 1


def _largest(size: Tensor, others: tuple[int, ...]) -> Tensor:
    return size.amax(dim=others) if others else size.reshape(-1)


def _itself(derivative: Tensor) -> Tensor:
    return derivative


def _joined(parts: list[list[Tensor]]) -> list[Tensor]:
    """The moments of all parts together."""
    if len(parts) == 1:
        return parts[0]
    total, norm, flat, nonzero, units = (torch.stack(values) for values in zip(*parts, strict=True))
    return [total.sum(), torch.linalg.vector_norm(norm), flat.sum(), nonzero.sum(), units.amax(0)]


def unit_axis(x: Tensor, source: Node | None) -> int:
    """The axis of features: 1 (channels) behind a convolution, batch norm or pooling, else the last."""
    node = source
    for _ in range(4):
        if node is None:
            break
        name = node.name()
        if any(word in name for word in ("Conv", "BatchNorm", "Pool", "GroupNorm")):
            return 1 if x.dim() > 2 else -1
        node = node.next_functions[0][0] if node.next_functions else None
    return 1 if source is None and x.dim() >= 4 else -1


@cache
def _saves_activation(node_name: str) -> bool:
    return node_name.startswith("ScaledDotProduct") or base_name(node_name) in NODES


_ATTENTION = Activation(
    name="attention", derivative=lambda p: 4 * p * (1 - p), derivative_max=1.0, elementwise=False, dim=-1
)
