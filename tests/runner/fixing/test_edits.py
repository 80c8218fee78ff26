"""Lines behind the script's optimizer, under the script's own names."""

from __future__ import annotations

import pytest

cst = pytest.importorskip("libcst")

from gradtrace.repair.insertions import insert_behind  # noqa: E402
from gradtrace.repair.no_patch import NoPatchError  # noqa: E402

SCRIPT = """import torch


class Trainer:
    def __init__(self, net):
        self.net = net
        self.optim = torch.optim.Adam(
            self.net.parameters(), lr=1e-3)   # mine

    def run(self):
        pass
"""
LINES = ["with torch.no_grad():", "    model.get_parameter('model').fill_(0)", "for group in optimizer.param_groups:",
         "    group['lr'] *= 0.1"]  # fmt: skip


def test_they_stand_behind_the_statement_with_the_script_s_names():
    text = insert_behind(cst.parse_module(SCRIPT), 7, LINES, "self.net").code
    assert text == SCRIPT.replace(
        "# mine\n",
        "# mine\n"
        "        with torch.no_grad():\n"
        "            self.net.get_parameter('model').fill_(0)\n"
        "        for group in self.optim.param_groups:\n"
        "            group['lr'] *= 0.1\n",
    )


def test_torch_is_imported_where_the_script_does_not():
    text = insert_behind(cst.parse_module("from torch.optim import SGD\nopt = SGD(w)\n"), 2, LINES[:2], "net").code
    assert text.splitlines()[2:4] == ["import torch", "with torch.no_grad():"]


@pytest.mark.parametrize(
    ("line", "lines", "model", "reason"),
    [
        (10, LINES, "self.net", "does not give the optimizer a name"),
        (7, LINES, "", "what the model is called"),
        (7, ["loss_fn = mean_loss"], "self.net", "which the script computes itself"),
    ],
)
def test_what_cannot_be_edited_is_told(line, lines, model, reason):
    with pytest.raises(NoPatchError, match=reason):
        insert_behind(cst.parse_module(SCRIPT), line, lines, model)
