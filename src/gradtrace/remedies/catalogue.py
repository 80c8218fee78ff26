"""One visible table from cause to remedies, the most effective first."""

from __future__ import annotations

from dataclasses import replace

from gradtrace.records.finding import Remedy
from gradtrace.records.vocabulary import Cause, Symptom

_HE = Remedy(
    "Initialise the weights for the activation in use.",
    "torch.nn.init.kaiming_normal_(layer.weight, nonlinearity='relu')\n"
    "# for tanh: torch.nn.init.xavier_normal_(layer.weight)",
    "He et al. 2015; Glorot & Bengio 2010",
)
_INITIALISED = {
    "relu": "torch.nn.init.kaiming_normal_(layer.weight, nonlinearity='relu')",
    "leaky_relu": "torch.nn.init.kaiming_normal_(layer.weight, a=0.01, nonlinearity='leaky_relu')",
    "selu": "torch.nn.init.kaiming_normal_(layer.weight, nonlinearity='linear')",
    "tanh": "torch.nn.init.xavier_normal_(layer.weight)",
}
_SKIP = Remedy("Add skip connections: x = x + block(norm(x)).", "x = x + self.block(self.norm(x))", "He et al. 2016")
_NORM = Remedy("Normalise between layers.", "torch.nn.LayerNorm(width)", "Ba et al. 2016")
_CLIP = Remedy(
    "Clip the gradient norm before the step.",
    "torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)",
    "Pascanu et al. 2013",
)
_SCALER = Remedy(
    "Scale the loss, or use bfloat16 with float32 master weights.",
    "scaler = torch.amp.GradScaler()\nscaler.scale(loss).backward()\nscaler.step(optimizer)\nscaler.update()",
    "Micikevicius et al. 2018",
)
_INPUTS = Remedy(
    "Normalise inputs (and regression targets) to zero mean and unit variance.",
    "x = (x - x.mean(0)) / x.std(0)",
    "LeCun et al. 1998",
)
_LOWER = Remedy(
    "Lower the learning rate tenfold, or warm it up.", "for group in optimizer.param_groups: group['lr'] /= 10"
)

HIGHER_RATE = Remedy(
    "Raise the learning rate until a step moves the weights by about a thousandth of their size.",
    "for group in optimizer.param_groups: group['lr'] = 1e-3",
    "Karpathy 2015",
)

LESS_DROPOUT = Remedy(
    "Drop fewer entries: p is the fraction that is dropped, not that which is kept.",
    "torch.nn.Dropout(0.5)",
    "Srivastava et al. 2014",
)

FACTOR_BELOW_ONE = Remedy(
    "Where each entry of the state has a factor of its own, keep it below one.",
    "a = torch.exp(-torch.nn.functional.softplus(rate))",
    "Gu et al. 2022; Orvieto et al. 2023",
)

ALIKE_IN_SIZE = Remedy(
    "Draw what is added up at one scale, tokens and positions alike.",
    "torch.nn.init.normal_(model.positions.weight, std=0.02)",
    "Radford et al. 2018",
)

FASTER = Remedy(
    "Raise the learning rate tenfold, or train ten times as long.",
    "for group in optimizer.param_groups: group['lr'] *= 10",
)

DRAWN_AT_RANDOM = Remedy(
    "Draw the weights at random: units that begin alike stay alike.",
    "torch.nn.init.kaiming_normal_(layer.weight, nonlinearity='relu')",
    "Goodfellow et al. 2016",
)

SEVERAL_FEATURES = Remedy(
    "Normalise over several features, in front of the layer that makes one.",
    "torch.nn.Sequential(torch.nn.LayerNorm(features), torch.nn.Linear(features, 1))",
    "Ba et al. 2016",
)

FINITE_CONSTANT = Remedy(
    "Make the constant finite where it is computed: a class that never occurs, say, has been divided by.",
    "class_weights = counts.sum() / counts.clamp_min(1)",
)

FINITE_INPUTS = Remedy(
    "Make the data finite: a feature that never varies has a standard deviation of zero, and 0 / 0 is NaN.",
    "x = (x - x.mean(0)) / x.std(0).clamp_min(1e-6)\nassert torch.isfinite(x).all()",
)

