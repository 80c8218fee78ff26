"""The exceptions a user meets. Each message says what was expected, what came, where, and what to do next."""

from __future__ import annotations


class GradtraceError(Exception):
    """Base of all errors that gradtrace raises on purpose."""


class InputError(GradtraceError, ValueError):
    """The model, loss function, batches or target are not what is needed."""


class TraceFileError(GradtraceError, ValueError):
    """A file is not a trace of ours, is cut off, or comes from a newer version."""


class NonfiniteError(GradtraceError, ArithmeticError):
    """A watched training met a NaN or Inf, and was to be stopped there."""
