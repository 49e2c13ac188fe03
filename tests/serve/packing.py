"""Small models to serve, beside those of `model.zoo`."""

from __future__ import annotations

from pathlib import Path

from streamrt.format import write
from streamrt.graph import TYPES, Graph, Node, TensorSpec


def _spec(name: str, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, ("batch", 2), dtype)


def two(folder: Path) -> Path:
    """``two``: inputs a and b, outputs sum and difference, all (batch, 2)."""
    nodes = (Node("add", "Add", ("a", "b"), ("sum",)), Node("sub", "Sub", ("a", "b"), ("difference",)))
    graph = Graph((_spec("a"), _spec("b")), (_spec("sum"), _spec("difference")), nodes)
    write(folder / "two.safetensors", graph, [])
    return folder / "two.safetensors"


def kinds(folder: Path) -> Path:
    """``kinds``: x (batch, 2); positive of float32, above of bool, and best, (batch,), of int64."""
    nodes = (
        Node("relu", "Relu", ("x",), ("positive",)),
        Node("greater", "Greater", ("x", "positive"), ("above",)),
        Node("arg", "ArgMax", ("x",), ("best",), {"axis": 1, "keepdims": 0}),
    )
    outputs = (_spec("positive"), _spec("above", "bool"), TensorSpec("best", ("batch",), "int64"))
    write(folder / "kinds.safetensors", Graph((_spec("x"),), outputs, nodes), [])
    return folder / "kinds.safetensors"


def types(folder: Path) -> Path:
    """``types``: an input of each type, by its name, (batch, 2); each is an output, named with ``_out``."""
    specs = [_spec(dtype, dtype) for dtype in TYPES]
    nodes = tuple(Node(f"copy_{s.name}", "Transpose", (s.name,), (f"{s.name}_out",), {"perm": (0, 1)}) for s in specs)
    outputs = tuple(_spec(f"{dtype}_out", dtype) for dtype in TYPES)
    write(folder / "types.safetensors", Graph(tuple(specs), outputs, nodes), [])
    return folder / "types.safetensors"
