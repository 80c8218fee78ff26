"""Edits of a syntax tree that keeps every blank and comment: one call, one name.

The tree is libcst's; nothing here knows of torch or of changes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import libcst as cst
from libcst import matchers as m
from libcst.metadata import MetadataWrapper, PositionProvider

from gradtrace.records.change import Edit, SourceEdit
from gradtrace.repair.no_patch import NoPatchError

_MODULES = {"torch", "F", "nn", "np", "math", "functional"}
"""Names that are modules: what hangs on them is a function, and no method of a tensor."""
_OPERATORS: dict[type[cst.BaseBinaryOp], str] = {cst.MatrixMultiply: "matmul", cst.Add: "add", cst.Subtract: "sub",
                                                cst.Divide: "div", cst.Power: "pow"}  # fmt: skip
"""What torch calls them."""

_AS_MODULES = {"mse_loss": "MSELoss", "l1_loss": "L1Loss", "smooth_l1_loss": "SmoothL1Loss",
               "huber_loss": "HuberLoss", "binary_cross_entropy": "BCELoss",
               "binary_cross_entropy_with_logits": "BCEWithLogitsLoss", "nll_loss": "NLLLoss",
               "cross_entropy": "CrossEntropyLoss", "kl_div": "KLDivLoss", "ctc_loss": "CTCLoss",
               "soft_margin_loss": "SoftMarginLoss", "poisson_nll_loss": "PoissonNLLLoss",
               "softmax": "Softmax", "log_softmax": "LogSoftmax"}  # fmt: skip
"""Losses and what stands before them, as classes of ``torch.nn`` that take and return the same."""


def edit_calls(tree: cst.Module, at_lines: Sequence[tuple[int, SourceEdit]], names: dict[str, str]) -> cst.Module:
    """Every edit at its line, and every name (old -> new) wherever a module is asked for it; raises `NoPatchError`."""
    editor = _Editor(at_lines, names)
    edited = MetadataWrapper(tree).visit(editor)
    for line, edit in at_lines:
        if (line, edit) not in editor.done:
            edited = _made_once(edited, line, edit)
            if edited is None:
                before = "minus before a" if edit.edit is Edit.UNSIGNED else ""
                raise NoPatchError(f"no {before} call of {edit.function} was found at line {line}".replace("  ", " "))
    if names and not editor.renamed >= set(names):
        raise NoPatchError(f"the file does not name {', '.join(sorted(set(names) - editor.renamed))}")
    return edited


def _made_once(tree: cst.Module, line: int, edit: SourceEdit) -> cst.Module | None:
    """Of a loss that the file makes once, and calls by another name: its class renamed, or that call edited."""
    old, new = (_AS_MODULES.get(name.rpartition(".")[2], "") for name in (edit.function, edit.text))
    made = [call for call in m.findall(tree, m.Call()) if isinstance(call, cst.Call) and _called(call) == old]
    if not old or len(made) != 1:
        return None
    if edit.edit is not Edit.RENAME:
        kept = [one for one in m.findall(tree, m.Assign()) if isinstance(one, cst.Assign) and one.value is made[0]]
        names = [code_of(target.target).rpartition(".")[2] for one in kept for target in one.targets]
        editor = _Editor([(line, replace(edit, function=name)) for name in names[:1]], {}, hangs_on_modules=True)
        edited = MetadataWrapper(tree, unsafe_skip_copy=True).visit(editor)
        return edited if editor.done else None
    if not new or any(arg.keyword is None or arg.keyword.value != "reduction" for arg in made[0].args):
        return None  # what else it takes, the other does not know
    editor = _Editor([], {old: new})
    edited = MetadataWrapper(tree).visit(editor)
    return edited if editor.renamed else None


class _Editor(cst.CSTTransformer):  # type: ignore[misc]
    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(
        self, at_lines: Sequence[tuple[int, SourceEdit]], names: dict[str, str], *, hangs_on_modules: bool = False
    ) -> None:
        super().__init__()
        self._at_lines, self._names = at_lines, names
        self._hangs_on_modules = hangs_on_modules
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
        if found is None or found[1].edit in (Edit.UNWRAP, Edit.UNSIGNED):
            return updated_node
        self.done.add(found)
        return _edit(found[1], updated_node, hangs_on_modules=self._hangs_on_modules)

    def leave_UnaryOperation(
        self, original_node: cst.UnaryOperation, updated_node: cst.UnaryOperation
    ) -> cst.BaseExpression:
        """The minus before a call, or before what is made of it by methods."""
        call: cst.BaseExpression = original_node.expression
        while isinstance(call, cst.Call) and not self._edit_at(call, _called(call)):
            call = call.func.value if isinstance(call.func, cst.Attribute) else call.func
        found = self._edit_at(call, _called(call)) if isinstance(call, cst.Call) else None
        if found is None or found[1].edit is not Edit.UNSIGNED or not isinstance(original_node.operator, cst.Minus):
            return updated_node
        self.done.add(found)
        return updated_node.expression

    def leave_BinaryOperation(
        self, original_node: cst.BinaryOperation, updated_node: cst.BinaryOperation
    ) -> cst.BaseExpression:
        name = _OPERATORS.get(type(original_node.operator), "")
        found = self._edit_at(original_node, name) if name else None
        operands = _operands(updated_node)
        if isinstance(original_node.operator, cst.Power) and isinstance(original_node.right, cst.Integer):
            return updated_node  # no root
        if found in self.done and isinstance(original_node.operator, cst.Divide):
            raise NoPatchError(f"there are several divisions at line {found[0]}")  # by numbers, perhaps
        if found is None or not operands or found[1].edit not in (Edit.CALL, Edit.ARGUMENT, Edit.LAST):
            return updated_node
        self.done.add(found)
        new = cst.parse_expression(_filled(found[1].text, updated_node, operands))
        if found[1].edit is Edit.CALL:
            return new
        return updated_node.with_changes(**{"left" if found[1].edit is Edit.ARGUMENT else "right": new})

    def leave_With(self, original_node: cst.With, updated_node: cst.With) -> Any:
        """Of a single block alone: what else it enters is not looked at."""
        call = original_node.items[0].item if len(original_node.items) == 1 else None
        found = self._edit_at(call, _called(call)) if isinstance(call, cst.Call) else None
        if found is None or found[1].edit is not Edit.UNWRAP:
            return updated_node
        self.done.add(found)
        first, *others = updated_node.body.body
        if hasattr(first, "leading_lines"):
            first = first.with_changes(leading_lines=[*updated_node.leading_lines, *first.leading_lines])
        return cst.FlattenSentinel([first, *others])

    def leave_Assign(self, original_node: cst.Assign, updated_node: cst.Assign) -> Any:
        """``h = h`` is left out, where an edit has made it so."""
        value = code_of(updated_node.value)
        same = value != code_of(original_node.value) and {code_of(one.target) for one in updated_node.targets} == {
            value
        }
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


def _edit(edit: SourceEdit, call: cst.Call, *, hangs_on_modules: bool = False) -> cst.BaseExpression:
    """The call as it is to be."""
    if edit.edit is Edit.SECOND:
        return _second(edit, call)
    method = isinstance(call.func, cst.Attribute) and not hangs_on_modules and not _is_module(call.func.value)
    if method:
        assert isinstance(call.func, cst.Attribute)
        argument: cst.BaseExpression = call.func.value
    elif call.args:
        argument = call.args[0].value
    else:
        raise NoPatchError(f"{edit.function} is called without an argument")
    if edit.edit in (Edit.CALL, Edit.LAST):
        behind = call.args if method else call.args[1:]
        return _called_with(edit, call, [argument, *(arg.value for arg in behind)], behind)
    if edit.edit is Edit.FIRST_TWO:
        return _first_two(edit, call)
    if edit.edit is Edit.ARGUMENT:
        new = cst.parse_expression(_filled(edit.text, call, [argument]))
        if method:
            assert isinstance(call.func, cst.Attribute)
            if not _is_whole(new):
                new = new.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
            return call.with_changes(func=call.func.with_changes(value=new))
        return call.with_changes(args=[call.args[0].with_changes(value=new), *call.args[1:]])
    function = cst.parse_expression(edit.text)
    if method:
        return cst.Call(function, [cst.Arg(argument), *call.args])
    if "softmax" in edit.function:  # its dim means nothing to what takes its place
        return call.with_changes(func=function, args=[call.args[0].with_changes(comma=cst.MaybeSentinel.DEFAULT)])
    return call.with_changes(func=function)


def _called_with(
    edit: SourceEdit, call: cst.Call, operands: Sequence[cst.BaseExpression], behind: Sequence[cst.Arg]
) -> cst.BaseExpression:
    """The whole call, or its last argument, as the text has it."""
    if re.search(r"\{\d\}", edit.text) and any(arg.keyword is not None or arg.star for arg in behind):
        raise NoPatchError(f"the arguments of {edit.function} are not written out in their places")
    rest = "".join(f", {code_of(arg.with_changes(comma=cst.MaybeSentinel.DEFAULT))}" for arg in behind)
    new = cst.parse_expression(_filled(edit.text, call, operands, rest))
    if edit.edit is Edit.CALL:
        return new
    return call.with_changes(args=[*call.args[:-1], call.args[-1].with_changes(value=new)])


def _filled(text: str, whole: cst.BaseExpression, operands: Sequence[cst.BaseExpression], rest: str = "") -> str:
    known = {"x": code_of(operands[0]), "rest": rest, "call": code_of(whole)}
    known |= {str(place): code_of(operand) for place, operand in enumerate(operands)}
    whole_ones = {str(place) for place, operand in enumerate(operands) if _is_whole(operand)}
    missing = set(re.findall(r"\{(\w+)\}", text)).difference(known)
    if missing:
        raise NoPatchError(f"{code_of(whole)} has no {', '.join(f'{{{name}}}' for name in sorted(missing))}")
    for name in whole_ones | ({"x"} if "0" in whole_ones else set()):
        text = re.sub(rf"(?<!\w)\(\{{{name}\}}\)", f"{{{name}}}", text)
    return re.sub(r"\{(\w+)\}", lambda match: known[match[1]], text)


def _is_whole(node: cst.BaseExpression) -> bool:
    """What a method may hang on as it is written."""
    return isinstance(node, cst.Name | cst.Attribute | cst.Call | cst.Subscript) or bool(node.lpar)


def _operands(node: cst.BinaryOperation) -> list[cst.BaseExpression]:
    """Left and right; of a sum the number last, and none where neither is one."""
    if not isinstance(node.operator, cst.Add):
        return [node.left, node.right]
    numbers = [one for one in (node.left, node.right) if isinstance(one, cst.Float | cst.Integer)]
    return [node.right if numbers[0] is node.left else node.left, numbers[0]] if numbers else []


def _second(edit: SourceEdit, call: cst.Call) -> cst.Call:
    """Of a function: by its place or as ``target``."""
    places = [i for i, arg in enumerate(call.args) if (arg.keyword.value == "target" if arg.keyword else i == 1)]
    if not places or any(arg.star for arg in call.args):
        raise NoPatchError(f"the second argument of {edit.function} is not written out in its place")
    old = call.args[places[0]]
    first = old if places[0] == 0 else call.args[0]
    new = cst.parse_expression(_filled(edit.text, call, [first.value, old.value]))
    return call.with_changes(args=[arg.with_changes(value=new) if arg is old else arg for arg in call.args])


def _first_two(edit: SourceEdit, call: cst.Call) -> cst.Call:
    if len(call.args) < 2 or any(arg.keyword is not None or arg.star for arg in call.args[:2]):
        raise NoPatchError(f"the first two arguments of {edit.function} are not written out in their places")
    texts = [_filled(edit.text, call, [arg.value]) for arg in call.args[:2]]
    new = [arg.with_changes(value=cst.parse_expression(text)) for arg, text in zip(call.args, texts, strict=False)]
    return call.with_changes(args=[*new, *call.args[2:]])


def code_of(node: cst.CSTNode) -> str:
    """As it is written."""
    return str(cst.Module([]).code_for_node(node))
