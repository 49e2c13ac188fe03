"""A draft: a graph that is being converted. Its nodes can change, and its weights are not in memory yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from streamrt.convert import limits
from streamrt.convert.weights import Weight
from streamrt.graph import Activation, Attr, Graph, Node, TensorSpec

#: In a weights file, tensors whose names begin with this are padding.
_RESERVED_PREFIX = "streamrt.pad."
#: The only key in the header of a weights file that is not a tensor's name.
_RESERVED = "__metadata__"
#: The most characters of a name in a graph.
_MAX_NAME = 1024


@dataclass(eq=False, slots=True)
class DraftNode:
    """A `streamrt.graph.Node` that can change; compared by identity."""

    name: str
    op: str
    inputs: list[str]
    outputs: list[str]
    attrs: dict[str, Attr] = field(default_factory=dict)
    activation: Activation | None = None
    sizes: dict[str, str] = field(default_factory=dict)

    @property
    def reads(self) -> Iterator[str]:
        """The names of all tensors that the node reads, or whose values are its attributes."""
        yield from (name for name in self.inputs if name)
        yield from self.sizes.values()

    def frozen(self) -> Node:
        """The node as a graph holds it, which cannot change."""
        return Node(
            self.name,
            self.op,
            tuple(self.inputs),
            tuple(self.outputs),
            dict(self.attrs),
            self.activation,
            dict(self.sizes),
        )


@dataclass(slots=True)
class Draft:
    """A case of a graph: nodes in execution order and the weights that they read, by name.

    Size nodes are apart, because no pass runs them: they read shapes of tensors, and no values.

    Attributes:
        inputs: the inputs of the graph.
        outputs: the outputs of the graph.
        nodes: the nodes that a pass runs.
        params: the weights.
        size_nodes: the size nodes, in an order in which each follows those that it reads.
        dims: extents of tensors that hold for all sizes, by name. An extent that is not known is None.
    """

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    nodes: list[DraftNode] = field(default_factory=list)
    params: dict[str, Weight] = field(default_factory=dict)
    size_nodes: list[DraftNode] = field(default_factory=list)
    dims: dict[str, tuple[int | str | None, ...]] = field(default_factory=dict)

    def readers(self) -> Counter[str]:
        """How often the values of each tensor are read. Being an output of the graph counts as one more reading."""
        count = Counter(name for node in self.nodes for name in node.reads)
        count.update(spec.name for spec in self.outputs)
        return count

    def producers(self) -> dict[str, DraftNode]:
        """The node that computes each tensor in a pass."""
        return {name: node for node in self.nodes for name in node.outputs}

    def measured(self) -> set[str]:
        """The tensors whose shape is read."""
        return {name for node in self.size_nodes for name in node.inputs}

    def replace_measured(self, old: str, new: str) -> None:
        """Let size nodes that read the shape of ``old`` read that of ``new``, which is the same."""
        for node in self.size_nodes:
            node.inputs = [new if name == old else name for name in node.inputs]

    def ordered(self) -> list[DraftNode]:
        """All nodes in execution order: each size node stands behind the nodes whose results it measures."""
        ready = {name: index + 1 for index, node in enumerate(self.nodes) for name in node.outputs}
        places: list[list[DraftNode]] = [[] for _ in range(len(self.nodes) + 1)]
        checked = 0  # the place of the last condition: size nodes behind it may fail in other cases
        for node in self.size_nodes:
            place = max((ready.get(name, 0) for name in node.inputs), default=0)
            if node.op == "If":
                checked = max(checked, place)
            place = max(checked, place)
            ready.update((name, place) for name in node.outputs)
            places[place].append(node)
        rest = [[node, *after] for node, after in zip(self.nodes, places[1:], strict=True)]
        return [*places[0], *(node for group in rest for node in group)]

    def prune(self) -> None:
        """Drop nodes that neither an output nor a condition depends on, and weights that no node reads."""
        wanted = {spec.name for spec in self.outputs}
        kept = set[int]()
        for node in reversed(self.ordered()):
            if wanted.intersection(node.outputs) or not node.outputs:
                kept.add(id(node))
                wanted.update(node.reads)
        self.nodes = [node for node in self.nodes if id(node) in kept]
        self.size_nodes = [node for node in self.size_nodes if id(node) in kept]
        self.params = {name: weight for name, weight in self.params.items() if name in wanted}

    def new_param(self, name: str, weight: Weight) -> str:
        """Add a weight, and return its name: ``name``, or a similar name if that is taken."""
        name = unique(name, self.taken())
        self.params[name] = weight
        return name

    def taken(self) -> set[str]:
        """The names of all tensors and sizes."""
        sizes = {name for node in self.size_nodes for name in node.outputs}
        return self.params.keys() | self.producers().keys() | {spec.name for spec in self.inputs} | sizes

    def graph(self) -> Graph:
        """The finished graph."""
        return Graph(tuple(self.inputs), tuple(self.outputs), tuple(node.frozen() for node in self.ordered()))


def may_differ(*tensors: tuple[int | str | None, ...]) -> bool:
    """Whether tensors with these extents (`Draft.dims`) have an axis that is a number in one, or has two names."""
    return any(len({dim for dim in dims if dim is not None}) > 1 for dims in zip(*tensors, strict=False))


def keeps_shape(x: tuple[int | str | None, ...], y: tuple[int | str | None, ...]) -> bool:
    """Whether two tensors of as many elements, with these extents (`Draft.dims`), have one shape for all sizes."""
    if len(x) != len(y) or may_differ(x, y):
        return False
    unknown = [after for before, after in zip(x, y, strict=True) if before is None or after is None]
    # One extent follows from the others. A number there would be a condition on x.
    return len(unknown) < 2 and all(extent is None for extent in unknown)


def unique(name: str, taken: Iterable[str]) -> str:
    """``name``, or the first of ``name.1``, ``name.2`` ... that is not taken."""
    if name not in taken:
        return name
    number = 1
    while f"{name}.{number}" in taken:
        number += 1
    return f"{name}.{number}"


def legalise_names(cases: Sequence[Draft]) -> None:
    """Replace the names of tensors and nodes that a weights file cannot hold, alike in all cases of a graph."""
    ordered = [node for draft in cases for node in draft.ordered()]
    names = [spec.name for draft in cases for spec in draft.inputs]
    names += [name for draft in cases for name in draft.params]
    names += [name for node in ordered for name in node.outputs]
    new = _legal(names) | {"": ""}
    for draft in cases:
        draft.inputs = [replace(spec, name=new[spec.name]) for spec in draft.inputs]
        draft.outputs = [replace(spec, name=new[spec.name]) for spec in draft.outputs]
        draft.params = {new[name]: weight for name, weight in draft.params.items()}
    nodes = _legal([node.name for node in ordered])
    for node in ordered:
        node.name = nodes[node.name]
        node.inputs = [new[name] for name in node.inputs]
        node.sizes = {attr: new[name] for attr, name in node.sizes.items()}
        node.outputs = [new[name] for name in node.outputs]


def _legal(names: list[str]) -> dict[str, str]:
    taken = set(names)
    new = {}
    for name in names:
        limits.current().check_time()
        short = name[: _MAX_NAME // 2] if len(name) > _MAX_NAME else name
        if short == _RESERVED or short.startswith(_RESERVED_PREFIX):
            short = f"_{short}"
        if short != name:
            short = unique(short, taken)
            taken.add(short)
        new[name] = short
    return new
