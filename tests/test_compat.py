"""Which versions are promised, and what is said where one cannot be had?"""

from __future__ import annotations

import re
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from compat import __main__ as compat
from compat import environment as environments
from compat.environment import CannotBeHadError, DoesNotInstallError, Environment
from compat.smoke import COMMANDS, smoke
from compat.versions import TRIED

from gradtrace.tape.private import NEWEST_TRIED, OLDEST_TRIED

ROOT = Path(__file__).parents[1]


def test_the_promised_range_is_the_one_that_is_tried():
    versions = sorted(tuple(map(int, one.torch.split(".")[:2])) for one in TRIED)
    assert (versions[0], versions[-1]) == (OLDEST_TRIED, NEWEST_TRIED)
    pythons = {one.python for one in TRIED}
    promised = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert pythons == set(promised)


def test_an_interpreter_that_is_not_there_is_named():
    with pytest.raises(CannotBeHadError, match=r"Python 3\.99 is not on this machine"):
        environments.find_python("3.99")


def test_an_installation_that_fails_says_why_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(environments.tempfile, "mkdtemp", lambda prefix: str(_made(tmp_path / "env")))
    monkeypatch.setattr(environments, "find_python", lambda version: sys.executable)
    monkeypatch.setattr(environments, "_uv", _refuse)
    with pytest.raises(CannotBeHadError, match="no space left"), environments.environment(TRIED[0], []):
        pass
    assert not (tmp_path / "env").exists()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _refuse(*_):
    raise CannotBeHadError("no space left")


def test_the_newest_that_cannot_be_had_is_said_loudly_and_fails_nothing(monkeypatch, capsys):
    @contextmanager
    def nothing(*_):
        raise CannotBeHadError("installing took longer than 900 s")
        yield

    monkeypatch.setattr(compat, "environment", nothing)
    monkeypatch.setattr(sys, "argv", ["compat", "--newest"])
    assert compat.main() == 0
    assert capsys.readouterr().out.startswith("THE NEWEST TORCH CANNOT BE HAD HERE, and so it was not tried: ")


def test_what_does_not_install_where_torch_does_is_a_failure(tmp_path, monkeypatch, capsys):
    def uv(folder, arguments, *rest):
        if wheel in arguments:
            raise rest[-1]("it needs torch<2")

    wheel = str((tmp_path / "own.whl").resolve())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(environments, "_uv", uv)
    monkeypatch.setattr(sys, "argv", ["compat", "--wheel", "own.whl"])
    assert compat.main() == 1
    assert capsys.readouterr().out == f"FAILED: {wheel} cannot be installed with the newest torch: it needs torch<2\n"
    monkeypatch.setattr(compat, "environment", lambda *_: _raising(DoesNotInstallError("it needs torch<2")))
    assert str(compat._row(TRIED[0], [])) == "| 2.6.0 | 3.11 | numpy<2 | installing failed | it needs torch<2 |"


@contextmanager
def _raising(error):
    raise error
    yield


class Pretended(Environment):
    """Every command ends as it should, but one, and writes the page that it is asked for."""

    def run(self, *arguments, patience_s=0.0):
        wanted, _ = next(value for value in COMMANDS.values() if value[1].split() == list(arguments))
        if "-o" in arguments:
            (self.folder / arguments[-1]).touch()
        ends = 3 if "predict" in arguments else wanted
        return environments.subprocess.CompletedProcess(arguments, ends, "", "first\nlast words")


def test_a_first_use_that_fails_says_where(tmp_path):
    assert smoke(Pretended(Path(sys.executable), tmp_path, 0.0)) == ["predict: exit code 3 and not 0: last words"]
