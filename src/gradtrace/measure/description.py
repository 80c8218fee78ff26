"""Before the backward pass: what each op of the tape is, whose it is, and what the tape saved of its activation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gradtrace.measure.alike import read_alike
from gradtrace.records.trace import Site
from gradtrace.records.vocabulary import Factor
from gradtrace.tape.factors import assign, operand_parameters
from gradtrace.tape.gathered import class_of
from gradtrace.tape.holders import Holders
from gradtrace.tape.kinds import LEAF, base_name
from gradtrace.tape.private import input_metadata, node_sequence_nr
from gradtrace.tape.source import defined_at

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.autograd.graph import Node

    from gradtrace.measure.seen import Seen
    from gradtrace.measure.session import Forward
    from gradtrace.tape.graph import Edge, Graph
    from gradtrace.tape.recorder import Call


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What is known of one node without its gradient."""

    name: str
    factor: Factor
    site: Site
    sequence: int
    function: str
    weights: tuple[str, ...]
    parameter: str | None
    seen: Seen | None


@dataclass(frozen=True, slots=True)
class Description:
    """What is known of every node of the loss's tape, and names of the leaves that are not the model's own."""

    infos: dict[Node, NodeInfo]
    strangers: dict[int, str | None]
    """Leaf op -> the attribute of the model that holds it unregistered, or None: it is no part of the model."""
    unreadable: tuple[str, ...]
    made: dict[int, str]
    """Leaf op -> the line that made it within the forward pass."""


def read_saved(forward: Forward) -> None:
    """Read a' of the activations whose call was hidden from the recorder off the tape's saved values."""
    nodes = forward.graph.nodes
    forward.places = forward.recorder.sites([node_sequence_nr(node) for node in nodes])
    hidden = [
        node
        for node, (_, call) in zip(nodes, forward.places, strict=True)
        if call is None or not (call.packed or (call.observed is not None and call.observed.activation is not None))
    ]
    try:
        forward.saved.update(read_alike(hidden, forward.observer.deferred))
    except Exception as error:  # one by one, then
        forward.recorder.faults.append(f"reading saved values: {type(error).__name__}: {error}")
    for node in hidden:
        if node in forward.saved:
            continue
        try:
            seen = forward.observer.read_node(node)
        except Exception as error:  # released, packed or of a shape we do not expect: it is named as unreadable
            forward.recorder.faults.append(f"{node.name()}: {type(error).__name__}: {error}")
            continue
        if seen is not None:
            forward.saved[node] = seen


def describe(forward: Forward, model: nn.Module) -> Description:
    """Name, factor, site, weights and activation of every node."""
    graph = forward.graph
    nodes = graph.nodes
    names = [node.name() for node in nodes]
    numbers = [node_sequence_nr(node) for node in nodes]
    places = forward.places or forward.recorder.sites(numbers)
    whole = forward.recorder.gathered.tensors
    registered = {id(parameter): name for name, parameter in [*model.named_parameters(), *whole.items()]}
    parameters: dict[int, str] = {}
    strangers: dict[int, str | None] = {}
    made: dict[int, str] = {}
    for index, leaf in graph.leaves().items():
        if id(leaf) in registered:
            parameters[index] = registered[id(leaf)]
            if forward.recorder.made.replaces_another(leaf):
                made[index] = forward.recorder.made.line_of(leaf) or "?"
        else:
            strangers[index] = find_unregistered(model, leaf)
            if strangers[index] is None and (name := forward.recorder.made.name_of(leaf)) and _differs(leaf):
                strangers[index], made[index] = name, forward.recorder.made.line_of(leaf) or "?"
    leaves = parameters | {i: name for i, name in strangers.items() if name}
    leaves |= {i: _NAMELESS for i, leaf in graph.leaves().items() if i not in leaves and _is_weight(leaf, forward)}
    operands = operand_parameters(graph, names, leaves)
    weights = [tuple(name for name in found if name != _NAMELESS) for found in operands]
    holders = Holders(model)
    sites = [_leaf_site(*holders.of(parameters[i])) if i in parameters else place[0] for i, place in enumerate(places)]
    sites = [site if site.source else replace(site, source=defined_at(nodes[i])) for i, site in enumerate(sites)]
    functions = [call.name if call is not None else "" for _, call in places]
    seen = _observations(forward, nodes, numbers, [call for _, call in places])
    factors = assign(graph, names, sites, functions, operands, [_is_scalar(node) for node in nodes])
    for index, (_, call) in enumerate(places):
        activation = getattr(getattr(call, "observed", None), "activation", None)
        if activation and activation[0].elementwise and factors[index] is not Factor.LOSS:
            factors[index] = Factor.ACTIVATION  # all the ops that a composite activation consists of
    infos = {
        node: NodeInfo(names[i], factors[i], sites[i], numbers[i], functions[i], weights[i], parameters.get(i), seen[i])
        for i, node in enumerate(nodes)
    }
    unreadable = [
        str(sites[i]) for i, name in enumerate(names)
        if factors[i] is Factor.ACTIVATION and seen[i] is None and base_name(name) in _READ
    ]  # fmt: skip
    return Description(infos, strangers, tuple(dict.fromkeys(unreadable)), made)


