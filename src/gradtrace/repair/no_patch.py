"""Why is there no patch? One error, for whoever edits and whoever asks."""

from __future__ import annotations

from gradtrace.errors import InputError


class NoPatchError(InputError):
    """Why a change cannot be made an edit."""
