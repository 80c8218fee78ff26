"""The trace: one backward pass, op by op, as numbers.

The identity that everything hangs on: along any path from the loss to a target,

    log10 |L'(target)| = log10 |L'(loss)| + sum over the path (log10 gain of each op + log10 gain of each merge)

where an op's gain is |gradient it passes on| / |gradient it received| and a merge's gain is
|sum of the arriving gradients| / |the arriving one on this path| (Frobenius norms).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gradtrace.records.derivative import DerivativeStats
from gradtrace.records.over_ranks import OverRanks
from gradtrace.records.shown import Columns, Kept, Tabular, counted, rendered
from gradtrace.records.time import ThroughTime
from gradtrace.records.vocabulary import Factor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Site:
    """Where in the user's code an op was recorded."""

    module: str | None
    """Path of the innermost module, as in ``named_modules`` ('' is the model itself); None: outside the model."""
    module_type: str = ""
    """Class name of that module."""
    call: int = 0
    """Which call of that module in this forward pass, from 0."""
    source: str = ""
    """``file.py:12`` of the user's line, or ''."""

    def __str__(self) -> str:
        """``encoder.0 (net.py:12)``; a second call of the module shows as ``encoder.0#2``."""
        name = "loss" if self.module is None else (self.module or "model")
        call = f"#{self.call + 1}" if self.call else ""
        return f"{name}{call} ({self.source})" if self.source else f"{name}{call}"


@dataclass(frozen=True, slots=True)
class TensorStats:
    """Numbers of one tensor: a gradient, a parameter or an op's value. Shapes are kept, elements are not."""

    shape: tuple[int, ...]
    dtype: str
    device: str
    norm: float
    """Frobenius norm, accumulated in float64 (so that 1e-25 and 1e+25 neither vanish nor overflow in float32)."""
    max_abs: float
    zero_frac: float
    """Fraction of exact zeros, in [0, 1]; of an evenly spaced sample when the tensor is large."""
    nonfinite_frac: float = 0.0
    """Fraction of NaN and Inf. When positive, ``norm`` and ``max_abs`` are over all entries and thus not finite."""
    log2_counts: tuple[tuple[int, int], ...] = ()
    """Histogram of floor(log2 |g|) as (exponent, count); of an evenly spaced sample when the tensor is large."""
    example_norms: tuple[float, ...] = ()
    """Minimum, quartiles and maximum of the norms per example of the batch (5 numbers), or () without a batch axis."""

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def rms(self) -> float:
        """Root mean square of the elements: norm / sqrt(numel)."""
        return self.norm / math.sqrt(self.numel) if self.numel else 0.0


@dataclass(frozen=True, slots=True)
class ActivationStats:
    """The derivative a' of one activation op over all its elements, and the pre-activation it was evaluated at."""

    function: str
    """Name in the activation table, as ``sigmoid``."""
    derivative_max: float
    """max |a'| of this function over the real line (sigmoid: 0.25)."""
    derivative_mean: float
    """Mean of |a'|."""
    derivative_rms: float
    """sqrt(E[a'^2]): what the activation does to an independent gradient, on average."""
    saturated_frac: float
    """Fraction of elements where |a'| < 5 % of its maximum (for softmax: of rows)."""
    zero_frac: float
    """Fraction of elements where a' is exactly zero."""
    num_units: int
    """Units (channels or features) of the layer."""
    dead_units: tuple[int, ...] = ()
    """Units whose a' is exactly zero on every sample and position."""
    saturated_units: int = 0
    """Number of units whose |a'| stays under 5 % of its maximum on every sample and position."""
    num_samples: int = 1
    """Elements per unit that were looked at."""
    preactivation_mean: float = math.nan
    preactivation_std: float = math.nan
    preactivation_quantiles: tuple[float, ...] = ()
    """Minimum, 5 %, 25 %, median, 75 %, 95 %, maximum of the pre-activations (of a sample); () if not recoverable."""


@dataclass(frozen=True, slots=True)
class AttentionStats:
    """The softmax of attention on a sample of its queries."""

    one_hot_fracs: tuple[float, ...]
    """Per head, the fraction of rows that are one-hot (as `ActivationStats.saturated_frac`)."""
    entropies_bits: tuple[float, ...]
    """Per head, the mean entropy of a row; log2(num_keys) at most."""
    num_keys: int
    query_rms: float = math.nan
    key_rms: float = math.nan
    temperature: float = math.nan
    """The factor of the logits times sqrt(d): 1 is usual. NaN, as the two above: attention is written out in the
    user's code, and the product of queries and keys is an op of its own."""


