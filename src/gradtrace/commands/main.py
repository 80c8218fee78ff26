"""Which commands are there? One table, literal; a command's module is imported when the command is asked for."""

from __future__ import annotations

from importlib import import_module

import click

from gradtrace.commands.screen import any_encoding_will_do

COMMANDS = {
    "judge": ("check", "predict", "init", "through-time"),
    "watch": ("run", "runs", "serve", "compare"),
    "look": ("show", "report", "export"),
    "learn": ("demo", "lesson", "activations"),
}
"""By what they are for. `through-time` is `commands/through_time.py`'s `through_time`, and so on."""


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


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="gradtrace", message="gradtrace %(version)s")
@click.pass_context
def main(context: click.Context) -> None:
    """Look inside the backward pass: where does the gradient vanish or explode, why, and what to change?

    Exit code 0: healthy; 1: a finding at or above --fail-on; 2: wrong usage or bad input.
    """
    if context.invoked_subcommand != "run":  # whose standard output is the script's own
        any_encoding_will_do()
