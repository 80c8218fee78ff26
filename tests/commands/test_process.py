"""The command line as a process of its own: exit codes, what is imported, colour."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from tests.report.samples import SAMPLES

from gradtrace.records.storage import save


def process(*arguments: str, code: str = "", **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *(["-c", code] if code else ["-m", "gradtrace"]), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **options)


def test_python_m_gradtrace(tmp_path):
    assert process("--help").returncode == 0
    bad = process("check", "nowhere.py:build", cwd=tmp_path)
    assert bad.returncode == 2
    assert bad.stderr.startswith("gradtrace: there is no file nowhere.py")


def test_help_and_show_do_without_torch(tmp_path):
    save(SAMPLES["vanishing"]().traces[0], tmp_path / "trace.json.gz")
    code = "import sys; sys.modules['torch'] = None\nfrom gradtrace.commands.main import main\nmain(sys.argv[1:])"
    for arguments in (["--help"], ["check", "--help"], ["show", str(tmp_path / "trace.json.gz")]):
        result = process(*arguments, code=code)
        assert result.returncode == 0, result.stderr


def test_a_pipe_gets_no_colour(tmp_path):
    save(SAMPLES["vanishing"](), tmp_path / "d.json.gz")
    assert "\x1b" not in process("show", str(tmp_path / "d.json.gz")).stdout


def completed(words: str, **variables) -> str:
    """What the shell is told to offer behind `words`."""
    code = "from gradtrace.commands.main import main; main(prog_name='gradtrace')"
    return process(code=code, env={**os.environ, "COMP_WORDS": words, **variables}).stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_is_handed_a_script_that_completes(shell):
    assert "_GRADTRACE_COMPLETE" in completed("", _GRADTRACE_COMPLETE=f"{shell}_source")


def test_commands_options_and_choices_are_completed():
    offered = [
        completed(words, _GRADTRACE_COMPLETE="bash_complete", COMP_CWORD=str(len(words.split()) - 1))
        for words in ("gradtrace ch", "gradtrace check --write", "gradtrace check --format s", "gradtrace explain vani")
    ]
    assert offered == ["plain,check\n", "plain,--write-baseline\n", "plain,sarif\n", "plain,vanishing\n"]