@dataclass(frozen=True, slots=True)
class ForwardStats:
    """What one op saw and made on the way forward (weight, norm and attention ops; every op on demand)."""

    input_rms: float
    output_rms: float
    differing: float = math.nan
    """Of a linear map or a convolution: of its input's root mean square, what differs from example to example (of a
    few of them); NaN: not known."""
    num_alike: int = 0
    """Of a layer that data come to: rows along the first axis that are all one and the same, entry by entry; 0 where
    two differ, or where it was not looked at."""


@dataclass(frozen=True, slots=True)
class ObjectiveStats:
    """The value of a known loss function per element, and what it is held against."""

    value: float
    """Mean over the elements (examples, for cross entropy), whatever the call's reduction."""
    constant: float
    """What the best output gets that does not look at the input: Var(t), E|t - median|, the labels' entropy."""
    floor: float = 0.0
    """What is left at best: E|t - clip(t)|^p, as the output's range ends before the targets do, or the spread of the
    targets that one output is held against."""
    beyond: float = 0.0
    """How far targets lie outside of [0, 1], where the loss expects probabilities."""
    held_against: float = 1.0
    """Targets that each output is held against: more than one where the two shapes broadcast; none where the loss
    expects log-probabilities, and exp of the output does not add up to one over the classes."""
    function: str = ""
    """The loss function, as ``mse_loss``; where it is written out, the one that it is equal to."""


@dataclass(frozen=True, slots=True)
class PlateauStats:
    """A squashing function at the output, or in the loss: what lies on its flat side though descent leads off it."""

    off_frac: float
    """Of all entries, the fraction that does."""
    off_of_flat: float
    """Of the entries on the flat side, the fraction that does: the others are led further in."""
    lost_decades: float
    """-log10 of their slope over the function's steepest, on average."""
    left: float
    """How much of these decades is left in the gradient: 0 where the loss makes up for them, as a likelihood does, 1
    where it does not; NaN where the entries lie too close together to tell."""


@dataclass(frozen=True, slots=True)
class Op:
    """One node of autograd's recorded graph, with the gradient it received and the gradients it passed on."""

    index: int
    """Position in ``Trace.ops``; every op comes after all the ops that it received gradient from."""
    name: str
    """Name of the autograd node, as ``AddmmBackward0``."""
    factor: Factor
    site: Site
    received: TensorStats | None
    """The gradient that arrived, all outputs of the op together; None: no gradient came this way."""
    passed: tuple[TensorStats | None, ...]
    """The gradient passed on, one per input; None where that input needs none."""
    targets: tuple[tuple[int, int] | None, ...]
    """Per input, (index of the op it goes to, which output of that op it belongs to); None where it goes nowhere."""
    shares: tuple[float | None, ...]
    """Per input, <g_i, g>/|g|^2: the share of this gradient in all that its target received (on all of the target's
    outputs together, so that the shares of what arrives at one op sum to 1); None where that is zero or not finite."""
    parameter: str | None = None
    """Name of the parameter that this op accumulates into (a leaf), else None."""
    weights: tuple[str, ...] = ()
    """Names of the parameters that are its operands, directly or through views; an op with weights is a layer."""
    sequence: int = 0
    """Place in the order of the forward pass."""
    activation: ActivationStats | None = None
    forward: ForwardStats | None = None
    function: str = ""
    """The torch function that recorded it, as ``linear``, or ''."""
    opaque: bool = False
    """True where ops are hidden inside (a reentrant checkpoint, a fused recurrence)."""
    trapped_frac: float = 0.0
    """Behind the last layer: of the examples, the fraction that gets no gradient although descent leads off the flat
    side of this op."""
    objective: ObjectiveStats | None = None
    """Of a known loss function (its last op), or of one written out that is equal to it (where it becomes a number)."""
    attention: AttentionStats | None = None
    """Of a softmax of attention."""
    plateau: PlateauStats | None = None
    """Of a squashing function behind the last layer."""
    divisor: tuple[float, float] | None = None
    """Of a division by a tensor of several numbers: the smallest and the largest of them."""

    def gain(self, slot: int) -> float:
        """|gradient passed to input `slot`| / |gradient received|; NaN without either."""
        passed = self.passed[slot]
        if passed is None or self.received is None or self.received.norm == 0.0:
            return math.nan
        return passed.norm / self.received.norm


