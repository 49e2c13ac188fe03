"""The layers of a model as streamrt packed it, and the ONNX nodes that each of them computes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.models import Source

if TYPE_CHECKING:
    from onnx import NodeProto

    from streamrt.format import WeightsFile
    from streamrt.graph import Node
    from streamrt.program.compile import Program

#: ONNX operators that are products. A fused node counts for the product in it.
_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def layers(source: Source, packed: Path, batch: int) -> list[dict[str, Any]]:
    """Every layer in the order of execution.

    A layer has its name, its operator, and the shape of its first output. ``multiply_adds`` are half of the operations
    that the planner counts, and ``bytes`` are its weights, inputs and outputs. ``names`` are as `onnx_names` returns
    them.
    """
    import onnx

    from streamrt.engine.programs import Programs
    from streamrt.format import read_header

    file = read_header(packed)
    program = Programs(file).compile(file.graph, {spec.name: (batch, *source.shape) for spec in file.graph.inputs})
    nodes = program.nodes  # without those of sizes, and Casts that need no node
    named = onnx_names(nodes, onnx.load(source.onnx, load_external_data=False).graph.node)
    return [
        {
            "name": node.name,
            "op": f"{node.op} + {node.activation.op}" if node.activation else node.op,
            "shape": lowered.outputs[0],
            "multiply_adds": lowered.flops / 2,
            # A view moves nothing: its output is its input.
            "bytes": 0 if lowered.view_of is not None else _bytes(node, program, file),
            "names": names,
        }
        for node, lowered, names in zip(nodes, program.lowered, named, strict=True)
    ]


def _bytes(node: Node, program: Program, file: WeightsFile) -> int:
    names = {name for name in (*node.inputs, *node.outputs) if name}
    return sum(
        file.tensors[name].nbytes if name in file.tensors else 4 * math.prod(program.shapes[name]) for name in names
    )


def onnx_names(nodes: Sequence[Node], onnx_nodes: Iterable[NodeProto]) -> list[dict[str, bool]]:
    """For each of ``nodes``, the ONNX nodes that it computes and their outputs, by name: whether it is a product.

    A node keeps the names of its inputs and outputs, and whatever lies between them is fused into it. An ONNX node
    counts for the first node that computes it.
    """
    onnx_nodes = list(onnx_nodes)
    producers = {tensor: index for index, node in enumerate(onnx_nodes) for tensor in node.output}
    by_name = {node.name: index for index, node in enumerate(onnx_nodes) if node.name}
    taken: set[int] = set()
    found = []
    for node in nodes:
        names: dict[str, bool] = {}
        inputs = set(node.inputs)
        # Its own name helps where folding has given the outputs new names.
        todo = [index for index in (*map(producers.get, node.outputs), by_name.get(node.name)) if index is not None]
        while todo:
            index = todo.pop()
            if index in taken:
                continue
            taken.add(index)
            one = onnx_nodes[index]
            names |= dict.fromkeys((one.name, *one.output), one.op_type in _PRODUCTS)
            todo += [producers[tensor] for tensor in one.input if tensor in producers and tensor not in inputs]
        names.pop("", None)
        found.append(names)
    return found
