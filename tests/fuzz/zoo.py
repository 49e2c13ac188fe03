"""Makes small random valid graphs with parameters. All operators of a weights file occur."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from streamrt.errors import FormatError
from streamrt.graph import Activation, Node
from streamrt.ops import Operand, Shape, lower, supported
from streamrt.ops.epilogue import ACTIVATIONS

OPERATORS = sorted(supported())
#: Samples for which shapes are computed.
BATCH = 2
_BINARY = ("Add", "Sub", "Mul", "Div", "Pow", "PRelu", "And", "Or", "Xor", "Equal", "Greater", "GreaterOrEqual")
_BINARY += ("Less", "LessOrEqual")
_POOLS = ("MaxPool", "AveragePool", "LpPool")
#: Operators to choose from. Those that fit few tensors, or have much code, are there more often.
_CHOICE = [*OPERATORS, *(("Conv", "Gemm", "MatMul", *_POOLS, "DepthToSpace", "SpaceToDepth", "GRU", "LSTM") * 5)]
_CHOICE += ["BatchNormalization"]
#: Errors of reading a recipe whose graph is wrong.
NO_GRAPH = (FormatError, AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)
_WEIGHTED = ("Conv", "Gemm", "MatMul", "MatMul")
#: Values of a weight that is cut into several tiles: 512 KiB, and a tile has at least 64 KiB.
_LARGE_WEIGHT = 1 << 17
#: The share of recipes that have weights of several tiles.
_HEAVY = 0.15
_MOST_WEIGHTS = 2 * _LARGE_WEIGHT  # of all parameters
_MOST_VALUES = 1 << 14  # of a tensor


@dataclass
class Recipe:
    """A model before it becomes a file: its graph as JSON, and the shapes of its parameters by name."""

    graph: dict[str, Any]
    params: dict[str, Any] = field(default_factory=dict)


class _Growing:
    """A recipe to which fitting nodes are added."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.shapes: dict[str, Shape] = {}
        self.params: dict[str, Shape] = {}
        self.inputs: list[dict[str, Any]] = []
        self.nodes: list[dict[str, Any]] = []
        self.heavy = rng.random() < _HEAVY
        for _ in range(rng.choice([1, 1, 1, 2])):
            self.add_input()

    def add_input(self) -> str:
        rng, name = self.rng, f"x{len(self.inputs)}"
        wide = rng.choice([7, 32, 100]) if self.heavy else 7
        shape: Shape = (BATCH, *(rng.randint(1, wide) for _ in range(rng.choice([0, 1, 1, 2, 3, 3, 3, 4]))))
        if size(shape) > _MOST_VALUES:
            shape = tuple(min(extent, 7) for extent in shape)
        dims: list[int | str] = ["N", *shape[1:]]
        if len(dims) == 4 and rng.random() < 0.2:
            dims[2:] = ["H", "W"]
        if rng.random() < 0.1:
            dims[0] = BATCH
        self.inputs.append({"name": name, "dims": dims})
        self.shapes[name] = shape
        return name

    def param(self, *shape: int) -> str:
        name = f"p{len(self.params)}"
        self.params[name] = shape
        return name

    def rows(self, inner: int, step: int = 1) -> int:
        """The rows of a weight, a multiple of ``step``: few, or enough for several tiles."""
        most = min(_MOST_VALUES // 4, _LARGE_WEIGHT // inner) if self.heavy else 12
        return step * self.rng.randint(1, max(1, most // step))

    def like(self, shape: Shape, share: float = 0.5) -> str:
        """A tensor that broadcasts with ``shape``: a new parameter, or an existing tensor."""
        same = [name for name, found in self.shapes.items() if found == shape]
        if same and self.rng.random() >= share:
            return self.rng.choice(same)
        extents = [self.rng.choice([1, extent, extent]) for extent in shape[self.rng.randint(0, len(shape)) :]]
        if len(extents) == len(shape) and extents:
            extents[0] = 1
        return self.param(*extents)

    def add(self, op: str, source: str) -> bool:
        """Add a node that reads ``source``; returns whether it fits."""
        before = dict(self.params)
        inputs, attrs, count = _node(self, op, source, self.shapes[source])
        names = [f"t{len(self.shapes)}_{i}" for i in range(count)]
        data: dict[str, Any] = {"name": f"n{len(self.nodes)}", "op": op, "inputs": inputs, "outputs": names}
        if attrs:
            data["attrs"] = {key: list(v) if isinstance(v, tuple) else v for key, v in attrs.items()}
        activation = None
        if count == 1 and self.rng.random() < 0.2:
            activation = Activation(self.rng.choice(ACTIVATIONS))
            data["activation"] = {"op": activation.op}
        node = Node(data["name"], op, tuple(inputs), tuple(names), attrs, activation)
        operands = _operands(inputs, self.shapes, self.params)
        try:
            lowered = lower(node, operands)
            if max(map(size, lowered.outputs)) > _MOST_VALUES or sum(map(size, self.params.values())) > _MOST_WEIGHTS:
                raise FormatError("too large for a quick pass")
        except FormatError:
            self.params = before
            return False
        self.nodes.append(data)
        self.shapes.update(zip(names, lowered.outputs, strict=True))
        return True

    def recipe(self) -> Recipe:
        computed = [name for node in self.nodes for name in node["outputs"]]
        read = {name for node in self.nodes for name in node["inputs"]}
        last = [name for name in computed if name not in read] or computed[-1:]
        if self.rng.random() < 0.2:
            last.append(self.rng.choice(computed))
        outputs = [{"name": name, "dims": self._dims(name)} for name in dict.fromkeys(last)]
        if self.rng.random() < 0.1:
            outputs[0]["dtype"] = self.rng.choice(["int64", "bool"])
        inputs = [spec for spec in self.inputs if spec["name"] in read] or self.inputs[:1]
        return Recipe({"inputs": inputs, "outputs": outputs, "nodes": self.nodes}, self.params)

    def _dims(self, name: str) -> list[Any]:
        shape = self.shapes[name]
        return ["N" if shape[:1] == (BATCH,) and i == 0 else extent for i, extent in enumerate(shape)]


def _operands(names: list[str], shapes: dict[str, Shape], params: dict[str, Shape]) -> list[Operand | None]:
    known = {name: Operand(shape) for name, shape in shapes.items()}
    known |= {name: Operand(shape, is_param=True) for name, shape in params.items()}
    return [known[name] if name else None for name in names]


def size(shape: Shape) -> int:
    values = 1
    for extent in shape:
        values *= extent
    return values


def grow(rng: random.Random) -> Recipe:
    """Make a recipe of one to five nodes."""
    growing = _Growing(rng)
    wanted = rng.choice([1, 2, 3, 3, 4, 5])
    for _ in range(40):
        source = rng.choice(list(growing.shapes)[-3:])
        growing.add(rng.choice(_WEIGHTED if growing.heavy and rng.random() < 0.7 else _CHOICE), source)
        if len(growing.nodes) >= wanted:
            break
    if not growing.nodes:
        growing.add("Relu", growing.inputs[0]["name"])
    return growing.recipe()


def settle(rng: random.Random, recipe: Recipe) -> None:
    """Declare the extents of outputs: as names, or some as the numbers computed. Raises any of `NO_GRAPH`."""
    shapes: dict[str, Shape] = {}
    for spec in recipe.graph["inputs"]:
        free = {dim: BATCH if dim == "N" else 6 for dim in spec["dims"] if isinstance(dim, str)}
        shapes[spec["name"]] = tuple(free.get(dim, dim) for dim in spec["dims"])
    for data in recipe.graph["nodes"]:
        inputs, outputs, attrs = data["inputs"], data["outputs"], data.get("attrs", {})
        attrs = {key: tuple(v) if isinstance(v, list) else v for key, v in attrs.items()}
        node = Node(data["name"], data["op"], tuple(inputs), tuple(outputs), attrs)
        operands = _operands(inputs, shapes, recipe.params)
        shapes.update(zip(outputs, lower(node, operands).outputs, strict=True))
    numbers = rng.random() < 0.2
    for spec in recipe.graph["outputs"]:
        shape = shapes[spec["name"]]
        spec["dims"] = [e if numbers and e != BATCH else f"{spec['name']}.{i}" for i, e in enumerate(shape)]


def _node(growing: _Growing, op: str, source: str, x: Shape) -> tuple[list[str], dict[str, Any], int]:
    """Inputs, attributes and number of outputs of an operator that probably fits ``source`` of shape ``x``."""
    rng, rank, param = growing.rng, len(x), growing.param
    axis = rng.randint(-rank, rank - 1) if rank else 0
    last = x[-1] if x else 1
    channels = x[1] if rank > 1 else 1

    def ints(count: int, low: int, high: int) -> tuple[int, ...]:
        return tuple(rng.randint(low, high) for _ in range(count))

    attrs: dict[str, Any] = {}
    if op == "Conv" or op in _POOLS:
        spatial = max(rank - 2, 0)
        kernel = ints(spatial, 1, 3)
        if rng.random() < 0.7:
            attrs["pads"] = ints(2 * spatial, 0, 2)
        if rng.random() < 0.5:
            attrs["strides"] = ints(spatial, 1, 3)
        if rng.random() < 0.3:
            attrs["dilations"] = ints(spatial, 1, 2)
        if rng.random() < 0.2:
            attrs["auto_pad"] = rng.choice(["SAME_UPPER", "SAME_LOWER", "VALID"])
        if op != "Conv":
            return [source], attrs | {"kernel_shape": kernel, "ceil_mode": rng.randint(0, 1)}, 1
        group = rng.choice([d for d in range(1, 8) if channels % d == 0])
        rows = growing.rows(channels // group * 9, group)
        bias = [param(rows)] if rng.random() < 0.7 else []
        if rng.random() < 0.3:
            kernel = (3,) * spatial
        return [source, param(rows, channels // group, *kernel), *bias], attrs | {"group": group}, 1
    match op:
        case "Gemm":
            rows = growing.rows(last)
            return [source, param(rows, last), *([param(rows)] if rng.random() < 0.7 else [])], attrs, 1
        case "MatMul" if rng.random() < 0.5:
            rows = growing.rows(last)
            return [source, param(rows, last), *([param(rows)] if rng.random() < 0.7 else [])], {"transB": 1}, 1
        case "MatMul":
            return [source, param(last, rng.randint(1, 8))], attrs, 1
        case "BatchNormalization":
            return [source, *(param(channels) for _ in range(4))], attrs, 1
        case "InstanceNormalization":
            return [source, param(channels), param(channels)], attrs, 1
        case "LayerNormalization":
            shape = x[axis:] if rank else ()
            return [source, param(*shape), *([param(*shape)] if rng.random() < 0.5 else [])], {"axis": axis}, 1
        case "Sum" | "Max" | "Min":
            return [source, *(growing.like(x) for _ in range(rng.randint(0, 2)))], attrs, 1
        case "Where":
            return [growing.like(x), source, growing.like(x)], attrs, 1
        case "ArgMax" | "ArgMin":
            return [source], {"axis": axis, "keepdims": rng.randint(0, 1)}, 1
        case "Gather":
            low, high = (-x[axis], x[axis] - 1) if rank else (0, 0)
            return [source], {"axis": axis, "indices": ints(rng.randint(1, 3), low, high)}, 1
        case "Expand":
            return [source], {"shape": (1, *(e if e > 1 else rng.choice([1, 3]) for e in x[1:]))}, 1
        case "Resize":
            attrs = {"mode": rng.choice(["linear", "nearest"])}
            if rng.random() < 0.5:
                return [source], attrs | {"sizes": (0, 0, *ints(max(rank - 2, 0), 1, 9))[:rank]}, 1
            scales = [float(rng.choice([1.0, 0.5, 1.5, 2.0])) for _ in x[2:]]
            return [source], attrs | {"scales": (1.0, 1.0, *scales)[:rank]}, 1
        case "DepthToSpace" | "SpaceToDepth":
            return [source], {"blocksize": ints(max(rank - 2, 0), 1, 2)}, 1
        case "Concat":
            others = [name for name, shape in growing.shapes.items() if shape == x]
            return [source, *rng.choices(others, k=rng.randint(0, 2))], {"axis": axis}, 1
        case "Softmax" | "LogSoftmax":
            return [source], {"axis": axis, "coerce": rng.randint(0, 1)}, 1
        case "Flatten":
            return [source], {"axis": rng.choice([1, 1, axis])}, 1
        case "LRN":
            return [source], {"size": rng.randint(1, 5)}, 1
        case "Reshape":
            return [source], {"shape": rng.choice([(-1,), (0, -1), (0, last, -1), (0, 1, *x[1:])])}, 1
        case "Transpose":
            perm = list(range(rank))
            rng.shuffle(perm)
            return [source], {"perm": tuple(perm)}, 1
        case "Squeeze":
            return [source], {"axes": tuple(i for i in range(1, rank) if x[i] == 1) or (0,)}, 1
        case "Unsqueeze":
            return [source], {"axes": (rng.randint(1, rank) if rank else 0,)}, 1
        case "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin":
            return [source], {"axes": (axis,), "keepdims": rng.randint(0, 1)}, 1
        case "Split":
            extent = x[axis] if rank else 1
            first = rng.randint(1, extent)
            split = (first, extent - first) if first < extent else (extent,)
            return [source], {"axis": axis, "split": split}, len(split)
        case "Slice":
            return (
                [source],
                {"starts": ints(1, -3, 2), "ends": ints(1, 2, 9), "axes": (axis,), "steps": ints(1, 1, 2)},
                1,
            )
        case "GRU" | "LSTM" | "RNN":
            hidden = max(1, last // {"GRU": 3, "LSTM": 4, "RNN": 1}[op])
            attrs = {"layout": rng.randint(0, 1), "direction": rng.choice(["forward", "reverse"])}
            if op == "GRU":
                attrs["linear_before_reset"] = rng.randint(0, 1)
            bias = [param(last)] if rng.random() < 0.5 else []
            return [source, param(last, hidden), *bias], attrs, rng.randint(1, 3 if op == "LSTM" else 2)
        case "Pad":
            pads = [rng.randint(0, 2) if i % rank else 0 for i in range(2 * rank)] if rank else []
            return [source], {"pads": tuple(pads), "mode": rng.choice(["constant", "edge", "reflect", "wrap"])}, 1
    if op in _BINARY:
        return [source, growing.like(x)], attrs, 1
    return [source], attrs, 1
