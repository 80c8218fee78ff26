"""`gradtrace fix`: try the changes, show what is proven, print the patch; with --write put it into the file."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradtrace.commands.ending import UNHEALTHY, in_a_sentence
from gradtrace.commands.outputs import check_outputs
from gradtrace.commands.screen import working
from gradtrace.commands.seeds import seed_all
from gradtrace.commands.target import load_held_out
from gradtrace.commands.writing import may_write, write_patch
from gradtrace.errors import InputError

if TYPE_CHECKING:
    from gradtrace.commands.target import Target
    from gradtrace.records.repair import Repair, Trial
    from gradtrace.repair.patch import Shape, Texts, UserFile


SCRIPT_S = 300.0
"""[seconds] What a script's trials may take unless told otherwise: each begins with its imports and its data."""


class TargetOrScript(click.Command):
    """What stands behind a script is the script's; behind a factory it is ours."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, once it is known which of the two it is."""
        ctx.allow_interspersed_args = False
        found, _, _ = self.make_parser(ctx).parse_args(list(args))
        ctx.allow_interspersed_args = is_factory(str(found.get("target")))
        return super().parse_args(ctx, args)


def is_factory(target: str) -> bool:
    """``net.py:build`` is one, ``train.py`` is a script.

    >>> is_factory("net.py:build"), is_factory("package.net:build"), is_factory("train.py")
    (True, True, False)
    """
    place, _, name = target.rpartition(":")
    return bool(place) and name.isidentifier()


@click.command(cls=TargetOrScript, short_help="Try changes on copies, and patch in what proves better.")
@click.argument("target")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option("-m", "is_module", is_flag=True, help="TARGET is a script's module: gradtrace fix -m package.train ...")
@click.option("--write", is_flag=True, help="Apply the patch of the recommended change to the file.")
@click.option("--force", is_flag=True, help="With --write: also where version control says that the file was edited.")
@click.option("--steps", type=click.IntRange(min=1), metavar="K", help="Optimizer steps of each training.")
@click.option("--seeds", type=click.IntRange(min=2), default=3, show_default=True, help="Trainings of each trial.")
@click.option("--time", "time_budget_s", type=click.FloatRange(min=0, min_open=True), metavar="S",
              help="Seconds that it may take.  [default: 60, up to 300 for costly steps; of a script 300]")  # fmt: skip
@click.option("--held-out", metavar="NAME", help="Function that makes batches on which no change may be worse, in the "
              "factory's file or as file.py:NAME; or the factory returns held_out too.")  # fmt: skip
@click.option("--format", "form", type=click.Choice(["text", "json", "sarif"]), default="text", show_default=True,
              help="To read, for programs, or for code scanning with the patch as a fix.")  # fmt: skip
@click.option("--save", type=click.Path(dir_okay=False), metavar="PATH", help="Keep the repair (gzipped JSON).")
@click.option("-o", "--output", type=click.Path(dir_okay=False), metavar="PATH", help="Write the report, an HTML file.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of all random numbers.")
@click.option("--device", metavar="D", help="Move model and batches there, as 'cuda:0'.")
@in_a_sentence
def fix(
    target: str,
    arguments: tuple[str, ...],
    is_module: bool,
    write: bool,
    force: bool,
    time_budget_s: float | None,
    form: str,
    save: str | None,
    output: str | None,
    seed: int,
    device: str | None,
    held_out: str | None,
    **options: Any,
) -> None:
    """Change copies of the network that TARGET makes, train them, and recommend what trained better.

    TARGET is package.module:factory or path/to/file.py:factory, or a training script with its own ARGUMENTS (behind
    our options), which is run again and again, each time in a process and a copy of the working folder of its own.

    Beside each change the unchanged network and a placebo are trained, from the same data with the same seeds. The
    patch is printed; no file is touched without --write.
    """
    is_script = is_module or not is_factory(target)
    check_outputs(records=(save,), pages=(output,))
    if is_script:
        if device is not None:
            raise InputError("--device is for a factory: a script moves its model itself")
        if held_out is not None:
            raise InputError("--held-out is for a factory: a script's loss cannot be called on other batches")
        from gradtrace.commands.fix_script import fix_script

        repair, file = fix_script(target, arguments, is_module, time_budget_s or SCRIPT_S, (write, force), options)
    else:
        if arguments:
            raise InputError(f"a factory takes no arguments, but got {' '.join(arguments)}")
        where = device, held_out
        repair, file = _fix_factory(target, time_budget_s, (write, force), seed, where, options)
    if save is not None:
        repair.save(save)
    if output is not None:
        repair.report(output)
    if form == "text":
        repair.show()
    else:
        click.echo(repair.to_json() if form == "json" else _sarif(repair, target, file))
    if write:
        write_patch(repair, file, None if is_script else target, force=force)
    if not repair.diagnosis.healthy and repair.best is None:
        sys.exit(UNHEALTHY)  # and no change is proven


