"""`gradtrace fix`: try the changes, show what is proven, print the patch; with --write put it into the file."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradtrace.commands.ending import UNHEALTHY, in_a_sentence
from gradtrace.commands.screen import working
from gradtrace.commands.seeds import seed_all
from gradtrace.errors import InputError, describe

if TYPE_CHECKING:
    from gradtrace.commands.target import Target
    from gradtrace.records.repair import Repair, Trial
    from gradtrace.repair.patch import UserFile


@click.command(short_help="Try changes on copies, and patch in what proves better.")
@click.argument("target")
@click.option("--write", is_flag=True, help="Apply the patch of the recommended change to the file.")
@click.option("--force", is_flag=True, help="With --write: also where version control says that the file was edited.")
@click.option("--steps", type=click.IntRange(min=1), metavar="K", help="Optimizer steps of each training.")
@click.option("--seeds", type=click.IntRange(min=2), default=3, show_default=True, help="Trainings of each trial.")
@click.option("--time", "time_budget_s", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True,
              metavar="S", help="Seconds that it may take, about.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="The repair as JSON, for programs.")
@click.option("--save", type=click.Path(dir_okay=False), metavar="PATH", help="Keep the repair (gzipped JSON).")
@click.option("-o", "--output", type=click.Path(dir_okay=False), metavar="PATH", help="Write the report, an HTML file.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of all random numbers.")
@click.option("--device", metavar="D", help="Move model and batches there, as 'cuda:0'.")
@in_a_sentence
def fix(
    target: str,
    write: bool,
    force: bool,
    steps: int | None,
    seeds: int,
    time_budget_s: float,
    as_json: bool,
    save: str | None,
    output: str | None,
    seed: int,
    device: str | None,
) -> None:
    """Change copies of the network that TARGET makes, train them, and recommend what trained better.

    Beside each change the unchanged network and a placebo are trained, from the same data with the same seeds. The
    patch is printed; no file is touched without --write.
    """
    with working() as say:
        seed_all(seed)
        loaded, file = _load(target, seed)
        if write and not force and (state := _uncommitted(file.path)):
            told = "commit it first, so that the patch can be taken back, or add --force"
            raise InputError(f"{file.path} {state}: {told}")
        if device is not None:
            from gradtrace.commands.placement import place

            loaded = place(loaded, device)
        repair = _repair(loaded, file, seed, steps=steps, seeds=seeds, time_budget_s=time_budget_s, progress=say)
    if save is not None:
        repair.save(save)
    if output is not None:
        repair.report(output)
    if as_json:
        click.echo(repair.to_json())
    else:
        repair.show()
    if write:
        _write(repair, file, target)
    if not repair.diagnosis.healthy and repair.best is None:
        sys.exit(UNHEALTHY)  # and no change is proven


def _load(target: str, seed: int) -> tuple[Target, UserFile]:
    """What the factory makes, and its file as it is now."""
    from gradtrace.commands.target import load_target
    from gradtrace.repair.patch import UserFile

    place, _, factory = target.rpartition(":")
    loaded = load_target(target)
    path = Path(place)
    if not path.is_file():
        path = Path(str(getattr(sys.modules.get(place), "__file__", place)))
    text = path.read_text(encoding="utf-8") if path.is_file() else ""

    def build(edited: str) -> Any:
        return _build(edited, path, factory, seed)

    return loaded, UserFile(path, text, factory, build)


def _build(text: str, path: Path, factory: str, seed: int) -> Any:
    """The model that the factory in `text` makes; raises `InputError`."""
    from types import ModuleType

    from gradtrace.commands.target import as_target

    module = ModuleType(f"{path.stem}_edited")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look a class's module up
    try:
        seed_all(seed)
        exec(compile(text, str(path), "exec"), module.__dict__)
        return as_target(getattr(module, factory)(), factory).model
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(describe(error)) from error
    finally:
        del sys.modules[module.__name__]


def _repair(loaded: Target, file: UserFile, seed: int, **options: Any) -> Repair:
    import gradtrace
    from gradtrace.repair.patch import with_diffs

    repair = gradtrace.fix(loaded.model, loaded.loss_fn, loaded.batches, loaded.optimizer, **options)
    repair = replace(repair, title=loaded.name)

    def changed_model(trial: Trial) -> Any:
        return trial.apply(loaded.model, loaded.loss_fn, loaded.optimizer)[0]

    if not file.text or repair.best is None:
        return repair
    options["progress"]("writing the patch")
    return with_diffs(repair, file, changed_model)


# ------------------------------------------------------------------------------------------------------------- write


def _write(repair: Repair, file: UserFile, target: str) -> None:
    """The patch into the file, if it is still the one that was tried; then the file is checked."""
    from gradtrace.repair.patch import patched_text

    best = repair.best
    if best is None:
        return  # what was shown says why: all is well, or nothing helped
    if not best.diff:
        raise InputError(f"there is no patch to write: {best.no_diff or 'the file of the factory is not known'}")
    now = file.path.read_bytes()
    if hashlib.sha256(now).digest() != hashlib.sha256(file.text.encode()).digest():
        raise InputError(f"{file.path} has changed since the change was tried; run gradtrace fix again")
    file.path.write_text(patched_text(file.text, best.diff), encoding="utf-8")
    click.echo(f"\nWrote {file.path}. It is now:", err=True)
    _check_again(target)


def _uncommitted(path: Path) -> str:
    """What version control has against an edit, or ''."""
    try:
        found = subprocess.run(
            ["git", "status", "--porcelain", "--", path.name],
            cwd=path.resolve().parent, capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return "is not under version control that could be asked"
    if found.returncode:
        return "is not under version control"
    if found.stdout.startswith("??"):
        return "is not under version control"
    return "has edits that are not committed" if found.stdout.strip() else ""


def _check_again(target: str) -> None:
    """`gradtrace check` on the file as it is now, in a process of its own: this one has the old module."""
    done = subprocess.run([sys.executable, "-m", "gradtrace", "check", target], check=False)
    if done.returncode > UNHEALTHY:
        raise InputError("the edited file could not be checked: see above")