_NAMELESS = "\0"
"""Stands for a trained tensor that is no part of the model, as of a second network that another optimizer holds."""

_READ = set(
    "Sigmoid Tanh Relu LeakyRelu Elu Gelu Silu Mish Hardsigmoid Hardswish Hardtanh Softplus Softmax Glu".split()
)


def _is_weight(leaf: Tensor, forward: Forward) -> bool:
    """Of a leaf that the model does not know: or else it is an input that a gradient was asked for."""
    from torch import nn

    return isinstance(leaf, nn.Parameter) or forward.batch_size not in leaf.shape[:1]


def _differs(leaf: Tensor) -> bool:
    """Whether its entries differ: a norm's weights of one and biases of zero are the same whenever they are made."""
    values = leaf.detach().flatten()
    return values.numel() > 1 and bool((values != values[0]).any())


def _observations(
    forward: Forward, nodes: tuple[Node, ...], numbers: list[int], calls: list[Call | None]
) -> list[Seen | None]:
    """Each call's measurement goes to the last op that it recorded; what the tape saved, to its own node."""
    last: dict[int, int] = {}
    for index, call in enumerate(calls):
        if call is not None and (id(call) not in last or numbers[index] > numbers[last[id(call)]]):
            last[id(call)] = index
    found: list[Seen | None] = [forward.saved.get(node) for node in nodes]
    for index, call in enumerate(calls):
        if call is not None and last[id(call)] == index and call.observed is not None:
            if found[index] is not None and call.observed.activation is None:
                call.observed.activation = found[index].activation  # type: ignore[union-attr]
                call.observed.heads = found[index].heads  # type: ignore[union-attr]
            found[index] = call.observed
    return found


def _is_scalar(node: Node) -> bool:
    try:
        metadata = input_metadata(node)
        return metadata is not None and len(metadata) == 1 and math.prod(metadata[0].shape) == 1
    except (AttributeError, RuntimeError):
        return False


def _leaf_site(path: str, module: nn.Module) -> Site:
    return Site(path, class_of(module).__name__)


def find_unregistered(model: nn.Module, leaf: Tensor) -> str | None:
    """Name of the plain attribute (a list or dict of modules or tensors) of the model that holds `leaf`, if any."""
    from torch import nn

    def inside(value: object, name: str, depth: int) -> str | None:
        if value is leaf:
            return name
        if isinstance(value, nn.Module):
            return next((f"{name}.{key}" for key, parameter in value.named_parameters() if parameter is leaf), None)
        if depth and isinstance(value, dict | list | tuple):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            return next((found for key, item in items if (found := inside(item, f"{name}.{key}", depth - 1))), None)
        return None

    for path, module in model.named_modules():
        for key, value in vars(module).items():
            if key in ("_parameters", "_buffers", "_modules"):
                continue
            found = inside(value, f"{path}.{key}" if path else key, 3)
            if found is not None:
                return found
    return None


def frontier(graph: Graph, tape: Description) -> list[Edge]:
    """The network's outputs: gradients that the loss hands to the first ops that are not the loss's own."""
    factors = [tape.infos[node].factor for node in graph.nodes]
    if factors[0] is not Factor.LOSS:
        return [(0, 0)]
    return [
        target
        for target, edges in graph.arrivals.items()
        if factors[target[0]] is not Factor.LOSS
        and graph.nodes[target[0]].name() != LEAF
        and any(factors[source] is Factor.LOSS for source, _ in edges)
    ]