FIND_THE_ROW = Remedy(
    "Find the rows that lie far from all others, and mend them or leave them out.",
    "far = ((x - x.median(0).values).abs() / x.std(0)).amax(1)  # of all inputs, and of the targets alike\n"
    "print(far.topk(5))",
    "Huber 1964",
)

LOOK_AT_BATCH = Remedy(
    "Find where the examples become equal, between the file and the network.",
    "x, y = next(iter(loader))\nprint(x[:4], (x == x[:1]).all())\n"
    "# of x below one, x.long() * 15 is zero, and (x * 15).long() is not",
)

CLEAR_GRADIENTS = Remedy(
    "Clear the gradients before every backward pass (or after every step).",
    "optimizer.zero_grad()\nloss.backward()\noptimizer.step()",
    "torch.optim: gradients accumulate in .grad until they are cleared",
)


_DECOUPLED = Remedy(
    "Decouple the decay from the scaling, and make it small.",
    "torch.optim.AdamW(model.parameters(), weight_decay=0.01)",
    "Loshchilov & Hutter 2019",
)

_LESS_DECAY = Remedy(
    "Decay less: the rate times the decay is the fraction of every weight that each step takes away.",
    "torch.optim.SGD(model.parameters(), lr=..., weight_decay=1e-4)",
    "Krogh & Hertz 1991",
)

_ORTHOGONAL = Remedy(
    "Initialise the recurrent weights orthogonally: every step then keeps the gradient's size, but for a'.",
    "torch.nn.init.orthogonal_(rnn.weight_hh_l0)",
    "Saxe et al. 2014; Arjovsky et al. 2016",
)

_IDENTITY = Remedy("Or as the identity, with ReLU.", "torch.nn.init.eye_(rnn.weight_hh_l0)", "Le et al. 2015")
_GATES = Remedy(
    "Use an LSTM or GRU: what its gates keep, they pass back.",
    "torch.nn.LSTM(size, hidden)",
    "Hochreiter & Schmidhuber 1997; Cho et al. 2014",
)
_CHRONO = Remedy(
    "Let the forget gates remember as long as the sequence T: b_f = ln u with u ~ U(1, T-1), and b_i = -b_f.",
    "b, n = rnn.bias_ih_l0.data, rnn.hidden_size\n"
    "rnn.bias_hh_l0.data.zero_()\n"
    "b[n:2*n].uniform_(1, T - 1).log_()\n"
    "b[:n] = -b[n:2*n]",
    "Gers et al. 2000; Tallec & Ollivier 2018",
)
_CHRONO_GRU = Remedy(
    "Let the update gates remember as long as the sequence T: b_z = ln u with u ~ U(1, T-1).",
    "n = rnn.hidden_size\nrnn.bias_ih_l0.data[n:2*n].uniform_(1, T - 1).log_()",
    "Tallec & Ollivier 2018",
)
_CHRONO_LOOP = Remedy(
    "Let the gate that multiplies the state remember as long as the sequence T: a bias of ln u with u ~ U(1, T-1).",
    "forget_gate.bias.data.uniform_(1, T - 1).log_()",
    "Gers et al. 2000; Tallec & Ollivier 2018",
)
_SHORTEN = Remedy("Shorten what a gradient must bridge: attention, a loss at every step, or a coarser grid of time.")

MEAN_OF_EACH = Remedy(
    "Divide each sum over neighbours, positions or samples by how many there are.",
    "total = total / count.clamp_min(1).unsqueeze(-1)",
    "Kipf & Welling 2017",
)

_UNBOUNDED = Remedy(
    "Learn from the output without its bound, and bound it where it is used: past the bound nothing pulls it back.",
    "loss = loss_function(output, target)\nused = output.clamp(low, high)",
)

MAKE_ONCE = Remedy(
    "Make the layer once, in __init__, and call it in forward.",
    "self.hidden = torch.nn.Linear(width, width)",
)
CALL_WITH = Remedy(
    "Compute with the tensor itself: a Parameter is made once, in __init__.",
    "out = torch.nn.functional.linear(x, weight, self.layer.bias)  # or torch.func.functional_call(layer, made, x)",
)
OWN_DERIVATIVE = Remedy(
    "Return from backward grad_output times the derivative of what forward computes, one gradient for each argument in "
    "their order; torch.autograd.gradcheck holds it against differences. Without a backward of your own autograd finds "
    "the derivative itself.",
    "torch.autograd.gradcheck(Function.apply, torch.randn(4, 3, dtype=torch.float64, requires_grad=True))",
)


