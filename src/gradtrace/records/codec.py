"""How does a tree of frozen records become JSON, and come back equal? Column by column, driven by the type hints.

Records of one class are one table: a list per field. A record inside another is a number, its row in its own table, so
that a site or a gradient met twice is stored once. Every step works on a whole column at a time, which makes 1e5 ops a
matter of a second or two, and linear. Of a hint, these are understood:

    int, str, bool, enum  itself            tuple[X, ...]  [lengths, the column of all X's]
    float                 itself, or else   tuple[X, Y]    [the column of X's, the column of Y's]
                          'nan','inf','-inf'
    a dataclass           its row           X | None       [whether it is given, the column of given X's]
"""

from __future__ import annotations

import math
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from itertools import chain, repeat
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from gradtrace.records.vocabulary import StrEnum

Tables = dict[str, dict[str, Any]]
"""Class name -> field name -> column."""


MOST = 2**64
"""Of an integer: autograd numbers leaves 2^64 - 1."""


class CodecError(ValueError):
    """The tables do not hold what the hints ask for; the message says what."""


@cache
def hints_of(record_type: Any) -> dict[str, Any]:
    """Field name -> resolved type hint, in the order of the fields."""
    resolved = get_type_hints(record_type)
    return {field.name: resolved[field.name] for field in fields(record_type)}


@cache
def order_of(root: type) -> tuple[type, ...]:
    """The classes that `root` is made of, each before those that it holds."""
    done: list[type] = []

    def visit(record_type: type) -> None:
        for hint in hints_of(record_type).values():
            for inner in _records_in(hint):
                if inner not in done:
                    visit(inner)
        done.append(record_type)

    visit(root)
    return tuple(reversed(done))


def _records_in(hint: Any) -> list[type]:
    if isinstance(hint, type) and is_dataclass(hint):
        return [hint]
    return [inner for argument in get_args(hint) for inner in _records_in(argument)]


def _optional(hint: Any) -> Any:
    """X for ``X | None``, else None."""
    if get_origin(hint) not in (Union, UnionType):
        return None
    inner = [argument for argument in get_args(hint) if argument is not NoneType]
    assert len(inner) == 1, f"the codec knows no {hint}"
    return inner[0]


# ------------------------------------------------------------------------------------------------------------ to JSON


class _Rows:
    """The records of one class, each once."""

    def __init__(self) -> None:
        self.records: list[Any] = []
        self._row: dict[Any, int] = {}

    def row_of(self, record: Any) -> int:
        row = self._row.setdefault(record, len(self.records))
        if row == len(self.records):
            self.records.append(record)
        return row


def encode(record: Any) -> Tables:
    """The tables of `record` and of everything in it; the table of its own class has one row."""
    root: Any = type(record)
    rows = {record_type: _Rows() for record_type in order_of(root)}
    rows[root].row_of(record)
    tables: Tables = {}
    for record_type, held in rows.items():
        if held.records:
            tables[record_type.__name__] = {
                name: _encode(hint, [getattr(each, name) for each in held.records], rows)
                for name, hint in hints_of(record_type).items()
            }
    return tables


def _encode(hint: Any, column: list[Any], rows: dict[type, _Rows]) -> Any:
    if (inner := _optional(hint)) is not None:
        present = [value for value in column if value is not None]
        return [[value is not None for value in column], _encode(inner, present, rows)]
    if get_origin(hint) is tuple:
        arguments = get_args(hint)
        if arguments[-1] is Ellipsis:
            flat = _encode(arguments[0], list(chain.from_iterable(column)), rows)
            return [[len(value) for value in column], flat]
        return [_encode(each, [value[i] for value in column], rows) for i, each in enumerate(arguments)]
    if hint is float:
        return [value if math.isfinite(value) else encode_float(value) for value in column]
    if issubclass(hint, StrEnum):
        return [value.value for value in column]
    if hint in rows:
        return [rows[hint].row_of(value) for value in column]
    assert hint in (int, str, bool), f"the codec knows no {hint}"
    return column


def encode_float(value: float) -> float | str:
    """A finite number itself; else 'nan', 'inf' or '-inf', which strict JSON has no number for."""
    return value if math.isfinite(value) else str(float(value))


# ---------------------------------------------------------------------------------------------------------- from JSON

_NONFINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def decode(root: type, tables: Any) -> Any:
    """The one record of class `root` in `tables`; raises `CodecError` where they do not fit the hints."""
    if not isinstance(tables, dict):
        raise CodecError("its tables are missing")
    made: dict[type, list[Any]] = {}
    for record_type in reversed(order_of(root)):
        table = tables.get(record_type.__name__, {})
        if not isinstance(table, dict):
            raise CodecError(f"table {record_type.__name__!r} is no table")
        made[record_type] = _decode_table(record_type, table, made) if table else []
    if len(made[root]) != 1:
        raise CodecError(f"it holds {len(made[root])} records of {root.__name__} instead of one")
    return made[root][0]


def _decode_table(record_type: type, table: dict[str, Any], made: dict[type, list[Any]]) -> list[Any]:
    columns: dict[str, Any] = {}
    for field in fields(record_type):
        where = f"{record_type.__name__}.{field.name}"
        if field.name in table:
            columns[field.name] = _decode(hints_of(record_type)[field.name], table[field.name], made, where)
        elif field.default is not MISSING:  # written before this field existed
            columns[field.name] = repeat(field.default)
        elif field.default_factory is not MISSING:
            columns[field.name] = repeat(field.default_factory())
        else:
            raise CodecError(f"field {where!r} is missing")
    lengths = {len(column) for column in columns.values() if isinstance(column, list)}
    if len(lengths) != 1:
        raise CodecError(f"the columns of {record_type.__name__!r} differ in length")
    return list(map(record_type, *columns.values()))


def _decode(hint: Any, column: Any, made: dict[type, list[Any]], where: str) -> list[Any]:
    if not isinstance(column, list):
        raise CodecError(f"field {where!r} is no list")
    if (inner := _optional(hint)) is not None:
        if len(column) != 2:
            raise CodecError(f"field {where!r} does not say what is given")
        present, given = _decode(bool, column[0], made, where), _decode(inner, column[1], made, where)
        if sum(present) != len(given):
            raise CodecError(f"field {where!r} has {len(given)} values where {sum(present)} are given")
        values = iter(given)
        return [next(values) if is_given else None for is_given in present]
    if get_origin(hint) is tuple:
        return _decode_tuples(get_args(hint), column, made, where)
    if hint is float:
        if not {type(value) for value in column} <= {float, int}:
            column = [_NONFINITE[value] if type(value) is str else value for value in column]
        return list(map(float, _typed(column, {float, int}, where)))
    if issubclass(hint, StrEnum):
        members = {member.value: member for member in hint}
        return [members[value] for value in _typed(column, {str}, where)]
    if hint in made:
        rows = made[hint]
        if column and (min(_typed(column, {int}, where)) < 0 or max(column) >= len(rows)):
            raise CodecError(f"field {where!r} points outside its table")
        return [rows[row] for row in column]
    return _typed(column, {hint}, where)


def _decode_tuples(
    arguments: tuple[Any, ...], column: list[Any], made: dict[type, list[Any]], where: str
) -> list[tuple[Any, ...]]:
    if arguments[-1] is not Ellipsis:
        if len(column) != len(arguments):
            raise CodecError(f"field {where!r} has {len(column)} parts instead of {len(arguments)}")
        parts = [_decode(hint, part, made, where) for hint, part in zip(arguments, column, strict=True)]
        if len({len(part) for part in parts}) != 1:
            raise CodecError(f"the parts of field {where!r} differ in length")
        return list(zip(*parts, strict=True))
    if len(column) != 2:
        raise CodecError(f"field {where!r} has no lengths")
    lengths, flat = _decode(int, column[0], made, where), _decode(arguments[0], column[1], made, where)
    if any(length < 0 for length in lengths) or sum(lengths) != len(flat):
        raise CodecError(f"the lengths of field {where!r} do not add up")
    values, start = [], 0
    for length in lengths:
        values.append(tuple(flat[start : start + length]))
        start += length
    return values


def _typed(column: list[Any], types: set[type], where: str) -> list[Any]:
    strange = {type(value) for value in column} - types
    if strange:
        expected = min(types, key=lambda each: each.__name__).__name__
        raise CodecError(f"field {where!r} holds {strange.pop().__name__} where {expected} was expected")
    if types == {int} and column and not (min(column) >= -MOST and max(column) <= MOST):
        raise CodecError(f"field {where!r} holds a number that is too large")
    return column
