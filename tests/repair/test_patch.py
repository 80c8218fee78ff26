"""From a change to an edit of the file: formatting kept, and a diff that `patch` applies."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from gradtrace.records.change import Edit, SourceEdit
from gradtrace.repair.patch import UserFile, diff_of, patched_text
from gradtrace.repair.project import text_of

cst = pytest.importorskip("libcst")

from gradtrace.repair.edits import edit_calls  # noqa: E402
from gradtrace.repair.insertions import insert_lines  # noqa: E402
from gradtrace.repair.no_patch import NoPatchError  # noqa: E402

FILE = '''"""Mine."""
import torch
from torch import nn
import torch.nn.functional as F  # as everybody does


def loss_fn(model, batch):
    p = torch.softmax(model(batch[0]), dim = 1)   # odd blanks
    return F.mse_loss(p, batch[1]).sqrt()


def build():
    model = nn.Sequential(nn.Linear(4, 4),
                          nn.Sigmoid())
    return model, loss_fn, [1]
'''


def edited(*edits, names=None):
    tree = cst.parse_module(FILE)
    return edit_calls(tree, [(int(e.source.rpartition(":")[2]), e) for e in edits], names or {}).code


def lines_changed(text):
    pairs = zip(FILE.splitlines(), text.splitlines(), strict=True)
    return [(i, after) for i, (before, after) in enumerate(pairs, 1) if before != after]


def test_a_call_gives_way_to_its_argument():
    text = edited(SourceEdit(Edit.CALL, "softmax", "net.py:8", "{x}"))
    assert lines_changed(text) == [(8, "    p = model(batch[0])   # odd blanks")]


def test_a_function_is_renamed_and_its_arguments_stay():
    text = edited(SourceEdit(Edit.RENAME, "mse_loss", "net.py:9", "F.l1_loss"))
    assert lines_changed(text) == [(9, "    return F.l1_loss(p, batch[1]).sqrt()")]


CRITERION = """criterion = nn.MSELoss({args})
for x, t in data:
    loss = criterion(net(x), t)
"""
TO_CROSS_ENTROPY = SourceEdit(Edit.RENAME, "mse_loss", "net.py:3", "torch.nn.functional.binary_cross_entropy")


@pytest.mark.parametrize("args", ["", 'reduction="sum"'])
def test_a_loss_that_is_made_as_a_module_is_another_class(args):
    source = CRITERION.format(args=args)
    edited = edit_calls(cst.parse_module(source), [(3, TO_CROSS_ENTROPY)], {}).code
    assert edited == source.replace("MSELoss", "BCELoss")


@pytest.mark.parametrize("source", [
    CRITERION.format(args="None, None"), CRITERION.format(args="") + "other = nn.MSELoss()\n",
    CRITERION.format(args="").replace("nn.MSELoss", "Own"),
])  # fmt: skip
def test_a_loss_of_two_makings_or_of_its_own_arguments_is_left_to_its_author(source):
    with pytest.raises(NoPatchError, match="no call of mse_loss was found at line 3"):
        edit_calls(cst.parse_module(source), [(3, TO_CROSS_ENTROPY)], {})


def test_the_operand_of_a_method_is_guarded():
    text = edited(SourceEdit(Edit.ARGUMENT, "sqrt", "net.py:9", "({x}).clamp_min(1e-06)"))
    (line,) = lines_changed(text)
    assert line[1].replace("((", "(").replace("))", ")").count("clamp_min(1e-06)") == 1
    assert line[1].endswith(".sqrt()")


def test_the_straight_way_through_keeps_the_call():
    text = edited(SourceEdit(Edit.CALL, "softmax", "net.py:8", "({x} + ({call} - {x}).detach())"))
    assert "(model(batch[0]) + (torch.softmax(model(batch[0]), dim = 1) - model(batch[0])).detach())" in text


def test_a_class_is_renamed_wherever_a_module_is_asked_for_it():
    assert lines_changed(edited(names={"Sigmoid": "ReLU"})) == [(14, "                          nn.ReLU())")]


def test_a_block_gives_way_to_what_was_within():
    source = """def forward(x):
    # half of it
    with torch.no_grad():
        # the first half
        h = first(x)

        for _ in range(2):
            h = second(h)
    with torch.no_grad(), other():
        return h
"""
    at = [(3, SourceEdit(Edit.UNWRAP, "no_grad", "net.py:3"))]
    assert (
        edit_calls(cst.parse_module(source), at, {}).code
        == """def forward(x):
    # half of it
    # the first half
    h = first(x)

    for _ in range(2):
        h = second(h)
    with torch.no_grad(), other():
        return h
