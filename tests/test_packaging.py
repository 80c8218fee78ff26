"""Is what gets installed complete, and does it start without paying for torch?"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata, resources

import pytest

import gradtrace
from gradtrace.tape.private import OLDEST_TRIED


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(
    "module",
    [
        "gradtrace",
        "gradtrace.commands",
        "gradtrace.data",
        "gradtrace.diagnosis",
        "gradtrace.errors",
        "gradtrace.records",
        "gradtrace.report",
        "gradtrace.theory",
    ],
)
def test_importing_does_not_import_torch(module):
    """With its submodules, private ones included: what reads, judges or draws a saved trace needs no torch."""
    walk = (
        f"import importlib, pkgutil, sys; package = importlib.import_module({module!r})\n"
        f"inside = pkgutil.walk_packages(package.__path__, {module + '.'!r}) if hasattr(package, '__path__') else []\n"
        f"[importlib.import_module(m.name) for m in inside if {module!r} != 'gradtrace']\n"
        "print('torch' in sys.modules)"
    )
    result = _run("-c", walk)
    assert (result.stdout.strip(), result.stderr) == ("False", "")


@pytest.mark.parametrize("command", [[], ["check"], ["show"], ["demo"], ["lesson"]])
def test_help_answers_without_torch(command):
    code = (
        "import sys\nfrom gradtrace.commands.main import main\n"
        f"sys.argv = ['gradtrace', *{command!r}, '--help']\n"
        "try:\n    main()\nfinally:\n    sys.stderr.write(str('torch' in sys.modules))"
    )
    result = _run("-c", code)
    assert result.returncode == 0
    assert result.stdout.startswith("Usage: gradtrace")
    assert result.stderr == "False"


def test_python_m_gradtrace_is_the_command_line():
    result = _run("-m", "gradtrace", "--help")
    assert result.returncode == 0
    assert "check" in result.stdout


def test_the_installed_command_starts_the_command_line():
    (script,) = metadata.distribution("gradtrace").entry_points.select(group="console_scripts", name="gradtrace")
    assert script.value == "gradtrace.commands.main:main"
    assert callable(script.load())


def test_the_version_is_said_once():
    assert gradtrace.__version__ == metadata.version("gradtrace")


@pytest.mark.parametrize(
    "name",
    ["py.typed", "data/digits.npz", "data/README.md", "lesson/static/network.js", "lesson/templates/lesson.html.j2"],
)
def test_the_package_carries(name):
    assert resources.files(gradtrace).joinpath(name).is_file()


def test_torch_is_bounded_below_by_the_oldest_that_was_tried():
    (torch,) = (
        requirement for requirement in metadata.requires("gradtrace") or () if re.match(r"torch\b", requirement)
    )
    assert torch == f"torch>={'.'.join(map(str, OLDEST_TRIED))}"  # a newer one is named in the coverage, not refused


def test_the_licences_of_what_is_carried_are_carried():
    files = {path.name for path in metadata.distribution("gradtrace").files or () if "licenses" in path.parts}
    vendored = resources.files(gradtrace).joinpath("report/html/static/vendor")
    scripts = {path.name.removesuffix(".min.js") for path in vendored.iterdir() if path.name.endswith(".js")}
    assert files >= {"LICENSE", *(f"{script}.LICENSE" for script in scripts)}
