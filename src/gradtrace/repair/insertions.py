"""Lines put into a syntax tree that keeps every blank and comment: in front of a return, behind an optimizer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import libcst as cst
from libcst import matchers as m
from libcst.metadata import MetadataWrapper, PositionProvider

from gradtrace.repair.edits import code_of
from gradtrace.repair.no_patch import NoPatchError

PARTS = ("model", "loss_fn", "batches", "optimizer")
"""What a factory returns, in order."""


def insert_lines(tree: cst.Module, factory: str, lines: Sequence[str]) -> cst.Module:
    """`lines` in front of the last return of the function `factory`; raises `NoPatchError`."""
    for place, statement in enumerate(tree.body):
        if isinstance(statement, cst.FunctionDef) and statement.name.value == factory:
            function = _with_lines(statement, list(lines), knows_torch=_knows_torch(tree))
            body = [*tree.body[:place], function, *tree.body[place + 1 :]]
            return tree.with_changes(body=body)
    raise NoPatchError(f"the function {factory} is not written out in this file")


def _with_lines(function: cst.FunctionDef, lines: list[str], *, knows_torch: bool) -> cst.FunctionDef:
    body = function.body
    if not isinstance(body, cst.IndentedBlock):
        raise NoPatchError(f"the function {function.name.value} is written on one line")
    last = body.body[-1]
    if not (isinstance(last, cst.SimpleStatementLine) and isinstance(last.body[-1], cst.Return)):
        raise NoPatchError(f"the function {function.name.value} does not end in a return")
    returned = last.body[-1]
    if returned.value is None:
        raise NoPatchError(f"the function {function.name.value} returns nothing")
    parts = _parts(returned.value)
    if "optimizer" not in parts:
        lines = [line for line in lines if not line.lstrip().startswith("optimizer.param_groups[0]['params']")]
        if any("optimizer" in line for line in lines):
            raise NoPatchError("the factory returns no optimizer to change")
    lines = [line for line in lines if line.strip()]  # in a block, a blank line would be one of blanks
    text = "\n".join(lines)
    given = parts.get("loss_fn")
    names = {}
    if "loss_fn" in text and given is not None and code_of(given) == "loss_fn" and not _is_own("loss_fn", function):
        names["loss_fn"] = "changed_loss_fn"  # what is assigned within a function is the function's own
        lines = ["changed_loss_fn = loss_fn", *(re.sub(r"\bloss_fn\b", "changed_loss_fn", line) for line in lines)]
    used = [name for name in PARTS if name in text and name in parts]
    if "model" in text and "model" not in parts:
        raise NoPatchError("what the factory returns does not show which part is the model")
    assigned = [f"{name} = {code_of(parts[name])}" for name in used if code_of(parts[name]) != name]
    value = _Named({code_of(parts[name]): names.get(name, name) for name in used})
    new_return = returned.with_changes(value=returned.value.visit(value))
    first = ["import torch"] if "torch." in text and not knows_torch else []
    inserted = cst.parse_module("\n".join([*first, *assigned, *lines]) + "\n").body
    statement = last.with_changes(body=[*last.body[:-1], new_return])
    return function.with_changes(body=body.with_changes(body=[*body.body[:-1], *inserted, statement]))


def _is_own(name: str, function: cst.FunctionDef) -> bool:
    """Whether a function gives the name a value: as an argument, by assignment or by definition."""
    target = m.AssignTarget(target=m.Name(name)) | m.AnnAssign(target=m.Name(name)) | m.Param(name=m.Name(name))
    return bool(m.findall(function, target | m.FunctionDef(name=m.Name(name))))


def _parts(value: cst.BaseExpression) -> dict[str, cst.BaseExpression]:
    if isinstance(value, cst.Tuple):
        return {name: element.value for name, element in zip(PARTS, value.elements, strict=False)}
    if isinstance(value, cst.Dict):
        found = {}
        for element in value.elements:
            if isinstance(element, cst.DictElement) and isinstance(element.key, cst.SimpleString):
                found[str(element.key.evaluated_value)] = element.value
        return found
    if isinstance(value, cst.Call):
        named = {arg.keyword.value: arg.value for arg in value.args if arg.keyword is not None}
        placed = [arg.value for arg in value.args if arg.keyword is None]
        return dict(zip(PARTS, placed, strict=False)) | {k: v for k, v in named.items() if k in PARTS}
    return {}


class _Named(cst.CSTTransformer):  # type: ignore[misc]
    """Expressions that were given a name are that name."""

    def __init__(self, names: dict[str, str]) -> None:
        super().__init__()
        self._names = names

    def on_leave(self, original_node: cst.CSTNode, updated_node: Any) -> Any:
        updated_node = super().on_leave(original_node, updated_node)
        if isinstance(updated_node, cst.BaseExpression):
            name = self._names.get(code_of(original_node))
            if name is not None and not (isinstance(updated_node, cst.Name) and updated_node.value == name):
                return cst.Name(name)
        return updated_node


def insert_behind(tree: cst.Module, line: int, lines: Sequence[str], model: str) -> cst.Module:
    """`lines` behind the statement at `line` that gives an optimizer its name; the model is called `model` there.

    Raises `NoPatchError`.
    """
    text = "\n".join(line for line in lines if line.strip())
    if "loss_fn" in text:
        raise NoPatchError("it changes the loss, which the script computes itself")
    inserter = _Inserter(line, text, model, knows_torch=_knows_torch(tree))
    edited = MetadataWrapper(tree).visit(inserter)
    if not inserter.is_done:
        raise NoPatchError(f"line {line} does not give the optimizer a name")
    return edited


def _knows_torch(tree: cst.Module) -> bool:
    imported = m.Import(names=[m.ZeroOrMore(), m.ImportAlias(name=m.Name("torch"), asname=None), m.ZeroOrMore()])
    return bool(m.findall(tree, imported))


class _Inserter(cst.CSTTransformer):  # type: ignore[misc]
    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self, line: int, text: str, model: str, *, knows_torch: bool) -> None:
        super().__init__()
        self._line, self._text, self._model, self._knows_torch = line, text, model, knows_torch
        self.is_done = False

    def leave_SimpleStatementLine(
        self, original_node: cst.SimpleStatementLine, updated_node: cst.SimpleStatementLine
    ) -> Any:
        place = self.get_metadata(PositionProvider, original_node)
        last = original_node.body[-1]
        if not place.start.line <= self._line <= place.end.line or not isinstance(last, cst.Assign | cst.AnnAssign):
            return updated_node
        target = last.targets[0].target if isinstance(last, cst.Assign) else last.target
        if not isinstance(target, cst.Name | cst.Attribute):
            return updated_node
        if re.search(r"\bmodel\b", self._text) and not self._model:
            raise NoPatchError("what the model is called where the optimizer is made could not be found")
        first = "import torch\n" if "torch." in self._text and not self._knows_torch else ""
        tree = cst.parse_module(f"{first}{self._text}\n")
        renamed = tree.visit(_Called({"model": self._model or "model", "optimizer": code_of(target)}))
        self.is_done = True
        return cst.FlattenSentinel([updated_node, *renamed.body])


class _Called(cst.CSTTransformer):  # type: ignore[misc]
    """The parts by the names that the script has for them."""

    def __init__(self, names: dict[str, str]) -> None:
        super().__init__()
        self._names = names

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> cst.BaseExpression:
        return cst.parse_expression(self._names.get(updated_node.value, updated_node.value))

    def leave_Attribute(self, original_node: cst.Attribute, updated_node: cst.Attribute) -> cst.BaseExpression:
        return updated_node.with_changes(attr=original_node.attr)

    def leave_Arg(self, original_node: cst.Arg, updated_node: cst.Arg) -> cst.Arg:
        return updated_node.with_changes(keyword=original_node.keyword)

    def leave_Param(self, original_node: cst.Param, updated_node: cst.Param) -> cst.Param:
        return original_node

    def leave_ImportAlias(self, original_node: cst.ImportAlias, updated_node: cst.ImportAlias) -> cst.ImportAlias:
        return original_node

    def leave_FunctionDef(self, original_node: cst.FunctionDef, updated_node: cst.FunctionDef) -> cst.FunctionDef:
        return updated_node.with_changes(name=original_node.name, params=original_node.params)
