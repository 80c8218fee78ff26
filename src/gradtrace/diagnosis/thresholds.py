"""Every threshold of every rule, with its unit and where it comes from. None is fitted to examples.

Two kinds: those of the vocabulary (what makes a case clear-cut), and those that follow from arithmetic.
"""

from __future__ import annotations

import math
from statistics import NormalDist

CLEAR_DECADES = 3.0
"""[decades] Early against late gradient: 1e-3 or 1e3 is clear-cut (vocabulary)."""

HEALTHY_DECADES = 2.0
"""[decades] Within [1e-2, 1e2] is healthy (vocabulary); between it and `CLEAR_DECADES` the severity is lower."""

NEAR_ZERO = 0.1
"""[of 1 / sqrt(fan_in)] Root mean square of a weight that starts near zero: a decade below LeCun's (1998, sec. 4.6)."""

GROWS = 1.05
"""[factor] A gain that grew by so much in the five steps of a trial, 1 % a step, doubles within 70."""

EVENED_OUT = 0.5
"""[fraction] of the decades beyond `HEALTHY_DECADES` that are gone after the steps that were followed: at that rate the
excess halves again and again."""

FOLLOWED_STEPS = 100
"""[steps] that are followed where it is asked whether training mends something: Adam moves each weight by its rate a
step, together by 100 * 1e-3, which is as much as default weights are large (1 / sqrt(3 fan_in) = 0.1 at 33 inputs)."""

FOLLOWED_RATE = 1e-3
"""[learning rate] at which they are made where the user's is smaller: steps of Adam take the same way at a smaller
rate, more slowly (its default: Kingma & Ba 2015, alg. 1)."""

DROWNED = 1.0
"""[pure number] Decay over gradient, lambda |w| / |g|. A step of gradient descent along -(g + lambda w) shortens w if
<g, w> + lambda |w|^2 > 0, and by Cauchy and Schwarz that is so at every ratio above one, whatever the loss says."""

EPS_MARGIN = 10.0
"""[pure number] Adam's first step is g / (|g| + eps): at ten times eps it is 9 % short, which is harmless."""

SATURATED_MAJORITY = 0.5
"""[fraction] 'Most' units or rows (vocabulary)."""

NEAR_ONE_DECADES = 0.1
"""[decades per layer] A gain between 0.79 and 1.26 is near one: at sqrt(2) = 0.15 decades the initialisation is already
the wrong one (Xavier where He was due: He et al. 2015, eq. 10), so the border lies between the two."""

SKIP_SHARE = 0.1
"""[fraction] A block x + f(x) multiplies E[g^2] by 1 + chi_f, of which the skip contributes 1: while that is at least a
tenth it is the sum that grows (chi_f <= 9; initialisations aim at about 1); above, f alone does."""

DEAD_FRAC = 0.75
"""[fraction] of a layer's units zero on every sample. Units of a healthy deep ReLU layer fall silent together with
probability 1/2 when all samples look alike (their correlation tends to one with depth: Schoenholz et al. 2017)..."""

DEAD_SIGMAS = 3.0
"""[standard deviations] ... so the fraction must also exceed 1/2 by three binomial standard deviations, or by as many
more as keep the chance that any of the layers whose samples look alike does so by luck (Bonferroni 1936)."""

DOMINANT_FRAC = 0.5
"""[fraction] A factor, or a layer, that accounts for at least half of the decades lost is the one to blame."""

RECURRENCE_CALLS = 4
"""[count] The same weight met that often on one path is a recurrence, in time or in shared depth."""

FLAT_ELASTICITY = 1e-2
"""[pure number] rms(dl/dy) max(1, rms(y)) / |l|: relative change of the loss when the output moves by its own scale.
Cross entropy and squared error give about 1 wherever the loss is large; 5 % of the slope counts as flat for a unit,
a fifth of that for the whole output."""

ROUNDING = 4.0
"""[units in the last place] What an op passes on of its gradient, relative to it, that is rounding and nothing else."""

EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""Distance from 1 to the next number of each format (IEEE 754)."""

HALF_OF_THE_DIGITS = EPSILON["float32"] ** 0.5
"""[fraction] Rows that are equal come out of a product of matrices equal but for some units in the last place, and a
batch norm multiplies what differs by 1 / sqrt(1e-5) at most: together these are no more than half of the digits."""

TELLABLE = 0.1
"""[fraction] Where rounding alone may move a number by a tenth of itself, two codes that compute it are
not compared."""

WRONG_DERIVATIVE = 0.1
"""[fraction] of a derivative, and cosine of the angle with it: central differences at two steps that agree to a tenth
tell no less."""

OPPOSITE_COSINE = -(0.5**0.5)
"""[pure number] Nearer to the very opposite of the derivative than to no relation with it. Feedback by random weights
of fan_out x fan_in has a cosine of 0 with a deviation of 1 / sqrt(fan_out fan_in): of ten, this is 2.2 of it."""

SWING = 4.0
"""[pure number] Range over steepest slope of a sigmoid, 1 / 0.25, and of softmax: how far its operand must move to take
it from one end to the other."""

TRAPPED_FRAC = 0.1
"""[fraction] of the examples without a gradient that are worth following: of a batch of 64 six, three standard
deviations above a chance of one in fifty."""

SUM_FACTOR = 1.9
"""[pure number] Doubling the batch doubles a summed loss and leaves a mean: 1.9 allows for 10 % between the halves."""

UPDATE_REPLACES = 1.0
"""[pure number] |update| / |weight|: above one a single step makes the weight another one. Healthy starts with Adam
show 0.01 to 0.04, the folk rule is 0.001 (Karpathy 2015); both are far below."""

UPDATE_HEALTHY = 0.1
"""[pure number] |update| / |weight|: Adam moves each weight by its rate at most (Kingma & Ba 2015, sec. 2.1), and the
default weights of PyTorch have an RMS of 1 / sqrt(3 fan_in): rate sqrt(3 fan_in) is 0.1 at 1e-3 and 3300 inputs."""

UPDATE_USUAL = 1e-3
"""[pure number] |update| / |weight| of a step that trains well (Karpathy 2015)."""

DIVERGED_FACTOR = 10.0
"""[pure number] The loss of the same batch grew to ten times its size: an order of magnitude."""

INPUT_RMS = 10.0
"""[pure number] Initialisations assume inputs of mean square about one (LeCun et al. 1998, sec. 4.3); ten times that
scale is an order of magnitude in every first-layer gradient."""

LARGE_WEIGHT = 2.0 * math.sqrt(2.0)
"""[of 1 / sqrt(fan_in)] Root mean square of weights twice as large as He's (2015, eq. 10)."""

TARGET_RATIO = 100.0
"""[pure number] Squared error: distance from output to target in units of the output. A fresh network's outputs are of
order 0.1 to 1 for targets of order 1; two orders of magnitude more is a matter of units."""

MIN_SAMPLES = 8
"""[count] A unit on with probability 1/2 is silent on eight samples by chance once in 256."""

SEQUENCE_ENDS = 10
"""[pure number] The early and the late end of a sequence are a tenth of it each, and at least one step."""

LAYERS_PER_BLOCK = 4
"""[count] A residual network has a skip for every four layers or fewer: bottleneck blocks have three (He et al. 2016),
attention four products."""

ATTENTION_MIN_ROWS = 16
"""[count] Fewer rows say nothing about a layer's attention."""

GROWN = 1e15
"""[pure number] A product or a sum of a few thousand products overflows float32 (3.4e38) from operands of 1e17 on, say
1e15 with all its terms; from smaller ones NaN and Inf come of something else (0 * inf, a constant)."""

HALF_FORMATS = {"float16": (-24, 65504.0), "bfloat16": (-133, 3.39e38), "float8_e4m3fn": (-9, 448.0),
                "float8_e5m2": (-16, 57344.0)}  # fmt: skip
"""log2 of the smallest subnormal, and the largest number, of each format (IEEE 754; OCP 8-bit floating point 2023)."""

FLUSH_BINS = 3
"""[bits] Entries within three powers of two of the smallest subnormal have at most three significant bits left."""

FLUSHED_FRAC = 0.5
"""[fraction] Most entries."""

SMALLEST_NORMAL = 2.0**-126
"""[pure number] Below it float32 has fewer and fewer digits (IEEE 754)."""

LARGEST_SQUARED = 2.0**64
"""[pure number] The square of anything from here on is no number of float32, which ends below 2^128 (IEEE 754)."""

