"""What does one read who has not installed what an integration is for? One sentence, with the command."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def needed(name: str, package: str) -> Iterator[None]:
    """What is imported within is of `package`, or of what it needs itself.

    >>> with needed("Trainer", "a-trainer"):
    ...     import a_trainer
    Traceback (most recent call last):
    ImportError: gradtrace's Trainer integration needs a_trainer, which is not installed: pip install a-trainer
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(
            f"gradtrace's {name} integration needs {error.name}, which is not installed: pip install {package}"
        ) from error
