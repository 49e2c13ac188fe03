"""Output of ``streamrt inspect``: the layers of a model, and how much of each a budget keeps in memory."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from streamrt.cli.between import Held, held_between
from streamrt.errors import InputError, printable
from streamrt.format import Tensor, WeightsFile, read_header
from streamrt.graph import TensorSpec
from streamrt.host.budget import format_size
from streamrt.model import Model
from streamrt.ops import Shape
from streamrt.plan import Bands, Plan, Range, Tile
from streamrt.program.compile import Program
from streamrt.report.table import facts, shorten, table

#: Lengths of names that are tried, the longest first, until the table fits into the terminal.
_LENGTHS = (64, 48, 40, 32, 28, 24, 20, 17, 14, 12, 10, 8)
#: The columns that are left where the table fits with none of these lengths: without "pinned" and "tiles".
_FEWER = (0, 1, 2, 3, 5)
#: The length of all parameters of a layer, in names: two names with their shapes.
_CELL = 4
#: Columns of the names of facts.
_FACT_NAMES = len("smallest budget") + 2


@dataclass(frozen=True, slots=True)
class Parameter:
    """A tensor of the weights file. Its ``dtype`` is "F32", "F16", "BF16", "I64", "int8" or "int4"."""

    name: str
    shape: Shape
    dtype: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """A node of the graph, and how many bytes of its weights the plan keeps in memory.

    Attributes:
        name: of the node.
        op: its operator.
        activation: the activation that is fused into the node, or None.
        parameters: the weights that the node reads.
        pinned: bytes of the weights that stay in memory.
        streamed: bytes of the weights that every pass reads, each time that the node reads them.
        tiles: number of pieces in which the node runs.
        again: whether an earlier section runs the same node.
    """

    name: str
    op: str
    activation: str | None
    parameters: tuple[Parameter, ...]
    pinned: int
    streamed: int
    tiles: int
    again: bool


@dataclass(frozen=True, slots=True)
class Inspection:
    """A weights file, its layers, and its plan for one shape of inputs and one budget; sizes in bytes.

    Attributes:
        path: of the file.
        size: of the file.
        weights: bytes of parameters of all cases, each counted once.
        inputs: specification of every input.
        outputs: specification of every output, of the case that runs.
        case: the case that runs with these shapes, counted from 1, and the number of cases.
        shapes: shapes of the inputs for which the plan was made.
        min_budget: the smallest budget for inputs of these shapes.
        layers: in the order of execution.
        plan: for the budget of the caller.
        held: the whole tensors that are in memory while a section runs, where they take most.
    """

    path: str
    size: int
    weights: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    case: tuple[int, int]
    shapes: Mapping[str, Shape]
    min_budget: int
    layers: tuple[LayerInfo, ...]
    plan: Plan
    held: Held

    def to_json(self) -> dict[str, Any]:
        """A JSON object of everything except the tiles and ranges of the plan."""
        plan = self.plan
        return {
            "path": self.path,
            "size": self.size,
            "weights": self.weights,
            "inputs": [{"name": spec.name, "dims": list(spec.dims), "dtype": spec.dtype} for spec in self.inputs],
            "outputs": [{"name": spec.name, "dims": list(spec.dims), "dtype": spec.dtype} for spec in self.outputs],
            "case": list(self.case),
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "min_budget": self.min_budget,
            "plan": {
                "budget": plan.budget,
                "pinned": plan.pinned_bytes,
                "window": plan.window,
                "workspace": plan.workspace,
                "streamed_per_pass": plan.streamed_bytes,
                "micro_batch": plan.micro_batch,
                "granule": plan.granule,
                "bands": [asdict(bands) for bands in plan.bands],
                "held_between": self.held.nbytes,
            },
            "layers": [asdict(layer) for layer in self.layers],
        }

    def to_text(self, width: int | None = None) -> str:
        """A table of the layers, and facts; in ``width`` columns where that is possible.

        Names that are too long are shortened in the middle: no more than necessary, and all columns alike. Without a
        width nothing is shortened.
        """
        plan = self.plan
        batch = f"micro-batches of {plan.micro_batch}" if plan.micro_batch else "the whole batch at once"
        picture = drawn(plan, 64 if width is None else max(16, min(64, width - _FACT_NAMES)))
        rows = [
            ("file", f"{self.path} ({format_size(self.size)})"),
            ("weights", f"{format_size(self.weights)} in {self._counts()}"),
            *([("case", f"{self.case[0]} of {self.case[1]}, to which the layers belong")] if self.case[1] > 1 else []),
            ("inputs", "; ".join(_spec(spec) for spec in self.inputs)),
            ("outputs", "; ".join(_spec(spec) for spec in self.outputs)),
            ("planned for", "; ".join(f"{name} {_extents(shape)}" for name, shape in self.shapes.items())),
            ("budget", "none" if plan.budget is None else f"{format_size(plan.budget)} ({plan.budget} bytes)"),
            ("smallest budget", f"{format_size(self.min_budget)} ({self.min_budget} bytes)"),
            ("holds", f"{format_size(plan.total)}: {format_size(plan.pinned_bytes)} pinned, {format_size(plan.window)} "
                      f"window, {format_size(plan.workspace)} workspace"),
            ("reads per pass", format_size(plan.streamed_bytes)),
            ("from end to end", f"{picture} (# pinned, . streamed, + both)"),
            ("runs", batch),
            *(("in bands", self._band_text(bands)) for bands in plan.bands),
            *([("held between", f"sections: {self.held}")] if self.held.tensors else []),
        ]  # fmt: skip
        return "\n".join([*_layer_lines(self.layers, width), "", *facts(rows, width)])

    def _counts(self) -> str:
        """The number of layers, and of those that run again."""
        again = sum(layer.again for layer in self.layers)
        return f"{len(self.layers) - again} layers" + (f", {again} of which run again" if again else "")

    def _band_text(self, bands: Bands) -> str:
        """The layers that run together in bands of rows, and the part of the workspace that they have."""
        names = [printable(self.layers[index].name) for index in (bands.first, bands.last - 1)]
        strips = f" in each of {bands.strips} strips of columns" if bands.strips > 1 else ""
        return f"{names[0]} to {names[1]}: {bands.count} bands{strips}, {format_size(bands.nbytes)} of rows and scratch"

    def __str__(self) -> str:
        return self.to_text()


def inspect_model(
    path: str | os.PathLike[str],
    budget: int | str | float | None = None,
    batch: int = 1,
    shapes: Mapping[str, Shape] | None = None,
) -> Inspection:
    """Read the header of a weights file and plan a pass; no weight is read.

    Args:
        path: a weights file.
        budget: as for `streamrt.Model`.
        batch: the first extent of every input that leaves it free.
        shapes: whole shapes of inputs by name; needed for inputs that leave another extent free.

    Raises:
        FormatError: the file is not a weights file, or its graph cannot run with these shapes.
        WeightsIOError: the file cannot be read.
        InputError: a shape does not fit, or is missing.
        BudgetError: the budget is too small.
    """
    file = read_header(path)
    with Model(path, budget=budget) as model:
        chosen = shapes_of(model.inputs, batch, shapes or {})
        plan = model.plan_for(chosen)
        graph = model._engine.file.graph
        program = model._engine.planner.prepare(graph, chosen).program
        return Inspection(
            path=os.fspath(path),
            size=file.size,
            weights=sum(tensor.nbytes for tensor in file.tensors.values()),
            inputs=model.inputs,
            outputs=program.graph.outputs,
            case=(graph.cases.index(program.graph) + 1, len(graph.cases)),
            shapes=chosen,
            min_budget=model.min_budget(chosen),
            layers=_layers(file, program, plan),
            plan=plan,
            held=held_between(program),
        )


def drawn(plan: Plan, width: int = 64) -> str:
    """``width`` characters for equal shares of the weights, in the order of execution: # pinned, . streamed, + both."""
    total = sum(r.length for r in plan.ranges)
    pinned = [0.0] * width
    begin = 0
    for r in plan.ranges:
        first, last = begin * width / total, (begin + r.length) * width / total
        for cell in range(int(first), min(width, math.ceil(last))):
            pinned[cell] += r.pinned * (min(last, cell + 1) - max(first, cell))
        begin += r.length
    return "".join("#" if share > 0.75 else "." if share < 0.25 else "+" for share in pinned) if total else ""