"""
    )
    with pytest.raises(NoPatchError, match="no call of no_grad was found at line 9"):
        edit_calls(cst.parse_module(source), [(9, SourceEdit(Edit.UNWRAP, "no_grad", "net.py:9"))], {})


def test_what_is_not_there_is_said():
    with pytest.raises(NoPatchError, match="no call of log was found at line 8"):
        edited(SourceEdit(Edit.CALL, "log", "net.py:8", "{x}"))
    with pytest.raises(NoPatchError, match="does not name Tanh"):
        edited(names={"Tanh": "ReLU"})


def test_lines_stand_in_front_of_the_return():
    text = insert_lines(cst.parse_module(FILE), "build", ["model.eval()", "with torch.no_grad():", "    pass"]).code
    assert text.endswith("    model.eval()\n    with torch.no_grad():\n        pass\n    return model, loss_fn, [1]\n")


def test_what_is_returned_gets_a_name():
    source = "def make():\n    return Net(3), loss, data, SGD(rate)\n"
    text = insert_lines(cst.parse_module(source), "make", ["optimizer.step(model)"]).code
    assert text == (
        "def make():\n    model = Net(3)\n    optimizer = SGD(rate)\n    optimizer.step(model)\n"
        "    return model, loss, data, optimizer\n"
    )


def test_an_optimizer_that_is_made_in_the_return_is_the_one_that_is_changed():
    source = "def make():\n    m = Net()\n    return m, loss, data, SGD(m.parameters(), lr=0.5)\n"
    text = insert_lines(cst.parse_module(source), "make", ["use(model)", "optimizer.lr = 0.1"]).code
    assert text == (
        "def make():\n    m = Net()\n    model = m\n    optimizer = SGD(m.parameters(), lr=0.5)\n    use(model)\n"
        "    optimizer.lr = 0.1\n    return model, loss, data, optimizer\n"
    )


def test_a_value_that_is_given_to_itself_is_left_out():
    source = "def forward(h):\n    h = h.detach()\n    y = h.detach()\n    return y\n"
    at = [(line, SourceEdit(Edit.CALL, "detach", f"net.py:{line}", "{x}")) for line in (2, 3)]
    assert edit_calls(cst.parse_module(source), at, {}).code == "def forward(h):\n    y = h\n    return y\n"


@pytest.mark.parametrize(
    ("source", "lines", "why"),
    [
        ("def other():\n    return 1\n", ["model"], "not written out"),
        ("def build(): return 1\n", ["model"], "on one line"),
        ("def build():\n    if x:\n        return 1\n", ["model"], "does not end in a return"),
        ("def build():\n    return whole\n", ["model.eval()"], "which part is the model"),
        ("def build():\n    return m, l, b\n", ["optimizer.lr = 1"], "returns no optimizer"),
    ],
)
def test_why_lines_cannot_be_inserted(source, lines, why):
    with pytest.raises(NoPatchError, match=why):
        insert_lines(cst.parse_module(source), "build", lines)


@pytest.mark.parametrize("text", [FILE, FILE.rstrip("\n"), "\n" * 9 + FILE, FILE.replace("\n", "\r\n")])
def test_the_diff_applies_with_patch_and_with_ours(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.py"
    path.write_bytes(text.encode())
    assert text_of(path) == text
    wanted = edit_calls(cst.parse_module(text), [], {"Sigmoid": "ReLU"}).code.replace("[1]", "[2, 3]")
    diff = diff_of(UserFile(path, text, "build", lambda _: ()), {path: wanted})
    assert patched_text(text, diff) == wanted
    done = subprocess.run(["patch", "-p1", "--binary"], input=diff.encode(), capture_output=True, check=False)
    assert done.returncode == 0, done.stdout
    assert path.read_bytes() == wanted.encode()


SCALED = [
    "def scaled_loss(model, batch, unscaled=loss_fn):",
    "    return unscaled(model, batch) / 4.0",
    "loss_fn = scaled_loss",
]


def test_a_loss_function_of_the_module_is_changed_under_another_name():
    """What is assigned within a function is its own there, and has no value before that."""
    namespace: dict[str, Any] = {}
    exec(insert_lines(cst.parse_module(FILE), "build", SCALED).code, namespace)
    _, changed, _ = namespace["build"]()
    assert changed is not namespace["loss_fn"]
    assert changed.__defaults__ == (namespace["loss_fn"],)


@pytest.mark.parametrize("own", ["    loss_fn = print\n", "    def loss_fn(model, batch):\n        return 1.0\n"])
def test_one_that_the_factory_makes_keeps_its_name(own):
    text = FILE.replace("    return model, loss_fn", f"{own}    return model, loss_fn")
    code = insert_lines(cst.parse_module(text), "build", SCALED).code
    assert "changed_loss_fn" not in code
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    assert namespace["build"]()[1].__name__ == "scaled_loss"
