"""Small ONNX models, packed and run, against the reference implementation of the `onnx` package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import streamrt
from streamrt.format import read_header
from streamrt.graph import Graph, Node
from streamrt.ops.sizes import is_size_node

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

NEWEST = onnx.defs.onnx_opset_version()
OPSETS = range(7, NEWEST + 1)

Array = NDArray[Any]
Dims = Sequence[int | str | None]


def random(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def integers(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def make_model(
    nodes: Sequence[Any],
    constants: Mapping[str, Array] | None = None,
    *,
    inputs: Mapping[str, Dims] | None = None,
    outputs: Sequence[str] = ("y",),
    opset: int = NEWEST,
    types: Mapping[str, str] | None = None,
) -> Any:
    """A model with inputs (default: ``x`` of shape (2, 3, 8, 8)) of ``types``, float32 if it does not name them.

    Constants are initializers.
    """
    inputs = {"x": (2, 3, 8, 8)} if inputs is None else inputs
    graph = helper.make_graph(
        list(nodes),
        "test",
        [
            helper.make_tensor_value_info(name, _elements((types or {}).get(name, "float32")), dims)
            for name, dims in inputs.items()
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def _elements(dtype: str) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def expected(model: Any, feeds: Mapping[str, Array]) -> list[Array]:
    if model.opset_import[0].version < 9:
        # Opset 9 has the same operators and attributes. The reference cannot run an older BatchNormalization.
        model = onnx.ModelProto.FromString(model.SerializeToString())
        model.opset_import[0].version = 9
    return [np.asarray(value) for value in ReferenceEvaluator(model).run(None, dict(feeds))]


def run_packed(path: Path, feeds: Mapping[str, Array]) -> list[Array]:
    """All outputs of a weights file, in order."""
    with streamrt.Model(path, budget=None) as model:
        result = model(dict(feeds))
        return [result[spec.name] for spec in model.outputs] if len(model.outputs) > 1 else [result]


def check(
    model: Any,
    folder: Path,
    feeds: Mapping[str, Array] | None = None,
    tolerance: float = 1e-5,
    same_as: Any = None,
) -> Graph:
    """Pack and run ``model``, and compare with the reference for it or for ``same_as``; returns the packed graph."""
    if feeds is None:
        feeds = {
            value.name: random(*(dim.dim_value or 3 for dim in value.type.tensor_type.shape.dim), seed=index + 1)
            for index, value in enumerate(model.graph.input)
        }
    path = streamrt.pack(model, folder / "model.safetensors")
    for found, wanted in zip(run_packed(path, feeds), expected(same_as or model, feeds), strict=True):
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance * max(1.0, np.abs(wanted).max()))
    return read_header(path).graph


def ops(graph: Graph) -> list[str]:
    """The operators that a pass runs, in order, a fused activation after a plus sign."""
    return [node.op + (f"+{node.activation.op}" if node.activation else "") for node in run_nodes(graph)]


def run_nodes(graph: Graph) -> list[Node]:
    """The nodes that a pass runs: those that are not size nodes."""
    values: dict[str, Any] = {}
    found = []
    for node in graph.nodes:
        if is_size_node(node, values):
            values.update(dict.fromkeys(node.outputs))
        else:
            found.append(node)
    return found
