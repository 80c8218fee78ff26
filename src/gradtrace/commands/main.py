"""Which commands are there? One table, literal; a command's module is imported when the command is asked for."""

from __future__ import annotations

from importlib import import_module

import click

from gradtrace.commands.screen import any_encoding_will_do

COMMANDS = {
    "Judge a network": ("check", "fix", "predict", "init", "through-time"),
    "Watch a training": ("run", "runs", "serve", "compare"),
    "Look at what was kept": ("show", "report", "export"),
    "Learn": ("explain", "demo", "lesson", "activations"),
}
"""By what they are for. `through-time` is `commands/through_time.py`'s `through_time`, and so on."""

MOST_LETTERS = 62
"""Of the words beside a command: with its name they fill a line of 80."""
NAME_CELLS = 12


class Commands(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the table."""
        return [name for names in COMMANDS.values() for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command itself, or None where there is none of this name."""
        if cmd_name not in self.list_commands(ctx):
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(import_module(f"gradtrace.commands.{name}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """A section a group, a line a command."""
        for group, names in COMMANDS.items():
            found = [command for name in names if (command := self.get_command(ctx, name)) is not None]
            with formatter.section(group):
                formatter.write_dl(
                    [(str(each.name).ljust(NAME_CELLS), each.get_short_help_str(MOST_LETTERS)) for each in found]
                )


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="gradtrace", message="gradtrace %(version)s")
@click.pass_context
def main(context: click.Context) -> None:
    """Look inside the backward pass: where does the gradient vanish or explode, why, and what to change?

    Exit codes: 0 healthy, 1 a finding at or above --fail-on, 2 wrong usage or bad input, 3 a fault of gradtrace.
    """
    if context.invoked_subcommand != "run":  # whose standard output is the script's own
        any_encoding_will_do()
