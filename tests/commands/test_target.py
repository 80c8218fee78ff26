"""What TARGET may name, and the sentence where it names nothing of use."""

from __future__ import annotations

import sys

import pytest
from tests.commands.calling import run


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
