"""A command called as a user calls it, in this process."""

from __future__ import annotations

from click.testing import CliRunner

from gradtrace.commands.main import main


def run(*arguments: str):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])
