"""The table: torch function -> rule. What is not in it is measured and named."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradtrace.audit.rules import cells, recurrent, structure, units, weights

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradtrace.audit.rules.effect import Effect, Scene

_NAMES: dict[Callable[[Scene], Effect | None], str] = {
    weights.linear: "linear",
    weights.matmul: "matmul mm",
    weights.convolution: "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d",
    weights.embedding: "embedding embedding_bag",
    recurrent.sequence: "lstm gru rnn_tanh rnn_relu",
    cells.single_cell: "lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell",
    units.activation: " ".join(sorted(units.ACTIVATIONS)),
    units.dropout: "dropout dropout1d dropout2d dropout3d",
    units.layer_norm: "layer_norm",
    units.rms_norm: "rms_norm",
    units.group_norm: "group_norm instance_norm",
    units.batch_norm: "batch_norm",
    structure.add: "add radd iadd sub rsub isub",
    structure.multiply: "mul rmul imul div truediv multiply",
    structure.negate: "neg",
    structure.cat: "cat concat concatenate stack",
    structure.average: "mean adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d",
    structure.total: "sum",
    structure.average_pool: "avg_pool1d avg_pool2d avg_pool3d",
    structure.max_pool: "max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d amax",
    structure.pad: "pad",
    structure.move: "view reshape flatten unflatten permute transpose t squeeze unsqueeze expand expand_as contiguous "
    "clone getitem select narrow chunk split unbind movedim swapaxes repeat tile flip roll view_as to float "
    "index_select channel_shuffle pixel_shuffle pixel_unshuffle T mT double half bfloat16 type type_as",
}

RULES: dict[str, Callable[[Scene], Effect | None]] = {
    name: rule for rule, names in _NAMES.items() for name in names.split()
}
"""Torch function (without underscores) -> rule."""
