"""A change: a remedy that can be executed at named sites, with the very numbers that were tried."""

from __future__ import annotations

from dataclasses import dataclass

from gradtrace.records.vocabulary import StrEnum


class Edit(StrEnum):
    """What becomes of one call in the user's code."""

    RENAME = "rename"
    """Another function with the same arguments."""
    CALL = "call"
    """The whole call (or ``@``, ``+``, ``/``, ``**``); in the text ``{x}`` is its first argument (or what its method
    hangs on), ``{1}`` and so on those behind it, ``{rest}`` all behind it as they are written, ``{call}`` itself."""
    ARGUMENT = "argument"
    """Its first argument alone; in the text ``{x}`` is what it was."""
    LAST = "last"
    """Its last argument alone; the text as of `CALL`."""
    SECOND = "second"
    """Its second argument alone; in the text ``{1}`` is what it was."""
    FIRST_TWO = "first_two"
    """Its first two arguments, each as the first of `ARGUMENT`."""
    UNSIGNED = "unsigned"
    """The minus before it is gone."""
    UNWRAP = "unwrap"
    """The ``with`` statement that it stands in is gone, and what was within stands in its place."""


OBJECTIVE = "objective"
"""Kind of a change by which the loss is a measure again: all trials are measured by it."""


@dataclass(frozen=True, slots=True)
class SourceEdit:
    """One edit of the user's source."""

    edit: Edit
    function: str
    """Name of what is called there, as ``sigmoid`` or ``Sigmoid``."""
    source: str
    """``file.py:12`` of the call; '' for every place where the file names `function`."""
    text: str = ""
    """The new name, or the text that takes the place."""


@dataclass(frozen=True, slots=True)
class Draw:
    """How one parameter (or recurrent module) is drawn anew."""

    name: str
    how: str
    """'gaussian', 'orthogonal', 'normal', 'constant', 'centred', 'gates', 'chrono', 'open'.

    Centred is a bias that takes the mean of its input out; gates are orthogonal one by one, and chrono is their bias;
    open is that of one gate, the entries `rows`.
    """
    value: float
    """Gain sqrt(fan_in Var(w)), standard deviation, the constant, the mean, the time steps."""
    rows_are_inputs: bool = False
    """As of x @ W, and of transposed convolutions: the units are the second axis."""
    rows: tuple[int, int] = (0, 0)
    """The first entry that is drawn, and the one behind the last; (0, 0): all."""


@dataclass(frozen=True, slots=True)
class Change:
    """A remedy that can be executed: at named sites, with the very numbers that were tried."""

    kind: str
    """Row of the table `gradtrace.repair.changes.table.KINDS`."""
    title: str
    """One imperative sentence in the field's words."""
    where: tuple[str, ...]
    """Modules or parameters that it changes, or the source lines."""
    reason: str = ""
    """Which factor it moves, and why that helps."""
    predicted_decades: float | None = None
    """By how much it should move the gradient at the first layer; None: it does not aim at that."""
    words: tuple[tuple[str, str], ...] = ()
    numbers: tuple[tuple[str, float], ...] = ()
    draws: tuple[Draw, ...] = ()
    edits: tuple[SourceEdit, ...] = ()
    code: str = ""
    """Lines of plain torch that do the same to ``model``, ``loss_fn`` and ``optimizer``."""
    source: str = ""
    """Author, year."""
    loses_weights: bool = False
    """Trained weights are lost where it draws anew."""
    state_dict_loads: bool = True
    """Whether a state_dict of the unchanged model still loads."""

    def word(self, name: str) -> str:
        """The setting `name`."""
        return dict(self.words)[name]

    def number(self, name: str) -> float:
        """The setting `name`."""
        return dict(self.numbers)[name]