REMEDIES: dict[Cause, tuple[Remedy, ...]] = {
    Cause.ACTIVATION_DERIVATIVE: (
        Remedy("Use an activation whose derivative reaches one.", "torch.nn.ReLU()", "Glorot et al. 2011"),
        _SKIP,
        _NORM,
    ),
    Cause.SATURATED_PREACTIVATION: (
        Remedy("Bring the pre-activations back to order one: smaller weights and biases, or a norm in front."),
        _NORM,
        _HE,
    ),
    Cause.SMALL_WEIGHTS: (_HE, _NORM, _SKIP),
    Cause.LARGE_WEIGHTS: (_HE, _NORM, _CLIP),
    Cause.DEPTH_WITHOUT_SKIP: (
        _SKIP,
        Remedy("Initialise orthogonally, at the activation's critical gain.", "torch.nn.init.orthogonal_(layer.weight)",
               "Saxe et al. 2014"),
    ),
    Cause.RECURRENT_CONTRACTION: (_ORTHOGONAL, _IDENTITY, _GATES, _SHORTEN),
    Cause.RECURRENT_EXPANSION: (
        _CLIP,
        _ORTHOGONAL,
        Remedy("Let fewer steps multiply: truncate the back-propagation.", "state = [s.detach() for s in state]",
               "Williams & Peng 1990"),
    ),
    Cause.BATCHNORM_EXPLOSION: (_SKIP, Remedy("Use layer norm, or fewer layers.", "", "Yang et al. 2019")),
    Cause.RESIDUAL_GROWTH: (
        Remedy("Normalise each branch at its input, or scale it by 1/sqrt(depth), or start it at zero.",
               "x = x + self.block(self.norm(x)) / depth**0.5", "Zhang et al. 2019; De & Smith 2020"),
    ),
    Cause.ATTENTION_SATURATION: (
        Remedy("Divide the logits by sqrt(head dim), normalise queries and keys.",
               "scores = q @ k.mT / q.shape[-1] ** 0.5", "Vaswani et al. 2017; Henry et al. 2020"),
    ),
    Cause.POST_NORM: (
        Remedy("Move the norm into the branch (pre-norm).", "torch.nn.TransformerEncoderLayer(..., norm_first=True)",
               "Xiong et al. 2020"),
        Remedy("Or keep it and warm the learning rate up.", "", "Xiong et al. 2020"),
    ),
    Cause.LEARNING_RATE: (_LOWER, _CLIP),
    Cause.INPUT_SCALE: (_INPUTS,),
    Cause.NUMERIC_FORMAT: (_SCALER,),
    Cause.DETACHED_GRAPH: (
        Remedy("Keep the computation on the tape: no detach, .data, .item(), no_grad or argmax on the way to the loss; "
               "register layers in a ModuleList; give the optimizer model.parameters()."),
    ),
    Cause.LOSS_FUNCTION: (
        Remedy("Give the loss what it expects: raw logits to cross_entropy and to binary_cross_entropy_with_logits.",
               "loss = torch.nn.functional.cross_entropy(logits, target)\n# no softmax before it"),
    ),
    Cause.UNSAFE_OP: (
        Remedy("Keep the operand away from the singularity, inside the op and not behind it.",
               "torch.log(x.clamp_min(1e-6))\ntorch.sqrt(x.clamp_min(1e-12))\ntorch.exp(x.clamp_max(80))"),
    ),
    Cause.REDUCTION_SCALE: (
        Remedy("Average the loss over the batch, or divide the learning rate by the batch size.", "loss = loss.mean()"),
    ),
}  # fmt: skip


_OF_BOTH = {
    (Symptom.UNDERFLOW, Cause.LEARNING_RATE): (HIGHER_RATE,),
    (Symptom.EXPLODING, Cause.NUMERIC_FORMAT): (_CLIP,),
}
"""Where the symptom turns the cause's remedies round: a rate that is too small, a format that overflows."""