@dataclass(frozen=True, slots=True)
class ParameterStats:
    """One parameter of the model: itself and its gradient."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    device: str
    norm: float
    gradient: TensorStats | None
    """None: no gradient reached it."""
    requires_grad: bool = True
    in_model: bool = True
    """False: reached by the gradient, but not among ``model.named_parameters()`` (not registered)."""
    optimizer: int | None = None
    """Index of the optimizer that holds it; None: none was given, or none holds it."""
    affects_loss: bool | None = None
    """Whether the loss is computed from it at all (through detached values too); None: not known."""
    module_called: bool = True
    """Whether the module that owns it was called in this forward pass."""
    finite: bool = True
    """Whether all of its entries are finite."""
    made_at: str = ""
    """The line at which the forward pass made it, anew or in the place of another; '': it was there before."""

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Coverage:
    """What the trace could not see, and what a reader must know of how it was taken."""

    no_gradient: tuple[str, ...] = ()
    """Parameters that require a gradient and got none."""
    opaque: tuple[str, ...] = ()
    """Sites of ops with hidden insides."""
    unknown: tuple[str, ...] = ()
    """Node names that the table does not know."""
    unreadable: tuple[str, ...] = ()
    """Activation sites whose derivative could not be read."""
    notes: tuple[str, ...] = ()
    """Sentences: 'traced through the uncompiled module', ..."""


@dataclass(frozen=True, slots=True, repr=False)
class Trace(Kept, Tabular):
    """One backward pass measured op by op. Ops are ordered from the loss to the parameters."""

    ops: tuple[Op, ...]
    parameters: tuple[ParameterStats, ...]
    loss: float
    """Value of the loss; NaN for a probe."""
    probe: str = "loss"
    """'loss': the loss gradient; 'random': a random cotangent at the network's output."""
    batch_size: int | None = None
    coverage: Coverage = field(default_factory=Coverage)
    nonfinite: Birth | None = None
    """The first op whose value is not finite although its inputs are, if any."""
    severed: tuple[str, ...] = ()
    """Where values went on without the tape, as ``detach (net.py:12)``."""
    derivatives: tuple[DerivativeStats, ...] = ()
    """Of custom functions whose forward could be evaluated once more beside its operands."""
    environment: tuple[tuple[str, str], ...] = ()
    """(name, value): versions, seed, device."""
    through_time: ThroughTime | None = None
    """The same loss gradient step by step in time, where `check` found recurrences."""
    ranks: OverRanks | None = None
    """Of a training step that several ranks took together and each traced; None: the trace is one process's own."""

    def __repr__(self) -> str:
        seen = f"{counted(len(self.ops), 'op')}, {counted(len(self.parameters), 'parameter')}"
        return f"<Trace of the {self.probe} gradient: {seen}, loss {self.loss:.4g}>"

    def plot(self, *, columns: Columns = 1, axes: Axes | None = None) -> Figure:
        """The waterfall for a paper: a matplotlib figure one or two columns wide, or drawn into `axes`.

        >>> import torch, gradtrace
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        >>> trace = gradtrace.trace(model, lambda model, x: model(x).mean(), torch.ones(2, 4))
        >>> trace.plot(columns=2).savefig("waterfall.pdf")  # doctest: +SKIP
        >>> float(trace.plot(columns=2).get_figwidth())
        7.2

        Raises:
            InputError: there is nothing to draw, or matplotlib is not installed (``pip install '.[figures]'``).
        """
        figure: Figure = rendered(self, "plot", columns=columns, axes=axes)
        return figure


@dataclass(frozen=True, slots=True)
class Birth:
    """Where the first non-finite number was born."""

    phase: str
    """'forward', 'backward', 'input' (it came with the batch), 'constant' (from outside of it) or 'parameter'."""
    op: str
    """Function or node name, or the parameter's name."""
    site: Site
    detail: str = ""
    """What is known of its operands: 'operands between 0 and 3.2e+38'."""
    largest: float = math.nan
    """Largest |operand|, or |gradient received| for a birth in the backward pass; NaN if not known."""
    operand: str = ""
    """What the user's line calls the operand, as ``distance``; '' where it is not known."""
    fed_by: str = ""
    """Of a birth outside of the model's parts: the module whose output the operand is, through functions; or ''."""