def shapes_of(specs: Sequence[TensorSpec], batch: int, given: Mapping[str, Shape]) -> dict[str, Shape]:
    """The shape of each input: a given one, or the input's own with ``batch`` as its first extent if that is free.

    Raises:
        InputError: ``given`` names no input, or not one that has further free extents.
    """
    if unknown := given.keys() - {spec.name for spec in specs}:
        raise InputError(f"no input is named {sorted(unknown)}; the model has {', '.join(map(_spec, specs))}")
    chosen = {}
    for spec in specs:
        if spec.name in given:
            chosen[spec.name] = given[spec.name]
        elif any(isinstance(dim, str) for dim in spec.dims[1:]):
            raise InputError(f"input {_spec(spec)} has free extents besides the batch: pass its whole shape (--shape)")
        else:
            chosen[spec.name] = tuple(batch if isinstance(dim, str) else dim for dim in spec.dims)
    return chosen


def _layers(file: WeightsFile, program: Program, plan: Plan) -> tuple[LayerInfo, ...]:
    tiles: list[list[Tile]] = [[] for _ in program.nodes]
    numbers = program.ways[program.again].sources if program.ways else range(len(program.nodes))
    for tile in plan.tiles:
        tiles[plan.node_of(tile)].append(tile)
    layers = []
    done: set[int] = set()
    for node, number, own in zip(program.nodes, numbers, tiles, strict=True):
        tensors = {name: file.tensors[name] for name in node.inputs if name in file.tensors}.values()
        ranges = [plan.ranges[index] for index in {index for tile in own for index in range(tile.begin, tile.end)}]
        # A pinned range is in memory once. A streamed range is read as often as the node reads it, in each round.
        pinned = {r for r in ranges if r.pinned}
        streamed = [r for r in ranges if not r.pinned]
        layers.append(
            LayerInfo(
                name=node.name,
                op=node.op,
                activation=node.activation.op if node.activation else None,
                parameters=tuple(
                    Parameter(tensor.name, tensor.shape, tensor.dtype, tensor.nbytes) for tensor in tensors
                ),
                pinned=sum(_overlap(tensor, r) for tensor in tensors for r in pinned),
                streamed=plan.rounds * sum(_overlap(tensor, r) for tensor in tensors for r in streamed),
                tiles=plan.rounds * len(own),
                again=number in done,
            )
        )
        done.add(number)
    return tuple(layers)


