"""`predict`: what the theory of signal propagation says of a network before training, beside what is measured."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any

from torch import nn

from gradtrace.audit.arguments import Arguments
from gradtrace.audit.branches import branch_ends
from gradtrace.audit.findings import disagreements
from gradtrace.audit.layers import centre, interval, layer_predictions
from gradtrace.audit.measurement import measure
from gradtrace.audit.propagate import propagate
from gradtrace.audit.recording import record
from gradtrace.audit.rules.table import RULES
from gradtrace.audit.sentences import (
    alike_sentence,
    depth_of_loss,
    depth_sentence,
    design_sentence,
    format_depths,
    format_sentence,
    outlier_sentence,
    phase,
    time_sentences,
)
from gradtrace.audit.training import copied_layers, signs_of_training
from gradtrace.errors import InputError
from gradtrace.measure.session import eager
from gradtrace.measure.trace import check_model
from gradtrace.measure.untouched import untouched
from gradtrace.records.prediction import Prediction
from gradtrace.tape.dataflow import tensors_in

if TYPE_CHECKING:
    from gradtrace.audit.gradients import Propagation
    from gradtrace.audit.recording import Recording


def predict(
    model: nn.Module, example_input: Any, *, measured: bool = True, num_cotangents: int = 4, seed: int = 0
) -> Prediction:
    """Predict how the gradient grows through `model`, and measure it with random cotangents; nothing is changed.

    No labels, no loss. The theory takes each layer's weights as independent with their actual mean square:
    it holds at initialisation; on trained weights it is a reference and the measurement decides.

    Args:
        model: any module; on the meta device it is predicted with PyTorch's default initialisation, not measured.
        example_input: what the model takes: a tensor [batch, ...], a tuple of positional or a dict of named arguments.
            Batch axis first, and at least 2 samples, so that they can be compared.
        measured: measure as well.
        num_cotangents: backward passes to average over.
        seed: of the cotangents.

    Returns:
        The prediction, with the measurement beside it.

    Raises:
        InputError: the model does not run on the example input, has lazy modules, or its output has no gradient.

    Source: Schoenholz et al., Deep information propagation (2017); Yang, Tensor Programs II (2020).

    >>> import torch, gradtrace
    >>> blocks = [torch.nn.Sequential(torch.nn.Linear(256, 256), torch.nn.GELU()) for _ in range(10)]
    >>> audit = gradtrace.predict(torch.nn.Sequential(*blocks), torch.randn(64, 256))
    >>> audit.phase, round(1 / audit.growth_per_layer), audit.agrees
    ('ordered', 12, True)
    >>> print(audit.sentences[0])
    default Linear + GELU (10 of 10 layers) loses 1...x gradient energy per layer; gain 1.48 keeps it (it is 0.57...).
    """
    notes: list[str] = []
    model, on_meta = _accept(model, example_input, notes)
    with untouched(model, example_input=example_input), eager():
        recording = record(model, example_input, RULES)
        propagation = propagate(recording, num_cotangents)
        energies = [math.nan] * len(recording.values)
        if measured and not on_meta:
            energies = measure(recording, num_cotangents, seed)
    notes += recording.cuts + _not_finite(recording)
    notes += [] if on_meta else signs_of_training(model) + copied_layers(model)
    return _assemble(model, recording, propagation, energies, num_cotangents, tuple(notes), on_meta)


def _accept(model: Any, example_input: Any, notes: list[str]) -> tuple[nn.Module, bool]:
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    lazy = any(isinstance(p, nn.parameter.UninitializedParameter) for p in parameters)
    on_meta = not lazy and any(p.is_meta for p in parameters)
    if not on_meta:
        model = check_model(model, notes)
    tensors = tensors_in(Arguments.of(example_input))
    if not tensors:
        raise InputError(f"example_input must hold a tensor, but it is {type(example_input).__name__}")
    if on_meta and not all(tensor.is_meta for tensor in tensors):
        raise InputError(
            "the model is on the meta device: pass an example input there too, as torch.randn(..., device='meta')"
        )
    if any(not tensor.numel() for tensor in tensors):
        raise InputError("the example input holds an empty tensor: pass a batch of 16 or more")
    bad = next((t for t in tensors if t.is_floating_point() and not t.is_meta and not bool(t.isfinite().all())), None)
    if bad is not None:
        raise InputError(f"the example input of shape {list(bad.shape)} holds NaN or Inf")
    if tensors[0].dim() == 0 or tensors[0].shape[0] < 2:
        notes.append(
            "one sample only: between-sample correlation is not known, intervals are wide; pass a batch of 16 or more"
        )
    if on_meta:
        notes.append("on the meta device: PyTorch's default initialisation is assumed, and nothing is measured")
    return model, on_meta


def _assemble(
    model: nn.Module,
    recording: Recording,
    propagation: Propagation,
    energies: list[float],
    num_cotangents: int,
    notes: tuple[str, ...],
    on_meta: bool,
) -> Prediction:
    layers = layer_predictions(recording, propagation, energies)
    start = max(range(len(recording.values)), key=lambda i: (propagation.gradients[i].depth, -i))
    gradient = propagation.gradients[start]
    cells = [layer.time_growth for layer in layers if layer.num_steps == 1]
    growth = statistics.median(cells) if len(cells) > len(layers) / 2 else _growth_per_layer(propagation)
    middle = centre(gradient.energy, gradient.variance)
    half = interval(gradient.variance, gradient.drift, gradient.depth)
    shown = [x.decades if math.isnan(x.measured_decades) else x.measured_decades for x in layers]
    formats = format_depths(growth, shown, recording.batch_size)
    reference = any("is a reference" in note for note in notes)
    found = () if all(map(math.isnan, energies)) else disagreements(recording, propagation, energies, num_cotangents)
    sentences = (
        design_sentence(layers, growth, max(branch_ends(recording), default=-1) >= 0),
        *time_sentences(layers),
        outlier_sentence(layers),
        depth_sentence(growth, gradient.depth)
        if layers
        else "No layer whose weights the theory knows carries gradient: nothing to predict.",
        alike_sentence(layers),
        format_sentence(formats),
    )
    return Prediction(
        title=type(model).__name__,
        layers=layers,
        decades=middle,
        low=middle - half,
        high=middle + half,
        measured_decades=0.5 * math.log10(energies[start])
        if energies[start] > 0
        else (-math.inf if energies[start] == 0 else math.nan),
        growth_per_layer=growth,
        phase=phase(growth, gradient.depth - 2),
        depth_of_loss=depth_of_loss(growth),
        formats=formats,
        sentences=tuple(sentence for sentence in sentences if sentence),
        disagreements=found,
        gaps=_gaps(recording, propagation),
        notes=notes,
        reference=reference,
    )


def _growth_per_layer(propagation: Propagation) -> float:
    """Geometric mean from the input of the last layer to that of the second, what their shapes demand taken out."""
    last_of = {g.depth: g for g in propagation.gradients if g.energy > 0 and g.depth > 0}
    hidden = sorted(last_of)[:-1]
    if len(hidden) < 2:
        return math.nan
    upper, lower = last_of[hidden[0]], last_of[hidden[-1]]
    change = math.log(lower.energy) - math.log(upper.energy) - (lower.shape - upper.shape)
    return math.exp(change / (lower.depth - upper.depth))


def _not_finite(recording: Recording) -> list[str]:
    """Where the first NaN or Inf of the forward pass was born."""
    first = next((v for v in recording.values if not math.isfinite(v.measured.second)), None)
    if first is None or first.producer is None:
        return []
    step = recording.steps[first.producer]
    where = f"{step.module or 'the model'} {step.source}".strip()
    return [f"{step.function} in {where} makes values that are not finite: nothing can be measured behind it"]


def _gaps(recording: Recording, propagation: Propagation) -> tuple[str, ...]:
    named = [f"{recording.steps[i].module or 'the model'}: {propagation.effects[i].note}" for i in propagation.unruled]
    hidden = [f"not seen: what feeds {where}" for where in recording.hidden]
    return tuple(dict.fromkeys(named + hidden))