def _sarif(repair: Repair, target: str, file: UserFile) -> str:
    from gradtrace import __version__
    from gradtrace.report.checked import Checked, repository_root
    from gradtrace.report.sarif import sarif

    checked = Checked(target, repair.diagnosis, file=str(file.path), repair=repair)
    return sarif([checked], repository_root(Path.cwd()), __version__)


def _fix_factory(
    target: str,
    time_budget_s: float | None,
    writing: tuple[bool, bool],
    seed: int,
    where: tuple[str | None, str | None],
    options: dict[str, Any],
) -> tuple[Repair, UserFile]:
    device, held_out = where
    with working() as say:
        seed_all(seed)
        loaded, file = _load(target, seed)
        if held_out is not None:
            loaded = replace(loaded, held_out=load_held_out(held_out, target))
        may_write(file.path, *writing)
        if device is not None:
            from gradtrace.commands.placement import place

            loaded = place(loaded, device)
        return _repair(loaded, file, seed, time_budget_s=time_budget_s, progress=say, **options), file


def _load(target: str, seed: int) -> tuple[Target, UserFile]:
    """What the factory makes, and its file as it is now."""
    from gradtrace.commands.edited import build_edited
    from gradtrace.commands.target import load_target
    from gradtrace.repair.patch import UserFile, shape_of
    from gradtrace.repair.project import text_of

    place, _, factory = target.rpartition(":")
    loaded = load_target(target)
    path = Path(place)
    if not path.is_file():
        path = Path(str(getattr(sys.modules.get(place), "__file__", place)))
    text = text_of(path) if path.is_file() else ""

    def build(edited: Texts) -> Shape:
        built = build_edited(edited, path, factory, seed)
        return shape_of(built.model, built.optimizer)

    beside = tuple((other, text_of(other)) for other in _beside(path))
    return loaded, UserFile(path, text, factory, build, None, beside)


def _beside(path: Path) -> list[Path]:
    """Files of the project that were imported with it."""
    from gradtrace.repair.project import project_files

    places = (path.resolve().parent, Path.cwd()) if path.is_file() else (Path.cwd(),)
    found = dict.fromkeys(other for place in places for other in project_files(place))
    return [other for other in found if other != path.resolve()]


def _repair(loaded: Target, file: UserFile, seed: int, **options: Any) -> Repair:
    import gradtrace
    from gradtrace.repair.patch import shape_of, with_diffs

    given = loaded.model, loaded.loss_fn, loaded.batches, loaded.optimizer
    repair = gradtrace.fix(*given, held_out=loaded.held_out, **options)
    repair = replace(repair, title=loaded.name)

    def wanted(trial: Trial) -> Shape:
        model, _, optimizer = trial.apply(loaded.model, loaded.loss_fn, loaded.optimizer)
        return shape_of(model, optimizer)

    if not file.text or repair.best is None:
        return repair
    options["progress"]("writing the patch")
    return with_diffs(repair, file, wanted)
