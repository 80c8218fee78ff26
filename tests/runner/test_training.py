"""Is a training the same under watch, bit for bit in what it prints, and is what it trains found and told?"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap

import pytest
from tests.runner.test_process import assert_alike, python, under_watch

from gradtrace.records.run import EventKind, Scalar, Series
from gradtrace.runs.reader import list_runs, read_run

HEAD = """
import torch
from torch import nn

def make(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

def step(model, optimizer, inputs=None):
    inputs = torch.randn(8, 4) if inputs is None else inputs
    loss = model(inputs).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()

"""

NAMES = ["0.weight", "0.bias", "2.weight", "2.bias"]

TRAININGS = {
    "plain": """
        model, optimizer = make()
        for _ in range(20):
            print(step(model, optimizer).hex())
        print(torch.rand(1).item().hex())
    """,
    "in_main": """
        def main():
            model, optimizer = make()
            for _ in range(20):
                print(step(model, optimizer).hex())
        if __name__ == "__main__":
            main()
    """,
    "in_a_thread": """
        import threading
        def main():
            model, optimizer = make()
            for _ in range(20):
                print(step(model, optimizer).hex())
        threading.Thread(target=main).start()
    """,
    "moved_after_the_optimizer": """
        model, optimizer = make()
        model.to(torch.float64)
        for _ in range(20):
            print(step(model, optimizer, torch.randn(8, 4, dtype=torch.float64)).hex())
    """,
    "environment": """
        import os
        print(torch.get_num_threads())
        model, optimizer = make()
        for _ in range(20):
            print(step(model, optimizer).hex())
    """,
}


def write(folder, body, head=HEAD):
    (folder / "train.py").write_text(head + textwrap.dedent(body))


def the_run(folder):
    (path,) = list_runs(folder / "gradtrace-runs")
    return read_run(path)


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_prints_the_same_and_is_kept(name, tmp_path):
    write(tmp_path, TRAININGS[name])
    alone, watched = python("train.py", cwd=tmp_path), under_watch("--budget", "1", "train.py", cwd=tmp_path)
    assert watched.stdout == alone.stdout
    assert watched.returncode == alone.returncode == 0
    run = the_run(tmp_path)
    assert run.finished
    assert run.header.command == ("train.py",)
    assert [parameter.name for parameter in run.header.parameters] == NAMES
    assert int(run.steps.first[-1] + run.steps.count[-1]) == 20
    losses = [float.fromhex(line) for line in alone.stdout.decode().split() if "p" in line]
    assert run.steps.scalar(Scalar.LOSS)[0].tolist() == pytest.approx(losses[:20], rel=1e-6)
    assert (run.steps.series(Series.GRADIENT_NORM)[0] > 0).all()


@pytest.mark.long
@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_workers_of_a_loader(how, tmp_path):
    body = f"""
        class Numbers(torch.utils.data.Dataset):
            def __len__(self):
                return 64
            def __getitem__(self, index):
                return torch.full((4,), float(index)) / 64
        if __name__ == "__main__":
            model, optimizer = make()
            for epoch in range(2):
                for inputs in torch.utils.data.DataLoader(
                    Numbers(), 8, shuffle=True, num_workers=2, multiprocessing_context="{how}"
                ):
                    print(step(model, optimizer, inputs).hex())
    """
    write(tmp_path, body)
    alone, watched = python("train.py", cwd=tmp_path), under_watch("train.py", cwd=tmp_path)
    assert (watched.stdout, watched.returncode) == (alone.stdout, 0)
    assert int(the_run(tmp_path).steps.num_steps) == 16


def test_a_model_that_is_traced_by_jit_and_fx(tmp_path):
    """``torch.jit.trace`` records what runs meanwhile, and raises where running the model again gives another graph."""
    write(
        tmp_path,
        """
        model, optimizer = make()
        print(torch.jit.trace(model, torch.randn(3, 4)).code)
        model(torch.randn(3, 4)).sum().backward()
        optimizer.zero_grad()
        print(torch.fx.symbolic_trace(model).code)
        for _ in range(4):
            step(model, optimizer)
        print(torch.jit.trace(model, torch.randn(3, 4)).code)
        print(torch.fx.symbolic_trace(model).code)
        """,
    )
    alone, watched = python("train.py", cwd=tmp_path), under_watch("train.py", cwd=tmp_path)
    assert (watched.stdout, watched.returncode) == (alone.stdout, alone.returncode)
    assert b"TracerWarning" not in watched.stderr
    assert b"fault" not in watched.stderr
    assert len(the_run(tmp_path).steps.first) == 4


def test_a_traceback_is_clean_and_the_run_is_kept(tmp_path):
    write(
        tmp_path,
        """
        model, optimizer = make()
        for number in range(6):
            step(model, optimizer, torch.randn(8, 5 if number == 5 else 4))
        """,
    )
    alone, watched = python("train.py", cwd=tmp_path), under_watch("train.py", cwd=tmp_path)
    assert watched.returncode == alone.returncode == 1
    own = [line for line in alone.stderr.splitlines() if b"/torch/" not in line and not line.startswith(b"    ")]
    assert [line for line in watched.stderr.splitlines() if line in own] == own  # torch's own frames differ with hooks
    assert not any(b"/gradtrace/%s/" % part in watched.stderr for part in (b"runner", b"monitor", b"tape", b"measure"))
    run = the_run(tmp_path)
    assert not run.finished
    assert int(run.steps.num_steps) == 5


def test_a_traceback_from_within_backward_is_clean(tmp_path):
    write(
        tmp_path,
        """
        model, optimizer = make()
        loss = model(torch.randn(8, 4)).mean()
        loss.backward()
        optimizer.step()
        loss.backward()
        """,
    )
    alone, watched = python("train.py", cwd=tmp_path), under_watch("train.py", cwd=tmp_path)
    assert watched.stderr.startswith(alone.stderr)


def test_ctrl_c_leaves_a_run_and_a_diagnosis(tmp_path):
    write(
        tmp_path,
        """
        import itertools, time
        model, optimizer = make()
        for number in itertools.count():
            step(model, optimizer)
            if number == 30:
                print("trained", flush=True)
            time.sleep(0.001)
        """,
    )
    command = [sys.executable, "-m", "gradtrace", "run", "train.py"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"trained\n"
        os.kill(process.pid, signal.SIGINT)
        try:
            _, error = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGINT
    text = error.decode()
    assert "KeyboardInterrupt" in text
    assert "/gradtrace/runner/" not in text
    assert "/gradtrace/monitor/" not in text
    assert "gradtrace: the run: gradtrace show gradtrace-runs/train-" in text
    run = the_run(tmp_path)
    assert int(run.steps.num_steps) >= 31
    assert not run.finished


def test_sigterm_ends_it_at_once_and_the_run_can_be_read(tmp_path):
    write(
        tmp_path,
        """
        import os, signal, time
        model, optimizer = make()
        step(model, optimizer)  # however long the first one takes
        begun = time.monotonic()
        while time.monotonic() - begun < 4:
            step(model, optimizer)
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        """,
    )
    assert under_watch("train.py", cwd=tmp_path).returncode == -signal.SIGTERM
    run = the_run(tmp_path)
    assert not run.finished
    assert len(run.steps.first)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("print(1)", "train.py did not import torch"),
        ("import torch\nraise SystemExit(3)", "train.py ended before its first backward pass"),
        ("import torch\ntorch.nn.Linear(2, 2)(torch.ones(1, 2))", "train.py never called backward() in this process"),
        (
            "import torch\ntorch.nn.Linear(2, 1)(torch.ones(1, 2)).sum().backward()",
            "train.py called backward() once, but no optimizer of torch.optim ever made a step\n",
        ),
        (
            "import torch\nmodel = torch.nn.Linear(2, 1)\nfor _ in range(3): model(torch.ones(1, 2)).sum().backward()",
            "train.py called backward() 3 times, but no optimizer of torch.optim ever made a step\n",
        ),
        (
            """import torch
w = torch.ones(2, requires_grad=True)
for _ in range(3):
    (w * w).sum().backward()
    with torch.no_grad():
        w -= 0.1 * w.grad
        w.grad.zero_()""",
            (
                "train.py called backward() 3 times, but no optimizer of torch.optim ever made a step: it moves w by "
                "hand. What an optimizer moves is watched: torch.optim.SGD([w], lr=...) makes the same steps"
            ),
        ),
        (
            """import torch
model = torch.nn.Linear(2, 1)
frozen = torch.nn.Linear(2, 2)
for _ in range(3):
    model(frozen(torch.ones(1, 2))).square().sum().backward()
    for parameter in model.parameters():
        parameter.data -= 0.01 * parameter.grad
    model.zero_grad()""",
            (
                "train.py called backward() 3 times, but no optimizer of torch.optim ever made a step: it moves "
                "model.bias, model.weight by hand. What an optimizer moves is watched: "
            ),
        ),
        (
            """import torch
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
model = torch.nn.Linear(2, 1)
model(torch.ones(1, 2)).sum().backward()
optimizer.step()""",
            (
                "no torch.nn.Module was found that holds what the optimizers of train.py train. Nothing learns: "
                "backward() brings gradients to 2 parameters of the same shapes as those that an optimizer holds"
            ),
        ),
        (
            """import copy, torch
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
fast = [copy.deepcopy(model) for _ in range(2)]
sum(one(torch.ones(1, 2)) for one in fast).sum().backward()
optimizer.step()""",
            (
                "no torch.nn.Module was found that holds what the optimizers of train.py train. Nothing learns: "
                "backward() brings gradients to 4 parameters of the same shapes"
            ),
        ),
        (
            """import torch
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
params = {name: one.detach() for name, one in model.named_parameters()}
torch.func.grad(lambda p: torch.func.functional_call(model, p, (torch.ones(1, 2),)).sum())(params)
optimizer.step()""",
            (
                "no torch.nn.Module was found that holds what the optimizers of train.py train. Nothing learns: "
                "backward() was never called, and none of what they hold had a gradient"
            ),
        ),
        (
            """import torch
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
torch.nn.Linear(3, 1)(torch.ones(1, 3)).sum().backward()
optimizer.step()""",
            "no torch.nn.Module was found that holds what the optimizers of train.py train; those that are called hold",
        ),
    ],
)
def test_why_nothing_was_watched(body, sentence, tmp_path):
    write(tmp_path, body, head="")
    alone, watched = python("train.py", cwd=tmp_path), under_watch("train.py", cwd=tmp_path)
    assert_alike(alone, watched)
    assert watched.stderr.decode().startswith(f"gradtrace: nothing was watched: {sentence}")
    assert watched.stderr.count(b"\n") == 1
    assert not (tmp_path / "gradtrace-runs").exists()


@pytest.mark.parametrize("call", ["model(torch.ones(1, 4)).sum().backward()", "model(torch.ones(1, 4))"])
def test_an_optimizer_that_never_steps(call, tmp_path):
    write(tmp_path, f"model, optimizer = make()\n{call}")
    told = under_watch("train.py", cwd=tmp_path).stderr.decode()
    assert told == "gradtrace: in train.py no step of an optimizer came after a backward pass: nothing is judged\n"


def test_gradients_added_up_over_more_batches_than_an_epoch_has(tmp_path):
    body = """model, optimizer = make()
for epoch in range(3):
    optimizer.zero_grad()
    for batch in range(4):
        model(torch.ones(1, 4)).sum().backward()
        if (batch + 1) % 8 == 0:
            optimizer.step()
            optimizer.zero_grad()"""
    write(tmp_path, body)
    told = under_watch("train.py", cwd=tmp_path).stderr.decode()
    assert "Nothing learns: backward() was called 12 times." in told


def test_a_second_training_and_a_third_are_watched_too(tmp_path):
    body = "for seed in range(3):\n    model, optimizer = make(seed)\n" + "    step(model, optimizer)\n" * 2
    write(tmp_path, body)
    under_watch("train.py", cwd=tmp_path)
    run = the_run(tmp_path)
    assert int(run.steps.num_steps) == 6
    names = [parameter.name for parameter in run.header.parameters]
    assert names[::4] == ["model.0.weight", "model_2.0.weight", "model_3.0.weight"]


def test_the_environment_that_a_script_sets_counts(tmp_path):
    write(tmp_path, "import os\nos.environ['OMP_NUM_THREADS'] = '1'\nimport torch\nprint(torch.get_num_threads())", "")
    assert under_watch("train.py", cwd=tmp_path).stdout == b"1\n"


DISTRIBUTED = """
    import torch.distributed as dist
    dist.init_process_group("gloo")
    model, _ = make()
    model = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(10):
        loss = step(model, optimizer, torch.randn(8, 4) + dist.get_rank())
    if dist.get_rank() == 0:
        print(loss.hex())
    dist.destroy_process_group()
"""


@pytest.mark.long
def test_torchrun_with_two_processes(tmp_path):
    write(tmp_path, DISTRIBUTED)
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint"]
    alone = python(*launch, "localhost:0", "train.py", cwd=tmp_path)
    watched = python(*launch, "localhost:0", "-m", "gradtrace", "run", "train.py", cwd=tmp_path)
    assert (watched.stdout, watched.returncode) == (alone.stdout, 0)
    run = the_run(tmp_path)
    assert [parameter.name for parameter in run.header.parameters] == NAMES
    assert int(run.steps.num_steps) == 10
    assert run.ranks is not None
    assert run.ranks.loss.shape[1] == 2
    assert run.steps.scalar("loss")[1][0] == pytest.approx(run.ranks.loss[0].mean())


@pytest.mark.long
@pytest.mark.parametrize("ill", ["os._exit(3)", "raise ArithmeticError", "os.kill(os.getpid(), 9)"])
def test_torchrun_ends_the_others_of_a_process_that_dies(tmp_path, ill):
    loss = "loss = step(model, optimizer, torch.randn(8, 4) + dist.get_rank())"
    dies = DISTRIBUTED.replace(loss, f"{loss}\n        if dist.get_rank() == 1 and _ == 6:\n            {ill}")
    write(tmp_path, dies.replace("import torch.distributed as dist", "import os\n    import torch.distributed as dist"))
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint"]
    alone = python(*launch, "localhost:0", "train.py", cwd=tmp_path)
    watched = python(*launch, "localhost:0", "-m", "gradtrace", "run", "train.py", cwd=tmp_path)
    assert (watched.stdout, watched.returncode) == (alone.stdout, alone.returncode)
    run = the_run(tmp_path)
    assert not run.finished


@pytest.mark.long
def test_accelerate_launch(tmp_path):
    pytest.importorskip("accelerate", reason="accelerate is not installed: pip install accelerate")
    write(
        tmp_path,
        """
        from accelerate import Accelerator
        accelerator = Accelerator(cpu=True)
        model, optimizer = accelerator.prepare(*make())
        for _ in range(10):
            loss = model(torch.randn(8, 4)).square().mean()
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            print(loss.item().hex())
        """,
    )
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    alone = python(*launch, "train.py", cwd=tmp_path)
    watched = python(*launch, "-m", "gradtrace", "run", "train.py", cwd=tmp_path)
    assert (watched.stdout, watched.returncode) == (alone.stdout, 0)
    assert int(the_run(tmp_path).steps.num_steps) == 10


SOME_STEPS = "model, optimizer = make()\nfor _ in range(5): print(step(model, optimizer).hex())"


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda path: path.write_text("my own notes"), "run.db is not the file of a run: it is text"),
        (lambda path: change(path, "CREATE TABLE accounts (name)"), "run.db is a database, but not of a gradtrace run"),
    ],
)
def test_a_path_that_is_taken_is_left_alone_and_the_run_kept_beside(spoil, sentence, tmp_path):
    write(tmp_path, SOME_STEPS)
    spoil(tmp_path / "run.db")
    before = (tmp_path / "run.db").read_bytes()
    watched = under_watch("--path", "run.db", "train.py", cwd=tmp_path)
    assert (watched.returncode, watched.stdout.count(b"\n")) == (0, 5)
    assert f"{sentence}; this run is kept in run-2.db\n" in watched.stderr.decode()
    assert (tmp_path / "run.db").read_bytes() == before
    assert int(read_run(tmp_path / "run-2.db").steps.num_steps) == 5


def test_the_same_path_goes_on_and_another_model_is_kept_beside(tmp_path):
    wider = SOME_STEPS.replace(
        "make()", "make()\nmodel = nn.Linear(4, 3)\noptimizer = torch.optim.SGD(model.parameters())"
    )
    for body in (SOME_STEPS, SOME_STEPS, wider):
        write(tmp_path, body)
        watched = under_watch("--path", "run.db", "train.py", cwd=tmp_path)
        assert watched.returncode == 0
    assert int(read_run(tmp_path / "run.db").steps.num_steps) == 10
    assert "run.db holds the run of another model; this run is kept in run-2.db" in watched.stderr.decode()


def test_a_report_s_folder_is_made_and_a_report_that_cannot_be_is_one_sentence(tmp_path):
    write(tmp_path, SOME_STEPS)
    (tmp_path / "file").write_text("")
    for report, code, told in (
        ("new/place/r.html", 0, "gradtrace: the report: new/place/r.html"),
        ("file/r.html", 2, "cannot write file/r.html: there is no such folder"),
    ):
        watched = under_watch("--report", report, "train.py", cwd=tmp_path)
        assert watched.returncode == code
        assert told in watched.stderr.decode()
        assert "Error" not in watched.stderr.decode()
    assert (tmp_path / "new" / "place" / "r.html").stat().st_size > 1000


def test_a_scaler_that_scaled_before_the_first_backward_pass_is_known(tmp_path):
    """The first steps overflow on purpose: none of it is a fault of the training."""
    write(
        tmp_path,
        """
        model, optimizer = make()
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
        for _ in range(20):
            optimizer.zero_grad()
            scaler.scale(4 * model(torch.randn(8, 4)).square().mean()).backward()
            scaler.step(optimizer)
            scaler.update()
        """,
    )
    watched = under_watch("--path", "run.db", "train.py", cwd=tmp_path)
    run = read_run(tmp_path / "run.db")
    assert run.findings == (), watched.stderr.decode()
    assert not run.steps.nonfinite.any()
    assert run.steps.scalar(Scalar.LOSS)[1][0] < 100
    assert {event.step for event in run.events if event.kind is EventKind.SKIPPED} >= {0}


def test_what_the_script_saves_and_copies_holds_nothing_of_ours(tmp_path):
    body = """
        import copy, io, pickle
        model, optimizer = make()
        for _ in range(6):
            step(model, optimizer)
            file = io.BytesIO()
            torch.save({"model": model, "optimizer": optimizer}, file)
            print(len(file.getvalue()), b"gradtrace" in pickle.dumps(model), len(copy.deepcopy(model)._forward_hooks))
    """
    write(tmp_path, body)
    assert_alike_stdout(tmp_path)


def assert_alike_stdout(folder):
    alone, watched = python("train.py", cwd=folder), under_watch("train.py", cwd=folder)
    assert (watched.stdout, watched.returncode) == (alone.stdout, alone.returncode)


def change(path, statement):
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


LIBRARIES = {
    "lightning": """
        import logging, warnings
        warnings.filterwarnings("ignore")
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        import lightning
        class Module(lightning.LightningModule):
            def __init__(self):
                super().__init__()
                self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
            def training_step(self, batch, number):
                loss = self.net(batch[0]).square().mean()
                print(loss.item().hex())
                return loss
            def configure_optimizers(self):
                return torch.optim.Adam(self.parameters(), 1e-2)
        lightning.seed_everything(0)
        data = torch.utils.data.TensorDataset(torch.randn(64, 4))
        lightning.Trainer(
            max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, gradient_clip_val=0.5, accumulate_grad_batches=2,
        ).fit(Module(), torch.utils.data.DataLoader(data, 8))
    """,
    "transformers": """
        import tempfile, warnings
        warnings.filterwarnings("ignore")
        from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed
        set_seed(0)
        sizes = dict(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
        class Numbers(torch.utils.data.Dataset):
            def __len__(self):
                return 64
            def __getitem__(self, number):
                return {"input_ids": torch.arange(8) + number % 20, "labels": number % 2}
        class Printing(Trainer):
            def training_step(self, *args, **kwargs):
                loss = super().training_step(*args, **kwargs)
                print(loss.item().hex())
                return loss
            def log(self, *args, **kwargs):
                pass
        Printing(
            model=BertForSequenceClassification(BertConfig(**sizes)), train_dataset=Numbers(),
            args=TrainingArguments(
                tempfile.mkdtemp(), num_train_epochs=2, per_device_train_batch_size=8, report_to=[], disable_tqdm=True,
                use_cpu=True, save_strategy="no", logging_strategy="no", gradient_accumulation_steps=2,
            ),
        ).train()
    """,
}


@pytest.mark.long
@pytest.mark.parametrize("name", LIBRARIES)
def test_trainers_of_other_libraries(name, tmp_path):
    pytest.importorskip(name, reason=f"{name} is not installed: pip install {name}")
    write(tmp_path, LIBRARIES[name])
    alone, watched = python("train.py", cwd=tmp_path), under_watch("train.py", cwd=tmp_path)
    losses = [[line for line in run.stdout.splitlines() if b"0x" in line] for run in (alone, watched)]
    assert losses[0] == losses[1]
    assert (len(losses[1]), watched.returncode) == (16, 0)
    assert int(the_run(tmp_path).steps.num_steps) == 8