def remedies_for(symptom: Symptom, cause: Cause, activation: str = "") -> tuple[Remedy, ...]:
    """What to change; clipping is left out where the gradient is too small rather than too large.

    `activation`: the one behind the weights, for which they are initialised; '' where it is not known.
    """
    both = _OF_BOTH.get((symptom, cause), REMEDIES.get(cause, ()))
    found = (_initialised_for(activation) if r is _HE else r for r in both)
    return tuple(r for r in found if not (symptom is Symptom.VANISHING and r is _CLIP))


def of_flat(function: str) -> tuple[Remedy, ...]:
    """Of an output, or a loss, that is flat at `function`.

    >>> of_flat("clamp")[0].code.splitlines()[1]
    'used = output.clamp(low, high)'
    """
    cut_off = function.rstrip("_") in ("clamp", "clip", "hardtanh", "relu", "relu6", "threshold")
    return (_UNBOUNDED,) if cut_off else REMEDIES[Cause.LOSS_FUNCTION]


def step_of(num_sums: int) -> Remedy:
    """Where one map is added again and again: (1 + h f')^n is bounded for h = 1/n.

    >>> step_of(60).code
    'x = x + self.f(x) / 60'
    """
    title = "Scale what is added by one over how often it is added, as a step of integration is."
    return Remedy(title, f"x = x + self.f(x) / {num_sums}", "Chen et al. 2018")


def _initialised_for(activation: str) -> Remedy:
    """By its own rule, where it has one; others by their measured gain.

    >>> _initialised_for("tanh").code
    'torch.nn.init.xavier_normal_(layer.weight)'
    >>> _initialised_for("gelu").code
    'gradtrace.init_critical_(model, example_input)'
    """
    if not activation:
        return _HE
    code = _INITIALISED.get(activation, "gradtrace.init_critical_(model, example_input)")
    return replace(_HE, title=f"Initialise the weights for {activation}.", code=code)


def less_decay(*, adaptive: bool) -> tuple[Remedy, ...]:
    """Where steps follow weight decay alone."""
    return (_DECOUPLED if adaptive else _LESS_DECAY,)


def remedies_in_time(kind: str) -> tuple[Remedy, ...]:
    """Against contraction in a recurrence of this kind: a gated cell is told to remember, not to become one."""
    gates = {"lstm": (_CHRONO, _SHORTEN), "gru": (_CHRONO_GRU, _SHORTEN), "gated loop": (_CHRONO_LOOP, _SHORTEN)}
    return gates.get(kind, REMEDIES[Cause.RECURRENT_CONTRACTION])


def at_hand(remedy: Remedy, recurrence: str, suffix: str, num_steps: int) -> Remedy:
    """The code for the recurrence at hand: its name in Python, the layer of it, and the sequence's length for T.

    >>> at_hand(_ORTHOGONAL, "model.encoder.rnn", "_l1", 50).code
    'torch.nn.init.orthogonal_(model.encoder.rnn.weight_hh_l1)'
    """
    code = remedy.code.replace("rnn.", f"{recurrence}.").replace("_l0", suffix).replace("T - 1", str(num_steps - 1))
    return replace(remedy, code=code)


def of_weight(remedy: Remedy, weight: str) -> Remedy:
    """The code for the weight of a loop that has no recurrent module.

    >>> of_weight(_ORTHOGONAL, "model.i2h.weight").code
    'torch.nn.init.orthogonal_(model.i2h.weight)'
    """
    return replace(remedy, code=remedy.code.replace("rnn.weight_hh_l0", weight))


def clip_at(threshold: float) -> Remedy:
    """Clipping at the norm that the measured ones suggest.

    >>> clip_at(0.1234).code
    'torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=0.12)'
    """
    code = f"torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm={threshold:.2g})"
    return Remedy(
        "Clip the gradient norm before the step, at about what it would be without the growth.", code, _CLIP.source
    )


def detach_less(num_steps: float) -> Remedy:
    """Truncated back-propagation over as many steps as the gradient reaches."""
    title = f"Keep the state on the tape for about {num_steps:.0f} steps, and detach it only then."
    return Remedy(title, "state = state.detach()  # between windows, not inside of them", "Williams & Peng 1990")
