"""By which numbers is a symptom seen, or a cause told from others? The limits are the rules' own."""

from __future__ import annotations

from gradtrace.diagnosis import thresholds as t
from gradtrace.records.vocabulary import Cause, Symptom

SYMPTOMS = {
    Symptom.HEALTHY: (
        f"No other symptom: the early against the late gradient lies within {t.HEALTHY_DECADES:g} decades, or "
        "the optimizer makes up for it, and what is asked of the loss, the units, the formats and the steps "
        "holds."
    ),
    Symptom.VANISHING: (
        "The gradient at the first layers against that at the last, as Frobenius norm and per unit (both must "
        "agree), along the critical path, in the mildest of the batches; in time, early steps against late "
        f"ones. From {t.HEALTHY_DECADES:g} decades lost on it is a finding, from {t.CLEAR_DECADES:g} a "
        "critical one. A random gradient at the output must fare alike, and an adaptive optimizer that evens "
        f"it out makes it a remark. In a run also a layer that falls {t.CLEAR_DECADES:g} decades behind the others."
    ),
    Symptom.EXPLODING: (
        "As vanishing, with decades gained; or one optimizer step against the weights it moves (a step as "
        f"large as its weight replaces it: |update| / |weight| above {t.UPDATE_REPLACES:g}), or a loss that "
        f"grows {t.DIVERGED_FACTOR:g}-fold in steps on a copy or in a run; in a run also a gradient norm that "
        "spikes or keeps growing, and gradients that are never cleared."
    ),
    Symptom.NONFINITE: (
        "The loss, every gradient and every parameter are looked at, and where one is not finite every activation: "
        "the birthplace is the first op whose operands are finite and whose result (or derivative) is not."
    ),
    Symptom.DEAD_UNITS: (
        f"Units that are zero on every sample of every batch: from {100 * t.DEAD_FRAC:g} % of a layer on, and "
        f"by more than chance where all samples look alike ({t.DEAD_SIGMAS:g} binomial standard deviations)."
    ),
    Symptom.SATURATED: (
        "The fraction of units (rows, of a softmax) whose derivative is under 5 % of its maximum, read off "
        f"the values on the tape: more than {100 * t.SATURATED_MAJORITY:g} % of them; of what is flat on one "
        f"side by design (GELU) the units that always are, from {100 * t.DEAD_FRAC:g} % on. While a tenth of "
        "the slope is left over all such layers, a remark."
    ),
    Symptom.DISCONNECTED: (
        "Each parameter that the loss depends on by its value, against whether a gradient reaches it on the "
        "tape and whether an optimizer holds it. What a batch does not use is left in peace. Also weights that the "
        "forward pass makes anew."
    ),
    Symptom.LOSS_SATURATED: (
        "The elasticity of the loss: by what fraction it changes when the output moves by its own scale, of the "
        f"whole batch or of its median example. Below {t.FLAT_ELASTICITY:g}, with an op between output and loss "
        "that is flat, and no loss that is known to be below a constant's. Also examples that lie on a flat side "
        f"and stay there: from {100 * t.TRAPPED_FRAC:g} % of them on. And gradients that come to an output by several "
        "ways and cancel in all of its entries."
    ),
    Symptom.UNDERFLOW: (
        "Entries of gradients within the last bits of their format, gradients that all lie "
        f"{t.HEALTHY_DECADES:g} decades or more below Adam's eps, and, on a trial step, the fraction of the "
        "gradient's square on entries that the step left exactly as they were: above "
        f"{100 * t.UNCHANGED_FRAC:g} %. In a run also weights that do not move at any step."
    ),
}
CAUSES = {
    Cause.ACTIVATION_DERIVATIVE: (
        "Activations account for at least half of the decades that the path loses, their largest derivative "
        "is below one (or they are a softmax in place of a unit), and most of the loss is not where they are "
        "saturated. Also a second derivative that the loss takes, where that of the activations is zero."
    ),
    Cause.SATURATED_PREACTIVATION: (
        "Most pre-activations lie where the derivative is under 5 % of its maximum; where the gradient "
        "vanishes, these activations also account for at least half of the decades lost."
    ),
    Cause.SMALL_WEIGHTS: (
        "No other factor stands out: the path loses more than "
        f"{t.NEAR_ONE_DECADES:g} decades per layer on average, or one layer loses most of the gradient. Also weight "
        f"decay of more than {t.DROWNED:g} times the gradient, and pre-activations that are all zero."
    ),
    Cause.LARGE_WEIGHTS: (
        "As small_weights, with decades gained; or weights twice as large as He's, layer by layer, and steps "
        "that a tenth of the rate would not mend; or numbers that have grown until they overflow."
    ),
    Cause.DEPTH_WITHOUT_SKIP: (
        f"No factor stands out, and the path loses or gains less than {t.NEAR_ONE_DECADES:g} decades per layer on "
        "average: there are many."
    ),
    Cause.RECURRENT_CONTRACTION: (
        f"The same weights at least {t.RECURRENCE_CALLS} times, in half of the path's layers or more, or as many "
        "calls of torch's own recurrence with at least half of the decades lost; in time, the horizon."
    ),
    Cause.RECURRENT_EXPANSION: "As recurrent_contraction, with decades gained.",
    Cause.BATCHNORM_EXPLOSION: (
        "The gradient grows, no one op is to blame for half of it, there are batch norms for half of the layers or "
        "more, and no skips."
    ),
    Cause.RESIDUAL_GROWTH: (
        f"A skip for every {t.LAYERS_PER_BLOCK} layers or fewer, whose share of the gradient is at least "
        f"{t.SKIP_SHARE:g} at the median: the sum grows, and not one branch. Where numbers overflow in a network with "
        "skips: all weights are less than twice as large as He's, and the data are of usual size."
    ),
    Cause.ATTENTION_SATURATION: (
        f"More than {100 * t.SATURATED_MAJORITY:g} % of the rows of the softmax are one-hot; the size of "
        "queries, of keys and a missing 1 / sqrt(d) are told apart."
    ),
    Cause.POST_NORM: "Norms that stand behind a sum of two branches account for at least half of the decades lost.",
    Cause.LEARNING_RATE: (
        "Steps that diverge or replace the weights, and neither the data's scale, a sum over the batch nor the "
        "weights explain it. Whether a tenth of the rate would do is tried on a copy, and told. In a run also a rate "
        "of zero at every step."
    ),
    Cause.INPUT_SCALE: (
        f"Inputs of a root mean square of {t.INPUT_RMS:g} or more, or targets that lie {t.TARGET_RATIO:g} "
        "times the outputs' scale away. A batch that holds a NaN itself counts as well."
    ),
    Cause.NUMERIC_FORMAT: (
        "The format of the op at the birthplace, or of the gradients that are rounded away: float32 would "
        "hold the number."
    ),
    Cause.DETACHED_GRAPH: (
        "A value that the loss depends on, and no way on the tape that leads to it; or a parameter that no "
        "optimizer holds."
    ),
    Cause.LOSS_FUNCTION: (
        "The loss and the op in front of it, by structure: logits or probabilities, targets that the output "
        "cannot reach, shapes that broadcast; or a flat loss with its witness."
    ),
    Cause.UNSAFE_OP: (
        "The operand at the birthplace: it lies where the op, or its derivative, is singular or overflows."
    ),
    Cause.REDUCTION_SCALE: (
        "Half of the batch gives half of the loss, and dividing by the batch brings the step back."
    ),
    Cause.NONE: "Nothing is measured for it.",
}


def measured_by(word: str) -> str:
    """Of a symptom or a cause by its value; '' for any other word."""
    return next((told for table in (SYMPTOMS, CAUSES) for key, told in table.items() if key.value == word), "")
