"""What to change between the last layer and the loss: what the loss is given, and what it is asked."""

from __future__ import annotations

from gradtrace.records.finding import Remedy

LIKELIHOOD = Remedy(
    "Lower the likelihood's loss of what is wanted, on logits: it makes up for the slope.",
    "wanted = torch.ones_like(logits)  # a generator's fakes are to pass for real: not minus the loss of zeros\n"
    "loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted)",
    "Goodfellow et al. 2014, section 3",
)

WITHOUT_BOUND = Remedy(
    "Take the last non-linearity away, or scale the targets into its range.",
    "output = self.head(x)  # no activation behind it\nloss = torch.nn.functional.mse_loss(output, target)",
    "Bishop 2006",
)

OWN_SCALE = Remedy(
    "Take the norm behind the last layer away, or standardise the targets.",
    "output = self.head(x)  # no norm behind it\nloss = torch.nn.functional.mse_loss(output, target)",
    "Ioffe & Szegedy 2015, section 3",
)

AS_LOGITS = Remedy(
    "Give the loss what the last layer makes, with no activation behind it: it squashes by itself.",
    "logits = self.head(x)  # no sigmoid or tanh behind it\nloss = torch.nn.functional.cross_entropy(logits, target)",
    "Bishop 2006",
)

TEMPERATURE = Remedy(
    "Divide cosines by a temperature before a softmax of them.",
    "logits = cosines / 0.07\nloss = torch.nn.functional.cross_entropy(logits, target)",
    "Wu et al. 2018; Chen et al., SimCLR, 2020",
)

SAME_SHAPE = Remedy(
    "Give output and targets the same shape.",
    "loss = torch.nn.functional.mse_loss(output, target.view_as(output))",
)

HOLD_FIXED = Remedy(
    "Detach what is to be held fixed, or compute it before and without a gradient.",
    "ratio = torch.exp(new_log_prob - old_log_prob.detach())",
)

NO_MINUS = Remedy(
    "Minimise the error itself: take the minus away.",
    "loss = torch.nn.functional.cross_entropy(logits, target)  # which is a negative log likelihood already",
)

BOUNDED = Remedy(
    "Give the loss a bound below: log probabilities in place of scores, a margin for distances, no minus of an error.",
    "loss = torch.nn.functional.cross_entropy(logits, target)  # of scores; nll_loss, kl_div take their log_softmax\n"
    "loss = torch.relu(near - far + margin).mean()  # of distances",
)

FOR_CLASSES = Remedy(
    "Of class numbers take the cross entropy, with an output for each class; probabilities lie between 0 and 1.",
    "loss = torch.nn.functional.cross_entropy(logits, target)  # logits [batch, classes], target [batch]",
)

FOR_MARGINS = Remedy(
    "Make labels of 0 and 1 into -1 and 1, for a loss of margins.",
    "loss = torch.nn.functional.soft_margin_loss(output, 2.0 * target - 1.0)",
)

OVER_CLASSES = Remedy(
    "Take the softmax over the classes, or leave it to cross_entropy.",
    "loss = torch.nn.functional.cross_entropy(logits, target)  # logits [batch, classes, ...], target [batch, ...]",
)

SMOOTH = Remedy(
    "Use an activation that bends everywhere, where the loss takes second derivatives of the network.",
    "torch.nn.Tanh()  # or torch.nn.SiLU(), torch.nn.Softplus(), a sine",
    "Raissi et al. 2019",
)


def log_probabilities(loss: str) -> tuple[Remedy, ...]:
    """Of a loss that expects logarithms.

    >>> log_probabilities("kl_div")[0].code.splitlines()[0]
    'log_p = torch.nn.functional.log_softmax(logits, dim=1)'
    """
    dim, lengths = (-1, ", input_lengths, target_lengths") if loss == "ctc_loss" else (1, "")
    code = (
        f"log_p = torch.nn.functional.log_softmax(logits, dim={dim})\n"
        f"loss = torch.nn.functional.{loss}(log_p, target{lengths})"
    )
    return (Remedy("Give the loss logarithms of probabilities.", code),)
