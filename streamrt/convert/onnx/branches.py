"""``If`` nodes whose condition extents decide: the nodes of the branch that is taken replace the node.

Exporters write them where a model asks for an extent, for example before they remove an axis of length 1. If the
extent is free, both ways are tried: each makes a case of the graph, which begins with a node that checks the condition.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper

from streamrt.convert.draft import unique
from streamrt.convert.onnx.facts import Facts, describe
from streamrt.convert.weights import Weight
from streamrt.errors import FormatError

#: The domain of nodes that check a condition. No operator of a model with this domain is supported.
_CHECKS = "streamrt.checks"


def is_if(node: NodeProto) -> bool:
    """Whether a node is an ``If`` of ONNX."""
    return node.op_type == "If" and node.domain in ("", "ai.onnx")


class Way:
    """One way through the conditions that free extents decide, in the order in which they are met.

    Args:
        begin: how the first conditions go. The others are true.
    """

    def __init__(self, begin: Sequence[bool] = ()) -> None:
        self._begin = begin
        self._taken: dict[int, bool] = {}  # by the condition's number in `Alike`

    def meets(self, condition: int) -> bool:
        """Whether a condition was met already."""
        return condition in self._taken

    def take(self, condition: int) -> bool:
        """How a condition goes."""
        met = len(self._taken)
        return self._taken.setdefault(condition, self._begin[met] if met < len(self._begin) else True)

    def next(self) -> Way | None:
        """The way after this one, once all conditions were met: the last one that is true goes the other way."""
        ways = list(self._taken.values())
        while ways and not ways[-1]:
            ways.pop()
        return Way([*ways[:-1], False]) if ways else None


def check_of(condition: str, value: bool) -> NodeProto:
    """A node that checks that a condition goes one way."""
    name = f"{condition} is {value}"
    return helper.make_node("If", [condition], [], name=name, domain=_CHECKS, value=int(value))


def is_check(node: NodeProto) -> bool:
    """Whether a node is one that `check_of` made."""
    return node.domain == _CHECKS and node.op_type == "If"


def taken_branch(
    node: NodeProto,
    condition: bool,
    facts: Facts,
    defined: Collection[str],
    names: Collection[str],
    weight: Callable[[TensorProto], Weight],
) -> list[NodeProto]:
    """The nodes that replace an ``If``. Its constants are added to ``facts``.

    Args:
        node: the node.
        condition: how its condition goes.
        facts: the facts about the tensors that it reads.
        defined: the tensors that are computed before it.
        names: of all tensors, with which names inside the branch must not collide.
        weight: reads a constant.

    Raises:
        FormatError: a malformed branch.
    """
    branch = _branch(node, "then_branch" if condition else "else_branch")
    new = dict[str, str]()
    for name in _defined(branch):
        if not name or name in new:
            raise FormatError(f"{describe(node)}: a branch defines {name!r:.80} twice")
        new[name] = unique(f"{node.output[0]}.{name}", {*names, *facts.constants, *new.values()})
    for tensor in branch.initializer:
        facts.constants[new[tensor.name]] = weight(tensor)
    nodes = [_renamed(inner, new) for inner in branch.node]
    for outer, result in zip(node.output, branch.output, strict=True):
        nodes.append(helper.make_node("Identity", [new.get(result.name, result.name)], [outer]))
    known = {*defined, *facts.constants}
    for inner in nodes:
        if missing := [name for name in inner.input if name and name not in known]:
            raise FormatError(f"{describe(node)}: a branch reads {missing[0]!r:.80}, which nothing has computed before")
        known.update(inner.output)
    return nodes


def _branch(node: NodeProto, name: str) -> GraphProto:
    found: list[GraphProto] = [a.g for a in node.attribute if a.name == name and a.type == AttributeProto.GRAPH]
    if len(found) != 1 or len(found[0].output) != len(node.output) or not node.output:
        raise FormatError(f"{describe(node)}: expected one {name} with {len(node.output)} outputs, at least one")
    if found[0].input or found[0].sparse_initializer:
        raise FormatError(f"{describe(node)}: its {name} has inputs or sparse tensors, expected neither")
    return found[0]


def _defined(graph: GraphProto) -> Iterator[str]:
    """The names that a graph defines, each as often as it does."""
    yield from (tensor.name for tensor in graph.initializer)
    yield from (name for node in graph.node for name in node.output if name)


def _renamed(node: NodeProto, new: Mapping[str, str]) -> NodeProto:
    """A copy of a node with other names of tensors, also in the graphs that it has as attributes."""
    copy = NodeProto()
    copy.CopyFrom(node)
    _rename([copy], new)
    return copy


def _rename(nodes: Iterable[NodeProto], new: Mapping[str, str]) -> None:
    pending = list(nodes)
    while pending:
        node = pending.pop()
        for field in (node.input, node.output):
            field[:] = [new.get(name, name) for name in field]
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                pending += graph.node
                for result in graph.output:
                    result.name = new.get(result.name, result.name)
