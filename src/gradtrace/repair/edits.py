"""Edits of a syntax tree that keeps every blank and comment: one call, one name, lines in front of a return.

The tree is libcst's; nothing here knows of torch or of changes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import libcst as cst
from libcst import matchers as m
from libcst.metadata import MetadataWrapper, PositionProvider

from gradtrace.records.repair import Edit, SourceEdit
from gradtrace.repair.no_patch import NoPatchError

PARTS = ("model", "loss_fn", "batches", "optimizer")
"""What a factory returns, in order."""
_MODULES = {"torch", "F", "nn", "np", "math", "functional"}
"""Names that are modules: what hangs on them is a function, and no method of a tensor."""


def edit_calls(tree: cst.Module, at_lines: Sequence[tuple[int, SourceEdit]], names: dict[str, str]) -> cst.Module:
    """Every edit at its line, and every name (old -> new) wherever a module is asked for it; raises `NoPatchError`."""
    editor = _Editor(at_lines, names)
    edited = MetadataWrapper(tree).visit(editor)
    for line, edit in at_lines:
        if (line, edit) not in editor.done:
            raise NoPatchError(f"no call of {edit.function} was found at line {line}")
    if names and not editor.renamed >= set(names):
        raise NoPatchError(f"the file does not name {', '.join(sorted(set(names) - editor.renamed))}")
    return edited


class _Editor(cst.CSTTransformer):  # type: ignore[misc]
    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self, at_lines: Sequence[tuple[int, SourceEdit]], names: dict[str, str]) -> None:
        super().__init__()
        self._at_lines, self._names = at_lines, names
        self.done: set[tuple[int, SourceEdit]] = set()
        self.renamed: set[str] = set()

    def _edit_at(self, node: cst.CSTNode, name: str) -> tuple[int, SourceEdit] | None:
        place = self.get_metadata(PositionProvider, node)
        for line, edit in self._at_lines:
            if place.start.line <= line <= place.end.line and edit.function.rstrip("_") == name.rstrip("_"):
                return line, edit
        return None

    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> cst.BaseExpression:
        name = _called(original_node)
        found = self._edit_at(original_node, name) if name else None
        if found is None:
            return updated_node
        self.done.add(found)
        return _edit(found[1], updated_node)

    def leave_Assign(self, original_node: cst.Assign, updated_node: cst.Assign) -> Any:
        """``h = h`` is left out, where an edit has made it so."""
        value = _code(updated_node.value)
        same = value != _code(original_node.value) and {_code(one.target) for one in updated_node.targets} == {value}
        return cst.RemoveFromParent() if same else updated_node

    def leave_Attribute(self, original_node: cst.Attribute, updated_node: cst.Attribute) -> cst.BaseExpression:
        name = original_node.attr.value
        if name in self._names and _is_module(original_node.value):
            self.renamed.add(name)
            return updated_node.with_changes(attr=cst.Name(self._names[name]))
        found = self._edit_at(original_node, name) if name == "data" else None  # an attribute that cuts the tape
        if found is None:
            return updated_node
        self.done.add(found)
        return updated_node.value


def _called(call: cst.Call) -> str:
    if isinstance(call.func, cst.Attribute):
        return str(call.func.attr.value)
    return str(call.func.value) if isinstance(call.func, cst.Name) else ""


def _is_module(node: cst.BaseExpression) -> bool:
    while isinstance(node, cst.Attribute):
        node = node.value
    return isinstance(node, cst.Name) and node.value in _MODULES


def _edit(edit: SourceEdit, call: cst.Call) -> cst.BaseExpression:
    """The call as it is to be."""
    method = isinstance(call.func, cst.Attribute) and not _is_module(call.func.value)
    if method:
        assert isinstance(call.func, cst.Attribute)
        argument: cst.BaseExpression = call.func.value
    elif call.args:
        argument = call.args[0].value
    else:
        raise NoPatchError(f"{edit.function} is called without an argument")
    module = cst.Module([])
    x, whole = module.code_for_node(argument), module.code_for_node(call)
    if edit.edit is Edit.CALL:
        return cst.parse_expression(edit.text.replace("{x}", x).replace("{call}", whole))
    if edit.edit is Edit.FIRST_TWO:
        return _first_two(edit, call)
    if edit.edit is Edit.ARGUMENT:
        new = cst.parse_expression(edit.text.replace("{x}", x))
        if method:
            assert isinstance(call.func, cst.Attribute)
            wrapped = new.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
            return call.with_changes(func=call.func.with_changes(value=wrapped))
        return call.with_changes(args=[call.args[0].with_changes(value=new), *call.args[1:]])
    function = cst.parse_expression(edit.text)
    if method:
        return cst.Call(function, [cst.Arg(argument), *call.args])
    if "softmax" in edit.function:  # its dim means nothing to what takes its place
        return call.with_changes(func=function, args=[call.args[0].with_changes(comma=cst.MaybeSentinel.DEFAULT)])
    return call.with_changes(func=function)


def _first_two(edit: SourceEdit, call: cst.Call) -> cst.Call:
    if len(call.args) < 2 or any(arg.keyword is not None or arg.star for arg in call.args[:2]):
        raise NoPatchError(f"the first two arguments of {edit.function} are not written out in their places")
    texts = [edit.text.replace("{x}", _code(arg.value)) for arg in call.args[:2]]
    new = [arg.with_changes(value=cst.parse_expression(text)) for arg, text in zip(call.args, texts, strict=False)]
    return call.with_changes(args=[*new, *call.args[2:]])


# -------------------------------------------------------------------------------------------- in front of the return


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
    used = [name for name in PARTS if name in text and name in parts]
    if "model" in text and "model" not in parts:
        raise NoPatchError("what the factory returns does not show which part is the model")
    assigned = [f"{name} = {_code(parts[name])}" for name in used if _code(parts[name]) != name]
    value = _Named({_code(parts[name]): name for name in used})
    new_return = returned.with_changes(value=returned.value.visit(value))
    first = ["import torch"] if "torch." in text and not knows_torch else []
    inserted = cst.parse_module("\n".join([*first, *assigned, *lines]) + "\n").body
    statement = last.with_changes(body=[*last.body[:-1], new_return])
    return function.with_changes(body=body.with_changes(body=[*body.body[:-1], *inserted, statement]))


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


def _code(node: cst.BaseExpression) -> str:
    return str(cst.Module([]).code_for_node(node))


class _Named(cst.CSTTransformer):  # type: ignore[misc]
    """Expressions that were given a name are that name."""

    def __init__(self, names: dict[str, str]) -> None:
        super().__init__()
        self._names = names

    def on_leave(self, original_node: cst.CSTNode, updated_node: Any) -> Any:
        updated_node = super().on_leave(original_node, updated_node)
        if isinstance(updated_node, cst.BaseExpression):
            name = self._names.get(_code(original_node))
            if name is not None and not (isinstance(updated_node, cst.Name) and updated_node.value == name):
                return cst.Name(name)
        return updated_node


# ------------------------------------------------------------------------------------------------- behind a statement


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
        renamed = tree.visit(_Called({"model": self._model or "model", "optimizer": _code(target)}))
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
