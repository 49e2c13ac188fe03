"""`compare`: how much the answers of two models differ, and in which layers the difference arises."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamrt.engine.face import Face
from streamrt.engine.inputs import Feed, check_inputs
from streamrt.errors import InputError, WeightsIOError, printable
from streamrt.format import Tensor, values
from streamrt.graph import Graph, Node

#: The most tensors that are asked for in one call: each is held until the call ends.
_TOGETHER = 8
#: Bytes of a weight that are read at once.
_PIECE = 4 << 20
#: The layers that the text of a comparison shows.
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Difference:
    """How much one output differs between two models.

    Attributes:
        name: of the output.
        rms: root of the mean square of the differences, relative to that of the first model's values.
        largest: the largest difference, relative to the largest magnitude of the first model's values.
        same_class: share of the samples whose largest value is at the same index. None unless the output is
            (samples, classes) with two classes or more.
    """

    name: str
    rms: float
    largest: float
    same_class: float | None


@dataclass(frozen=True, slots=True)
class LayerLoss:
    """A layer whose weights the two models store in different ways.

    Attributes:
        name: of the node.
        dtypes: how the first and the second model store its largest weight that differs.
        weights: relative RMS of the differences of this weight. With inputs that do not differ, the output would differ
            by about as much.
        rms: relative RMS of the differences of its output, which has the errors of earlier layers, too.
    """

    name: str
    dtypes: tuple[str, str]
    weights: float
    rms: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The differences between two models for some inputs.

    Attributes:
        outputs: in the order of the first model's outputs.
        layers: whose weights are stored in different ways, those whose weights lose most first.
    """

    outputs: tuple[Difference, ...]
    layers: tuple[LayerLoss, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON object with all of the above."""
        return asdict(self)

    def __str__(self) -> str:
        lines = []
        for output in self.outputs:
            same = "" if output.same_class is None else f", {output.same_class:.1%} of the samples have the same class"
            numbers = f"relative RMS {output.rms:.2g}, largest difference {output.largest:.2g}"
            lines.append(f"{printable(output.name)}: {numbers}{same}")
        for layer in self.layers[:_SHOWN]:
            before, after = layer.dtypes
            numbers = f"relative RMS of the weights {layer.weights:.2g}, of the output {layer.rms:.2g}"
            lines.append(f"  {printable(layer.name)} ({before} to {after}): {numbers}")
        if len(self.layers) > _SHOWN:
            lines.append(f"  and {len(self.layers) - _SHOWN} more layers, whose weights lose less")
        return "\n".join(lines)


def compare(first: Face, second: Face, inputs: Feed) -> Comparison:
    """Compare the answers of two models with the same graph, such as one model with weights of different types.

    Tensors inside the graphs are asked for, eight at a time. Both models need memory for them within their budgets.

    Args:
        first: the model that is right: a `Model` or a lease of a pool.
        second: the model that is compared with it.
        inputs: as for a call. More samples make the numbers surer.

    Raises:
        InputError: the models differ in the names of their nodes, inputs or outputs; or an input does not fit.
        BudgetError: a budget has no room for the tensors.
    """
    graph, other = first._engine.file.graph, second._engine.file.graph
    if _outline(graph) != _outline(other):
        raise InputError("the two models have different graphs: expected the same nodes, inputs and outputs")
    case = _case(first, inputs)
    nodes = graph.cases[case].nodes
    changed = _changed(first, nodes, second, other.cases[case].nodes)
    ends = [spec.name for spec in graph.outputs]
    wanted = dict.fromkeys([*ends, *(node.outputs[0] for node in nodes if node.name in changed)])
    outputs, rms = [], {}
    for name, one, two in _values(first, second, inputs, list(wanted)):
        found = _difference(name, one, two)
        rms[name] = found.rms
        if name in ends:
            outputs.append(found)
    layers = []
    for node in nodes:
        if node.name in changed:
            before, after = changed[node.name]
            loss = _loss(first._engine.file.path, before, second._engine.file.path, after)
            layers.append(LayerLoss(node.name, (before.dtype, after.dtype), loss, rms[node.outputs[0]]))
    layers.sort(key=lambda layer: -layer.weights)
    return Comparison(tuple(outputs), tuple(layers))


def _outline(graph: Graph) -> object:
    """The parts of a graph in which two models agree that can be compared."""
    cases = [[(node.name, node.op, node.outputs) for node in case.nodes] for case in graph.cases]
    return graph.inputs, [spec.name for spec in graph.outputs], cases


def _case(model: Face, inputs: Feed) -> int:
    """The index of the case of the graph that runs for these inputs."""
    graph, planner = model._engine.file.graph, model._engine.planner
    arrays = check_inputs(inputs, graph.inputs, graph.inputs)
    with model._engine.hold():
        program = planner.prepare(graph, {name: array.shape for name, array in arrays.items()}).program
    return graph.cases.index(program.graph)


def _changed(
    first: Face, nodes: Sequence[Node], second: Face, others: Sequence[Node]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Those of the ``nodes`` that read a weight whose coding differs, with the largest such weight in both models."""
    one, two = first._engine.file, second._engine.file
    changed = {}
    for node, other in zip(nodes, others, strict=True):
        pairs = [
            (one.tensors[a], two.tensors[b])
            for a, b in zip(node.inputs, other.inputs, strict=False)
            if a in one.tensors and b in two.tensors and one.tensors[a].coding != two.tensors[b].coding
        ]
        if pairs:
            changed[node.name] = max(pairs, key=lambda pair: pair[0].nbytes)
    return changed


def _loss(path: str, tensor: Tensor, other_path: str, other: Tensor) -> float:
    """The relative RMS of the differences of a weight between two files, a piece at a time."""
    gap = size = 0.0
    for one, two in _pairs(_elements(path, tensor), _elements(other_path, other)):
        exact = one.astype(np.float64)
        gap += float(np.sum((two - exact) ** 2))
        size += float(np.sum(exact**2))
    return _relative(math.sqrt(gap), math.sqrt(size))


def _elements(path: str, tensor: Tensor) -> Iterator[NDArray[np.float32]]:
    def pieces() -> Iterator[memoryview]:
        with Path(path).open("rb") as file:
            file.seek(tensor.offset)
            left = tensor.nbytes
            while left:
                piece = file.read(min(left, _PIECE))
                if not piece:
                    raise WeightsIOError(f"{path}: the file ends within the tensor {tensor.name!r:.80}")
                left -= len(piece)
                yield memoryview(piece)

    return values(tensor.coding, tensor.shape, pieces())


def _pairs(
    first: Iterator[NDArray[np.float32]], second: Iterator[NDArray[np.float32]]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Two sequences of the same elements, which are cut in different places, as pairs of arrays of equal length."""
    one = two = np.empty(0, np.float32)
    while True:
        one = one if one.size else next(first, one)
        two = two if two.size else next(second, two)
        both = min(one.size, two.size)
        if not both:
            return
        yield one[:both], two[:both]
        one, two = one[both:], two[both:]


def _values(
    first: Face, second: Face, inputs: Feed, names: Sequence[str]
) -> Iterator[tuple[str, NDArray[Any], NDArray[Any]]]:
    """The values of tensors in both models."""
    for begin in range(0, len(names), _TOGETHER):
        some = names[begin : begin + _TOGETHER]
        one, two = (_by_name(model(inputs, some), some) for model in (first, second))
        yield from ((name, one[name], two[name]) for name in some)


def _by_name(result: Any, names: Iterable[str]) -> Mapping[str, NDArray[Any]]:
    return result if isinstance(result, dict) else dict.fromkeys(names, result)


def _difference(name: str, one: NDArray[Any], two: NDArray[Any]) -> Difference:
    exact, found = one.astype(np.float64), two.astype(np.float64)
    gap = np.abs(found - exact)
    size, most = math.sqrt(float(np.mean(exact**2))), float(np.abs(exact).max())
    same = None
    if exact.ndim == 2 and exact.shape[1] >= 2:
        same = float((exact.argmax(axis=1) == found.argmax(axis=1)).mean())
    return Difference(name, _relative(math.sqrt(float(np.mean(gap**2))), size), _relative(float(gap.max()), most), same)


def _relative(part: float, whole: float) -> float:
    """``part / whole``; without a difference 0, even if all values are 0."""
    return 0.0 if part == 0 else part / whole if whole else math.inf
