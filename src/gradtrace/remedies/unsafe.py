"""What keeps an op away from where it, or its derivative, is infinite? One table from the op to the remedy.

The code is for the operand at hand: `{x}` is what the user's line calls it.
"""

from __future__ import annotations

from gradtrace.records.finding import Remedy
from gradtrace.tape.kinds import base_name

_POSITIVE = "Keep the operand of {op} above zero, inside the op and not behind it."
_TABLE: dict[str, tuple[str, str]] = {
    "log log2 log10": (_POSITIVE, "torch.{op}({x}.clamp_min(1e-6))"),
    "xlogy": (_POSITIVE, "torch.xlogy(a, {x}.clamp_min(1e-6))"),
    "log1p": ("Keep the operand of log1p above minus one.", "torch.log1p({x}.clamp_min(-1 + 1e-6))"),
    "sqrt rsqrt": (
        "The derivative of {op} at zero is infinite: keep the operand above it.",
        "torch.{op}({x}.clamp_min(1e-12))",
    ),
    "norm linalgvectornorm vectornorm linalg_norm linalg_vector_norm": (
        "A norm has no derivative at zero: add a little inside of the root.",
        "({x}.square().sum(-1) + 1e-12).sqrt()",
    ),
    "cdist pdist euclideandist pairwise_distance": (
        "A distance has no derivative at zero: take its square, or add a little inside of the root.",
        "((a - b).square().sum(-1) + 1e-12).sqrt()",
    ),
    "std": ("A standard deviation has no derivative at zero.", "({x}.var(-1) + 1e-12).sqrt()"),
    "div truediv true_divide reciprocal": (
        "Keep the divisor away from zero, inside the op and not behind it.",
        "# as the divisor:\ntorch.where({x}.abs() > 1e-6, {x}, 1e-6)",
    ),
    "exp exp2 expm1 sinh cosh": (
        "Keep the exponent in range: exp overflows at 88.7 in float32 and at 11.1 in float16.",
        "torch.{op}({x}.clamp_max(80))\n# or, where ratios alone matter:\ntorch.{op}({x} - {x}.amax(-1, keepdim=True))",
    ),
    "pow": (
        "Keep the base above zero: below it there is no fractional power, and at zero a root has no finite derivative.",
        "{x}.clamp_min(1e-6).pow(exponent)",
    ),
    "acos asin arccos arcsin atanh arctanh": (
        "Keep the operand of {op} inside of (-1, 1), where its derivative is finite.",
        "torch.{op}({x}.clamp(-1 + 1e-6, 1 - 1e-6))",
    ),
    "acosh arccosh": ("Keep the operand of acosh above one.", "torch.acosh({x}.clamp_min(1 + 1e-6))"),
    "logit": ("Keep the operand of logit inside of (0, 1).", "torch.logit({x}, eps=1e-6)"),
    "atan2 arctan2": ("atan2 has no derivative at (0, 0).", "torch.atan2({x}, b + 1e-12)"),
    "mul": (
        "Zero times an infinite number is NaN: fill in a number for what a factor of zero leaves out.",
        "a * {x}.masked_fill(a == 0, 0.0)",
    ),
    "ctc_loss ctcloss cudnn_ctc_loss cudnnctcloss": (
        "Give a sequence as many steps as it has labels and repeats (less pooling over time), or leave it out.",
        "torch.nn.CTCLoss(zero_infinity=True)",
    ),
    "mean": ("The mean of nothing is 0/0: leave out what is empty.", "{x}.mean() if {x}.numel() else {x}.sum()"),
    "softmax log_softmax logsoftmax scaled_dot_product_attention": (
        "A row that is masked whole is 0/0: mask with a large finite number, or leave one position open.",
        "scores.masked_fill(mask, torch.finfo(scores.dtype).min)",
    ),
    "linalginvex inverse inv cholesky linalgcholeskyex linalgeigh linalgsvd eigh svd solve linalgsolveex": (
        "The matrix is singular, or two of its eigenvalues are one: add a little to its diagonal.",
        "{x} + 1e-6 * torch.eye({x}.shape[-1])",
    ),
}  # fmt: skip
LOSS_ITSELF = Remedy(
    "Train on the loss itself: its exponential falls where it falls, and is for reporting.",
    "loss = criterion(output, target)\nloss.backward()\nperplexity = loss.detach().exp()",
)
UNSAFE = {name: told for names, told in _TABLE.items() for name in names.split()}
_WHATEVER = Remedy("Keep the operand away from the singularity, inside the op and not behind it.")


def remedy_of(op: str, operand: str = "") -> Remedy:
    r"""Against an op (a torch function or an autograd node) that is singular or overflows at `operand`.

    >>> remedy_of("SqrtBackward0", "distance").code
    'torch.sqrt(distance.clamp_min(1e-12))'
    >>> remedy_of("exp").code.partition("\n")[0]
    'torch.exp(x.clamp_max(80))'
    """
    name = base_name(op).strip("_").lower()
    if name not in UNSAFE:
        return _WHATEVER
    title, code = UNSAFE[name]
    x = operand if operand.replace("_", "").replace(".", "").isalnum() or not operand else f"({operand})"
    return Remedy(title.format(op=name), code.format(op=name, x=x or "x"))
