"""Which versions are tried together: one environment each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Versions:
    """What one environment is made of; `torch` '' takes whatever pip would take today."""

    python: str
    torch: str
    numpy: str = "numpy"

    def __str__(self) -> str:
        return f"torch {self.torch or 'newest'} on Python {self.python}"


TRIED = (
    Versions("3.11", "2.6.0", "numpy<2"),
    Versions("3.11", "2.8.0"),
    Versions("3.11", "2.10.0"),
    Versions("3.11", "2.12.0"),
    Versions("3.11", "2.14.1"),
    Versions("3.11", "2.15.0"),
    Versions("3.10", "2.14.1", "numpy<2"),
    Versions("3.12", "2.12.0"),
    Versions("3.13", "2.15.0"),
    Versions("3.14", "2.15.0"),
)
"""The range that pyproject.toml and `gradtrace.tape.private` promise."""