def _overlap(tensor: Tensor, piece: Range) -> int:
    """Bytes of ``tensor`` in a range of the plan; different ranges of a node do not overlap each other."""
    first = max(tensor.offset, piece.offset)
    return max(0, min(tensor.offset + tensor.nbytes, piece.offset + piece.length) - first)


def _layer_lines(layers: Sequence[LayerInfo], width: int | None) -> list[str]:
    """The table of the layers. Names are shortened to the largest of a few lengths with which it fits."""
    titles = ("layer", "operator", "parameters", "size", "pinned", "streamed", "tiles")
    lines = table([titles, *(_row(layer, None) for layer in layers)], right=(3, 4, 5, 6))
    for columns in (range(len(titles)), _FEWER):
        for longest in _LENGTHS:
            if width is None or max(map(len, lines)) <= width:
                return lines
            rows = [titles, *(_row(layer, longest) for layer in layers)]
            lines = table([[row[index] for index in columns] for row in rows], right=range(3, len(columns)))
    return lines


def _row(layer: LayerInfo, longest: int | None) -> tuple[str, ...]:
    def name(text: str) -> str:
        return text if longest is None else shorten(printable(text), longest)

    op = f"{name(layer.op)} + {name(layer.activation)}" if layer.activation else name(layer.op)
    parameters = ", ".join(f"{name(p.name)} {_stored(p)}" for p in layer.parameters)
    if longest is not None:
        parameters = shorten(parameters, longest * _CELL)
    sizes = (sum(p.nbytes for p in layer.parameters), layer.pinned, layer.streamed)
    return (name(layer.name), op, parameters, *(format_size(size) if size else "" for size in sizes), str(layer.tiles))


def _stored(p: Parameter) -> str:
    return ("x".join(map(str, p.shape)) or "scalar") + ("" if p.dtype == "F32" else f" {p.dtype}")


def _spec(spec: TensorSpec) -> str:
    return f"{spec.name} {_extents(spec.dims)}" + ("" if spec.dtype == "float32" else f" {spec.dtype}")


def _extents(dims: Sequence[int | str]) -> str:
    return f"({', '.join(map(str, dims))})"
