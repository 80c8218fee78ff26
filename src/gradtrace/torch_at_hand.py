"""Why can the torch at hand not be used? Asked when something has failed already: this alone must not import torch."""

from __future__ import annotations

OLDEST = (2, 6)
"""The same as in pyproject.toml."""

_INSTALL = "install it, for example with: pip install torch"


def why_unfit() -> str | None:
    """One sentence where torch is missing, broken, too old or something else of that name; None where it is fit."""
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name == "torch":
            return f"torch is not installed; {_INSTALL}"
        return f"torch cannot be imported, for it misses {error.name}; {_INSTALL}"
    except Exception as error:  # a library that is missing or of another machine: OSError, ImportError, ...
        first = (str(error).strip().splitlines() or [""])[0]
        return f"torch cannot be imported ({type(error).__name__}: {first}); {_INSTALL}"
    version = str(getattr(torch, "__version__", ""))
    if not version or not all(hasattr(torch, name) for name in ("autograd", "nn", "Tensor")):
        return f"what is called torch here is not PyTorch ({getattr(torch, '__file__', None) or 'a folder'})"
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < OLDEST:
        return f"gradtrace needs torch {'.'.join(map(str, OLDEST))} or newer, and this is {version}"
    return None
