"""`make compat`: every promised version in an environment of its own, one at a time; prints the table of the docs.

python -m compat                     all of them (hours)
python -m compat --only 2.15         those whose torch or Python begins so
python -m compat --newest            no tests, only the way of a first user, with whatever pip takes today
python -m compat --wheel dist/X.whl  the same with that wheel alone
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from compat.environment import ROOT, TEST_TOOLS, CannotBeHadError, DoesNotInstallError, Environment, environment
from compat.smoke import smoke
from compat.versions import TRIED, Versions

PARTS = "tape measure diagnosis recurrence checkup audit theory records monitor runner distributed".split()
NEWEST_PATIENCE_S = 900

VERSIONS = "import platform, numpy, torch; print(platform.python_version(), torch.__version__, numpy.__version__)"


@dataclass(frozen=True)
class Row:
    """What was seen of one environment."""

    python: str
    torch: str
    numpy: str
    smoke: str
    tests: str

    def __str__(self) -> str:
        return f"| {self.torch} | {self.python} | {self.numpy} | {self.smoke} | {self.tests} |"


HEAD = "| torch | Python | NumPy | first use | tests |\n| --- | --- | --- | --- | --- |"


def main() -> int:
    """The exit code: 1 where anything failed, 0 also where something cannot be had, which is said."""
    options = _parsed()
    if options.newest or options.wheel:
        return _first_use(str(Path(options.wheel).resolve()) if options.wheel else str(ROOT))
    chosen = [one for one in TRIED if any(x.startswith(options.only) for x in (one.torch, one.python))]
    rows = [_row(one, options.parts) for one in chosen]
    print(HEAD, *rows, sep="\n")
    return int(any("fail" in str(row) for row in rows))


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m compat", description="Every promised version, in its environment.")
    parser.add_argument("--only", default="", metavar="VERSION", help="torch's or Python's, or how it begins")
    parser.add_argument("--newest", action="store_true", help="first use only, with what pip takes today")
    parser.add_argument("--wheel", metavar="FILE", help="first use only, of that wheel with nothing else pinned")
    parser.add_argument("--parts", nargs="*", default=PARTS, metavar="PART", help="of the tests; by default all")
    return parser.parse_args()


def _first_use(package: str) -> int:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    try:
        with environment(Versions(python, ""), [package], NEWEST_PATIENCE_S) as made:
            row = _seen(made)
            failures = smoke(made)
            print(f"torch {row[1]}, Python {row[0]}, NumPy {row[2]}: installed in {made.install_s:.0f} s,",
                  "first use works" if not failures else "\n".join(["FAILED", *failures]))  # fmt: skip
            return int(bool(failures))
    except CannotBeHadError as error:
        print(f"THE NEWEST TORCH CANNOT BE HAD HERE, and so it was not tried: {error}")
        return 0
    except DoesNotInstallError as error:
        print(f"FAILED: {package} cannot be installed with the newest torch: {error}")
        return 1


def _row(versions: Versions, parts: list[str]) -> Row:
    print(f"{versions} ...", file=sys.stderr, flush=True)
    try:
        with environment(versions, [str(ROOT), *TEST_TOOLS]) as made:
            failures = smoke(made)
            print(*failures, sep="\n", file=sys.stderr)
            told = "works" if not failures else f"{len(failures)} failed"
            return Row(*_seen(made), told, _tests(made, parts))
    except CannotBeHadError as error:
        return Row(versions.python, versions.torch, versions.numpy, "not tried", str(error))
    except DoesNotInstallError as error:
        return Row(versions.python, versions.torch, versions.numpy, "installing failed", str(error))


def _seen(made: Environment) -> tuple[str, str, str]:
    python, torch, numpy = made.run("-c", VERSIONS).stdout.split()
    return python, torch.partition("+")[0], numpy


def _tests(made: Environment, parts: list[str]) -> str:
    for name in ("tests", "conftest.py", "pyproject.toml"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, made.folder / name)
    done = made.run("-m", "pytest", "-q", "-m", "not long", "--tb=short", "-n", "2", "--dist", "loadfile",
                    *(f"tests/{part}" for part in parts))  # fmt: skip
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
    counts = re.findall(r"\d+ (?:passed|failed|errors?|skipped)", (done.stdout.splitlines() or [""])[-1])
    return ", ".join(counts) or f"failed to run (exit code {done.returncode})"


if __name__ == "__main__":
    sys.exit(main())