FITTED_FRAC = 0.05
"""[fraction] By so much the best constant of a batch may be better than that of all data, where it is held against a
loss: the variance of twenty samples is short by a twentieth."""

UNCHANGED_FRAC = 0.5
"""[fraction of |gradient|^2] Most of what a step gains to first order lies on entries that it left as they were."""


LETS_THROUGH = 0.1
"""[fraction of the maximum] Mean |a'| of saturated layers, multiplied, from which on they are no fault: a decade, half
of `HEALTHY_DECADES`."""

FALLEN_FACTOR = 2.0
"""[factor] A loss has kept falling since a step if it has halved, and is no more than so many times its lowest."""

CLOSED_GATE = 1e-3
"""[fraction of the maximum] Mean |a'| of a gate that is stuck, open or closed: `CLEAR_DECADES`. Gates that are meant to
remember T steps have ln(T) / T / 0.25 on average (chrono initialisation, Tallec & Ollivier 2018): 0.03 at T = 1000."""

ALIVE_SILENT = 0.1
"""[fraction] Where the units that are not silent throughout still fall silent on a tenth of the samples, the samples do
not look alike: pre-activations of correlation 0.95 differ in arccos(0.95) / pi = 0.1 of their signs, and then a unit is
silent on all of 64 samples with probability 0.3 at the most, not 1/2."""


def dead_frac(num_units: int, num_layers: int = 1, least_frac: float = DEAD_FRAC) -> float:
    """The fraction of silent units from which one of `num_layers` alike, with `num_units` units, is dead.

    >>> round(dead_frac(64), 3), dead_frac(10000), round(dead_frac(64, 1000), 3)
    (0.75, 0.75, 0.793)
    """
    normal = NormalDist()
    sigmas = -normal.inv_cdf(normal.cdf(-DEAD_SIGMAS) / max(num_layers, 1))
    return min(1.0, max(least_frac, 0.5 + sigmas * 0.5 / math.sqrt(num_units)))


SUSTAINED_FRAC = 0.1
"""[fraction of the run] What is said of a run's state now holds in all of its last tenth ..."""

SUSTAINED_ROWS = 5
"""[rows] ... and in at least five rows: by chance half of them would lie on either side, 2^-5 = 3 %."""

SKIPPED_STEPS = 20
"""[steps] A scaler that starts at 2^16 and halves finds any scale that float16 gradients can bear within 20 steps."""

SKIPPED_FRAC = 0.5
"""[fraction of the steps] Most: a healthy scaler doubles every 2000 steps and loses one."""

SPIKE_WINDOW = 50
"""[rows] that a norm is held against: their median has a standard error of 0.18 standard deviations."""

SPIKE_CHANCE = 0.01
"""[probability] That the largest of n normal numbers exceeds sqrt(2 ln(n / p)) standard deviations is below p."""

UNCLEARED_STEPS = 2
"""[traced steps] Whose first backward pass added to what was there: exact each time, but one may have been meant."""

EFFECT_FRAC = 0.1
"""[of the unchanged network's first loss] A smaller gain is not worth an edit, and a smaller fall is no training."""

LEARNT_FRAC = 0.1
"""[of the best constant's loss] A decade below it: of a squared error, nine tenths of the targets' variance."""

EFFECT_RATIO = 0.7
"""[pure number] Or of the loss that the other is left with: where both train, what counts is what is left to learn;
three tenths are as much as a seed moves the end of a short training."""

RANK_CHANCE = 1e-6
"""[probability] That a rank like all others is the largest of them so often: once in a million runs."""

RANK_SIGMAS = 3.5
"""[robust standard deviations] Of the other ranks, by which one is off at half of the steps: the bound of the modified
z-score of an outlier (Iglewicz & Hoaglin 1993, sec. 3.3)."""

RANK_SLOW = 1.5
"""[times the others' median] All wait for the slowest: a third of their forward passes is spent waiting."""

MOST_NOISE = 10.0
"""[times the signal's power] Of a dropout, a decade: ten in eleven dropped (Srivastava et al. 2014: a half, and a fifth
of the inputs)."""

ALL_DROPPED_CHANCE = 1e-6
"""[probability] That a dropout with p < 1 leaves nothing by chance: once in a million passes."""
