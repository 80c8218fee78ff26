"""What TARGET may name, and the sentence where it names nothing of use."""

from __future__ import annotations

import sys

import pytest
from tests.commands.calling import run

from gradtrace.commands.target import load_held_out, load_target
from gradtrace.errors import InputError


@pytest.mark.parametrize("factory", ["build", "with_optimizer", "as_dict"])
def test_factories_may_return_what_they_like(net, verdict, factory):
    assert run("check", f"net.py:{factory}").exit_code == 0
    assert run("check", f"net:{factory}").exit_code == 0
    assert run("check", f"{net}:{factory}").exit_code == 0


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("net.py", "TARGET must be package.module:factory or path/to/file.py:factory, but it is 'net.py'"),
        ("net.py:", "TARGET must be"),
        ("net.py:not valid", "TARGET must be"),
        ("other.py:build", "there is no file other.py"),
        ("no_such_module:build", "there is no module 'no_such_module'"),
        ("net.py:buidl", "net.py has no 'buidl'; did you mean 'build'?"),
        ("net.py:value", "must be a function without arguments, but it is int"),
        ("net.py:raises", "calling net.py:raises raised ValueError: too [red]small[/red] (net.py:19)"),
        ("net.py:leaves", "calling net.py:leaves raised SystemExit: 3 (net.py:22)"),
        ("net.py:needs", "raised TypeError: needs() missing 1 required positional argument"),
        ("net.py:two", "but it returned a tuple of 2"),
        ("net.py:nothing", "but it returned NoneType without model and loss_fn and batches"),
        ("broken.py:build", "importing broken.py raised SyntaxError: "),
        (
            "missing.py:build",
            "importing missing.py raised ModuleNotFoundError: No module named 'no_such' (missing.py:1)",
        ),
    ],
)
def test_a_bad_target_is_one_sentence_and_2(net, verdict, target, message):
    (net.parent / "broken.py").write_text("def build(:\n")
    (net.parent / "missing.py").write_text("import no_such\n")
    result = run("check", target)
    assert result.exit_code == 2
    told = result.stderr.replace("building\n", "")
    assert told.startswith("gradtrace: ")
    assert message in told
    assert told.count("\n") == 1
    assert result.stdout == ""
    assert "broken" not in sys.modules


def test_held_out_batches_come_from_a_function_beside_the_factory_or_behind_the_optimizer(net):
    net.write_text(
        net.read_text() + "\ndef validation():\n    return [7]\n\ndef five():\n    return (*with_optimizer(), [8])\n"
    )
    loaded = load_target("net.py:five")
    assert loaded.held_out == [8]
    assert loaded.optimizer is not None
    assert load_target("net.py:with_optimizer").held_out is None
    assert load_held_out("validation", "net.py:five") == [7]
    assert load_held_out("net.py:validation", "other.py:build") == [7]
    with pytest.raises(InputError, match=r"has no 'validatoin'; did you mean 'validation'"):
        load_held_out("validatoin", "net.py:five")


def test_held_out_batches_are_for_a_factory(net):
    (net.parent / "train.py").write_text("")
    result = run("fix", "--held-out", "validation", "train.py")
    assert result.exit_code == 2
    assert "--held-out is for a factory" in result.stderr
