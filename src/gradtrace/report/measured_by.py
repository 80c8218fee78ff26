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
        "it out makes it a remark."
    ),
    Symptom.EXPLODING: (
        "As vanishing, with decades gained; or one optimizer step against the weights it moves (a step as "
        f"large as its weight replaces it: |update| / |weight| above {t.UPDATE_REPLACES:g}), or a loss that "
        f"grows {t.DIVERGED_FACTOR:g}-fold in steps on a copy or in a run."
    ),
    Symptom.NONFINITE: (
        "Every activation, loss, gradient and parameter is looked at. The birthplace is the first op whose "
        "operands are finite and whose result (or derivative) is not."
    ),
    Symptom.DEAD_UNITS: (
        f"Units that are zero on every sample of every batch: from {100 * t.DEAD_FRAC:g} % of a layer on, and "
        f"by more than chance ({t.DEAD_SIGMAS:g} binomial standard deviations)."
    ),
    Symptom.SATURATED: (
        "The fraction of units (rows, of a softmax) whose derivative is under 5 % of its maximum, read off "
        f"the values on the tape: more than {100 * t.SATURATED_MAJORITY:g} % of them. While a tenth of the "
        "slope is left, a remark."
    ),
    Symptom.DISCONNECTED: (
        "Each parameter that the loss depends on by its value, against whether a gradient reaches it on the "
        "tape and whether an optimizer holds it. What a batch does not use is left in peace."
    ),
    Symptom.LOSS_SATURATED: (
        "The elasticity of the loss: by what fraction it changes when the output moves by its own scale. "
        f"Below {t.FLAT_ELASTICITY:g} with a large loss and an op between output and loss that is flat."
    ),
    Symptom.UNDERFLOW: (
        "Entries of gradients within the last bits of their format, and, on a trial step, the fraction of the "
        "gradient's square on entries that the step left exactly as they were: above "
        f"{100 * t.UNCHANGED_FRAC:g} %."
    ),
}
CAUSES = {
    Cause.ACTIVATION_DERIVATIVE: (
        "Activations account for at least half of the decades that the path loses, their largest derivative "
        "is below one, and they are not saturated."
    ),
    Cause.SATURATED_PREACTIVATION: (
        "Most pre-activations lie where the derivative is under 5 % of its maximum, and these activations "
        "account for at least half of the decades lost."
    ),
    Cause.SMALL_WEIGHTS: (
        "No other factor stands out: the weights' gains per layer lie below one by more than "
        f"{t.NEAR_ONE_DECADES:g} decades, or one layer loses most of the gradient."
    ),
    Cause.LARGE_WEIGHTS: "As small_weights, above one; or steps too large that a tenth of the rate would not mend.",
    Cause.DEPTH_WITHOUT_SKIP: (
        f"Every layer's gain is within {t.NEAR_ONE_DECADES:g} decades of one, and there are many."
    ),
    Cause.RECURRENT_CONTRACTION: (
        f"The same weights, or the same module, at least {t.RECURRENCE_CALLS} times on the path, and most of "
        "the loss at them; in time, the horizon and the largest Lyapunov exponent."
    ),
    Cause.RECURRENT_EXPANSION: "As recurrent_contraction, with decades gained.",
    Cause.BATCHNORM_EXPLOSION: (
        "Batch norms in half of the layers or more, no skips, and the norms' gains grow the gradient."
    ),
    Cause.RESIDUAL_GROWTH: (
        f"Skips in the path, whose share of the gradient is at least {t.SKIP_SHARE:g}: the sum grows, and not "
        "one branch."
    ),
    Cause.ATTENTION_SATURATION: (
        f"More than {100 * t.SATURATED_MAJORITY:g} % of the rows of the softmax are one-hot; the size of "
        "queries, of keys and a missing 1 / sqrt(d) are told apart."
    ),
    Cause.POST_NORM: "Norms that stand behind a sum of two branches account for at least half of the decades lost.",
    Cause.LEARNING_RATE: "Steps on a copy diverge or replace the weights, and a tenth of the rate would do.",
    Cause.INPUT_SCALE: (
        f"Inputs of a root mean square of {t.INPUT_RMS:g} or more, or targets that lie {t.TARGET_RATIO:g} "
        "times the outputs' scale away; dividing by it would bring the step back."
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
