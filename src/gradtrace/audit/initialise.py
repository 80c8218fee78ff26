"""`init_critical_`: give every layer the gain that its own activation and normalisation need.

Forward along the recorded network, with the signal as the theory predicts it behind the weights just drawn:

    Var(w) = sigma_w^2 / fan_in,    1 / sigma_w^2 = E[a'^2] of what lies below these weights, dropout included

so that E[g^2] stays as it is from layer to layer (up to fan_out / fan_in, which cancels along the depth), and the bias
variance (or centring) that keeps the signal at q = 1. See `critical_point`, `branches`, `draw` for the parts.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gradtrace.audit.branches import branch_ends
from gradtrace.audit.critical_point import Point, critical_point
from gradtrace.audit.draw import METHODS, draw_
from gradtrace.audit.draw_recurrent import recurrent_
from gradtrace.audit.lsuv import scale_to_unit_variance_
from gradtrace.audit.neighbours import above, below, border, groups_of, rows_are_inputs, weight_of
from gradtrace.audit.propagate import effect_of
from gradtrace.audit.recording import Recording, Step, record
from gradtrace.audit.rules.table import RULES
from gradtrace.audit.signals import observed
from gradtrace.errors import InputError
from gradtrace.measure.session import eager
from gradtrace.measure.trace import check_model
from gradtrace.measure.untouched import untouched
from gradtrace.records.prediction import Initialisation, InitialisedParameter

if TYPE_CHECKING:
    from torch import Generator

    from gradtrace.audit.signals import Signal


def init_critical_(
    model: nn.Module, example_input: Any = None, *, method: str = "gaussian", generator: Generator | None = None
) -> Initialisation:
    """Initialise `model` in place so that neither gradient nor signal grows or shrinks with depth.

    Args:
        model: any module whose parameters hold numbers; frozen parameters are left as they are.
        example_input: what the model takes; without it, Gaussian noise for a first nn.Linear, convolution or embedding.
        method: 'gaussian', 'orthogonal', 'delta_orthogonal' (convolutions; linear layers orthogonal) or 'lsuv'
            (orthogonal, then every layer's output scaled to unit variance on `example_input`).
        generator: of the random numbers, as in `torch.nn.init`.

    Returns:
        What was done to which parameter, and what was left.

    Raises:
        InputError: no such method, the model does not run on the input, or an activation passes no gradient.

    Source: He et al. (2015); Schoenholz et al. (2017); Mishkin & Matas, All you need is a good init (2016) for LSUV.

    >>> import torch, gradtrace
    >>> layers = [layer for _ in range(20) for layer in (torch.nn.Linear(128, 128), torch.nn.GELU())]
    >>> model, x = torch.nn.Sequential(*layers), torch.randn(64, 128)
    >>> done = gradtrace.init_critical_(model, x, generator=torch.Generator().manual_seed(0))
    >>> round(done.parameters[2].gain, 2), gradtrace.predict(model, x).phase
    (1.48, 'critical')
    """
    if method not in METHODS:
        raise InputError(f"method must be one of {', '.join(METHODS)}, but it is {method!r}")
    model = check_model(model, [])
    example_input = _guess(model) if example_input is None else example_input
    run = _Initialiser(model, "orthogonal" if method == "lsuv" else method, generator)
    for module_path, module in model.named_modules():
        run.module(module_path, module)
    for _ in range(2):  # the second time with pooling and attention as they are behind the first one's weights
        with untouched(model, example_input=example_input), eager():
            recording = record(model, example_input, RULES)
        run.network(recording)
    if method == "lsuv":
        with untouched(model):
            run.notes += scale_to_unit_variance_(model, example_input, run.scales)
    return run.told()


def _guess(model: nn.Module) -> Tensor:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            return torch.randn(16, module.in_features, generator=torch.Generator().manual_seed(0)).to(module.weight)
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            shape = (8, module.in_channels, *[32] * len(module.kernel_size))
            return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(module.weight)
        if isinstance(module, nn.Embedding):
            return torch.arange(64, device=module.weight.device).reshape(4, 16) % module.num_embeddings
    raise InputError("example_input is needed: the model's first layer does not say what it takes")


class _Initialiser:
    """Draws weights along the network and keeps the account."""

    def __init__(self, model: nn.Module, method: str, generator: Generator | None) -> None:
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._parameters = dict(model.named_parameters())
        self._model, self._method, self._generator = model, method, generator
        self.done: dict[str, InitialisedParameter] = {}
        self.notes: list[str] = []
        self.scales: dict[str, float] = {}

    def told(self) -> Initialisation:
        """The account."""
        left = tuple(name for name in self._parameters if name not in self.done)
        return Initialisation(tuple(self.done.values()), left, tuple(dict.fromkeys(self.notes)))

    def _note(self, name: str, method: str, gain: float, reason: str, *, turned: bool = False) -> None:
        self.done[name] = InitialisedParameter(name, method, gain, reason, turned)

    def module(self, path: str, module: nn.Module) -> None:
        """Attention, which is one step to the recording; norms back to gamma 1, beta 0."""
        prefix = f"{path}." if path else ""
        if isinstance(module, nn.MultiheadAttention):
            for name, parameter in module.named_parameters():
                if parameter.requires_grad and parameter.dim() != 2:
                    nn.init.zeros_(parameter)
                    self._note(prefix + name, "zero", math.nan, "attention")
                elif parameter.requires_grad:
                    draw_(parameter, 1 / parameter.shape[1], "gaussian", self._generator)
                    self._note(prefix + name, "gaussian", 1.0, "attention: unit variance of queries, keys and values")
        elif type(module).__name__.lower().rstrip("123d").endswith("norm"):
            for name, value in (("weight", 1.0), ("bias", 0.0)):
                given = getattr(module, name, None)
                if isinstance(given, nn.Parameter) and given.requires_grad:
                    nn.init.constant_(given, value)
                    self._note(prefix + name, f"{value:g}", math.nan, "normalisation")

    def network(self, recording: Recording) -> None:
        """Every linear layer and convolution, in the order of the forward pass."""
        ends = branch_ends(recording)
        scales = {index: len(ends) ** -0.5 for index in ends if index >= 0 and len(ends) > 1}
        signals = [value.measured for value in recording.values]
        calls = Counter(step.module for step in recording.steps if step.function.endswith("_cell"))
        chosen, seen = self._where(recording), set[str]()
        for step in recording.steps:
            module = self._model.get_submodule(step.module)
            if isinstance(module, nn.RNNBase | nn.RNNCellBase) and step.module not in seen:
                seen.add(step.module)
                self._recurrent(step, module, signals, calls[step.module])
            weight = weight_of(step)
            if weight is not None and chosen.get(id(weight)) == step.index:
                self._layer(recording, step, weight, signals, scales.get(step.index, 1.0))
            elif step.index in scales:
                self._scale(step, scales[step.index])
            effect = effect_of(recording, step, signals)
            for output, signal in zip(step.outputs, effect.signals, strict=False):
                if signal is not None:
                    signals[output] = signal

    def _where(self, recording: Recording) -> dict[int, int]:
        """The step at which each weight is drawn: of several uses the first that has an activation below it."""
        signals = [value.measured for value in recording.values]
        chosen: dict[int, tuple[bool, int]] = {}
        for step in recording.steps:
            weight = id(weight_of(step))
            if weight in self._names:
                ranked = (bool(step.inputs) and below(recording, step, signals)[0] is not None, step.index)
                if weight not in chosen or (ranked[0] and not chosen[weight][0]):
                    chosen[weight] = ranked
        return {weight: index for weight, (_, index) in chosen.items()}

    def _recurrent(
        self, step: Step, module: nn.RNNBase | nn.RNNCellBase, signals: list[Signal], num_calls: int
    ) -> None:
        x = step.args[0]
        known = {id(tensor): signals[i].second for i, tensor in zip(step.inputs, step.input_tensors, strict=True)}
        second = known.get(id(x), float(x.detach().double().square().mean()))
        horizon = num_calls or x.shape[int(step.args[-1] is True and x.dim() == 3)]
        prefix = f"{step.module}." if step.module else ""
        for name, what, gain in recurrent_(module, second, horizon, self._generator):
            self._note(prefix + name, what, gain, f"recurrent, {horizon} steps")

    def _scale(self, step: Step, scale: float) -> None:
        module = self._model.get_submodule(step.module)
        path, parameter = "weight", getattr(module, "weight", None)
        if isinstance(module, nn.MultiheadAttention):
            path, parameter = "out_proj.weight", module.out_proj.weight
        name = f"{step.module}.{path}" if step.module else path
        if not isinstance(parameter, nn.Parameter) or not parameter.requires_grad or name not in self.done:
            return
        before = self.done[name]
        if "branch" not in before.reason:
            with torch.no_grad():
                parameter.mul_(scale)
            self._note(name, before.method, before.gain * scale, f"{before.reason}; residual branch x {scale:.3g}")

    def _layer(self, recording: Recording, step: Step, weight: Tensor, signals: list[Signal], scale: float) -> None:
        name = self._names[id(weight)]
        if not weight.requires_grad:
            self.notes.append(f"{name} is frozen: left as it is")
            return
        under, loss = below(recording, step, signals) if step.inputs else (None, 1.0)
        over, normed = above(recording, step)
        try:
            here, target = critical_point(under), critical_point(over)
        except ValueError as error:
            raise InputError(f"{step.module or 'the model'}: {error}") from error
        signal = signals[step.inputs[0]] if step.inputs else observed(step.args[0], recording.batch_size)
        if under is not None:
            sigma_w2, reason = 1 / loss, f"keeps E[g^2] through {under.name}"
        else:
            sigma_w2, reason = target.q / signal.second if signal.second > 0 else 1.0, "unit variance of its output"
        met = border(recording, step) if step.inputs else 1.0
        turned = rows_are_inputs(step)
        fan_in = weight.numel() / weight.shape[1 if turned else 0]
        method = "orthogonal" if self._method == "delta_orthogonal" and weight.dim() == 2 else self._method
        met = 1.0 if method == "delta_orthogonal" else met
        draw_(weight, sigma_w2 / met / fan_in * scale**2, method, self._generator, groups_of(step))
        scaled = f"; residual branch x {scale:.3g}" if scale != 1.0 else ""
        self._note(name, method, math.sqrt(sigma_w2) * scale, reason + scaled, turned=turned)
        self.scales[name] = scale
        self._bias(
            step, weight, signal, (here, target), under is not None and not normed and over is not None, sigma_w2
        )

    def _bias(
        self, step: Step, weight: Tensor, signal: Signal, points: tuple[Point, Point], matters: bool, sigma_w2: float
    ) -> None:
        bias = step.argument(2, "bias")
        if not isinstance(bias, Tensor) or id(bias) not in self._names or not bias.requires_grad:
            return
        here, target = points
        centred = here.centred and matters and "transpose" not in step.function
        kept = signal.variance if centred else signal.second
        spread = max(target.q - sigma_w2 * kept, 0.0) if matters else 0.0
        spread = 0.0 if spread < 1e-3 * target.q else spread
        with torch.no_grad():
            bias.zero_()
            if spread:
                bias.normal_(0.0, math.sqrt(spread), generator=self._generator)
            if centred:
                bias.sub_(signal.mean * weight.flatten(1).sum(1))
        what = f"gaussian, std {math.sqrt(spread):.3g}" if spread else "zero"
        reason = "takes the mean of its input out" if centred else "keeps the signal's variance" if spread else ""
        self._note(self._names[id(bias)], what, math.nan, reason)
