"""`%%gradtrace`: does a cell run as it would alone, and is what it trains drawn and told?"""

from __future__ import annotations

import random
import sys
import traceback

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("IPython", reason="IPython is not installed: pip install ipython")

from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

pytestmark = pytest.mark.usefixtures("nobody_else_s")

MODEL = """
import torch
from torch import nn
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
losses = []
"""

TRAIN = """
for _ in range(20):
    optimizer.zero_grad()
    loss = model(torch.randn(8, 4)).square().mean()
    loss.backward()
    optimizer.step()
    losses.append(loss.item().hex())
"""

WATCHED = "%%gradtrace\n" + TRAIN


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """An IPython whose frontend can draw anew, as a kernel's."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
    terminals = shell.display_pub
    shell.display_pub = CapturingDisplayPublisher()
    shell.terminals = terminals
    hooks = torch.autograd.backward, torch.compile, nn.Module.__call__, torch.optim.Optimizer.__init__
    waiting = list(sys.meta_path)
    shell.run_cell("%load_ext gradtrace").raise_error()
    yield shell
    assert (torch.autograd.backward, torch.compile, nn.Module.__call__, torch.optim.Optimizer.__init__) == hooks
    assert sys.meta_path == waiting
    shell.reset()
    InteractiveShell.clear_instance()


def ran(shell, *cells):
    for cell in cells:
        result = shell.run_cell(cell, store_history=True)
        result.raise_error()
    return result


def names(shell):
    return {name for name in shell.user_ns if not name.startswith("_")}


def states():
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()


def test_a_cell_trains_bit_for_bit_as_without_and_leaves_the_same_names(notebook):
    seen = []
    for cell in (TRAIN, WATCHED):
        random.seed(3)
        ran(notebook, MODEL, cell)
        seen.append((notebook.user_ns["losses"], names(notebook), states()))
    assert len(seen[0][0]) == 20
    assert seen[0] == seen[1]


def test_one_picture_is_drawn_anew_and_the_diagnosis_stands_below(notebook):
    ran(notebook, MODEL, WATCHED)
    *pictures, diagnosis = notebook.display_pub.outputs
    assert [one["update"] for one in pictures] == [False] + [True] * (len(pictures) - 1)
    assert len({one["transient"]["display_id"] for one in pictures}) == 1
    last = pictures[-1]["data"]
    assert "<svg" in last["text/html"]
    assert "step 19" in last["text/plain"]
    assert "Healthy" in diagnosis["data"]["text/html"]
    assert len(last["text/html"]) + len(diagnosis["data"]["text/html"]) < 30_000


def test_the_watch_has_the_name_that_was_asked_for(notebook):
    ran(notebook, MODEL, "%%gradtrace seen --every 5\n" + TRAIN)
    assert notebook.user_ns["seen"].run.steps.num_steps == 20
    assert notebook.user_ns["seen"].diagnosis.healthy
    ran(notebook, "%%gradtrace seen\nlosses")
    assert notebook.user_ns["seen"] is None


def test_a_finding_names_the_cell_and_its_line(notebook):
    ran(notebook, MODEL)
    ran(notebook, "model = nn.Sequential(*[m for _ in range(12) for m in (nn.Linear(4, 4), nn.Sigmoid())])\n"
                  "optimizer = torch.optim.SGD(model.parameters(), lr=0.1)", "%%gradtrace seen\n" + TRAIN)  # fmt: skip
    (finding, *_) = notebook.user_ns["seen"].diagnosis.findings
    assert finding.symptom == "vanishing"
    assert finding.source == "In[3]:5"


def test_the_value_of_the_last_expression_is_the_cells(notebook):
    assert ran(notebook, MODEL, WATCHED + "len(losses)").result == 20
    assert ran(notebook, WATCHED + "len(losses);").result is None


def test_a_cell_that_raises_raises_its_own_error_and_is_told_all_the_same(notebook, capsys):
    ran(notebook, MODEL)
    result = notebook.run_cell(WATCHED + "def f():\n    return {}['x']\nf()", store_history=True)
    assert isinstance(result.error_in_exec, KeyError)
    frames = traceback.extract_tb(result.error_in_exec.__traceback__)
    assert [(frame.name, frame.lineno) for frame in frames][-2:] == [("<module>", 11), ("f", 10)]
    assert "gradtrace" not in [frame.filename for frame in frames][-2]
    assert notebook.display_pub.outputs[-1]["data"]["text/plain"].startswith("<Diagnosis 'cell'")
    assert "runner" not in capsys.readouterr().out


def test_a_nan_ends_the_cell_where_it_was_to(notebook):
    ran(notebook, MODEL)
    result = notebook.run_cell("%%gradtrace --on-nonfinite stop\nmodel[0].weight.data[0, 0] = float('nan')" + TRAIN)
    assert type(result.error_in_exec).__name__ == "NonfiniteError"
    assert len(notebook.user_ns["losses"]) == 0


def test_a_cell_that_trains_nothing_is_told_in_a_sentence(notebook, capsys):
    assert ran(notebook, "%%gradtrace\nx = 3\nx + 1").result == 4
    assert capsys.readouterr().err == "gradtrace: nothing was watched: the cell never called backward()\n"
    assert notebook.display_pub.outputs == []


def test_a_second_cell_goes_on_with_the_same_model(notebook):
    ran(notebook, MODEL, WATCHED, "%%gradtrace again\n" + TRAIN)
    assert notebook.user_ns["again"].run.steps.num_steps == 20
    assert len(notebook.user_ns["losses"]) == 40


def test_a_cell_within_a_cell_is_part_of_it(notebook, capsys):
    ran(notebook, MODEL, f"%%gradtrace outer\nget_ipython().run_cell_magic('gradtrace', '', {TRAIN!r})")
    assert "part of one that is under watch already" in capsys.readouterr().err
    assert notebook.user_ns["outer"].run.steps.num_steps == 20
    ran(notebook, "%%gradtrace after\n" + TRAIN)
    assert notebook.user_ns["after"] is not None


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("--evry 5", "No such option"),
        ("--every no", "is not a valid integer"),
        ("a-b", "'a-b' is no name for a variable"),
        ("'a", "No closing quotation"),
    ],
)
def test_a_line_that_cannot_be_is_a_sentence_and_runs_nothing(notebook, line, sentence, capsys):
    result = notebook.run_cell(f"%%gradtrace {line}\nran = True")
    assert type(result.error_in_exec).__name__ == "UsageError"
    assert sentence in str(result.error_in_exec)
    assert "ran" not in notebook.user_ns


def test_help_and_errors_of_syntax(notebook, capsys):
    ran(notebook, "%gradtrace --help")
    assert "NAME is a variable for the watch" in capsys.readouterr().out
    assert isinstance(notebook.run_cell("%%gradtrace\nx = (").error_in_exec, SyntaxError)
    assert type(notebook.run_cell("%gradtrace").error_in_exec).__name__ == "UsageError"


def test_the_run_and_the_report_are_kept_where_asked(notebook, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ran(notebook, MODEL, "%%gradtrace --path run.db --report page.html --no-live\n" + TRAIN)
    assert (tmp_path / "run.db").exists()
    assert (tmp_path / "page.html").read_text().startswith("<!")
    assert capsys.readouterr().err == "gradtrace: the report: page.html\n"
    assert [one["update"] for one in notebook.display_pub.outputs[:-1]] == [False]


def test_a_terminal_gets_text(notebook, capsys):
    notebook.display_pub = notebook.terminals
    ran(notebook, MODEL, WATCHED)
    captured = capsys.readouterr()
    assert "<svg" not in captured.out + captured.err
    assert "Healthy" in captured.err
    assert "gradtrace fix" not in captured.err


def test_unloaded_it_is_gone(notebook):
    notebook.run_cell("%unload_ext gradtrace").raise_error()
    assert "gradtrace" not in {*notebook.magics_manager.magics["cell"], *notebook.magics_manager.magics["line"]}


@pytest.mark.long
def test_a_kernel_keeps_one_picture_and_the_diagnosis():
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install nbclient")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed: pip install ipykernel")
    import nbformat

    slow = WATCHED.replace("    loss.backward()", "    __import__('time').sleep(0.1)\n    loss.backward()")
    cells = ["%load_ext gradtrace", MODEL, slow + "len(losses)", "%%gradtrace\n1 / 0"]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(book, kernel_name="python3", allow_errors=True).execute()
    picture, diagnosis, value = book.cells[2].outputs
    assert "20 steps" in picture.data["text/html"]
    assert "Healthy" in diagnosis.data["text/html"]
    assert value.data["text/plain"] == "20"
    assert [one.ename for one in book.cells[3].outputs if one.output_type == "error"] == ["ZeroDivisionError"]
