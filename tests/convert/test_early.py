"""Nodes that compute vectors run before the nodes of a picture that they need nothing of."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from convert.support import check, make_model, onnx, ops, random
from kernels.isas import NUMPY, using
from streamrt import _core
from streamrt.convert.draft import Draft, DraftNode
from streamrt.convert.early import move_vectors
from streamrt.format import read_header
from streamrt.graph import TensorSpec

node = onnx.helper.make_node

#: Ranks and extents of the tensors of `order`: vectors, pictures, tokens.
SHAPES = {"v": (24, 8), "g": (24, 6, 1, 1), "p": (24, 8, 32, 32), "k": (24, 77, 8)}


def order(*nodes: str) -> list[str]:
    """The order of nodes such as ``"p1:x,v1"``, which makes p1 of x and v1. First letters tell shapes."""
    draft = Draft([TensorSpec("x", ("n", 3, 32, 32)), TensorSpec("t", ("n", 8))], [])
    shapes: dict[str, tuple[int, ...]] = {"x": (24, 3, 32, 32), "t": (24, 8)}
    for each in nodes:
        output, inputs = each.split(":")
        op = "If" if output == "if" else "Shape" if output.startswith("s") else "Any"
        made = DraftNode(output, op, inputs.split(","), [] if op == "If" else [output])
        (draft.nodes if op == "Any" else draft.size_nodes).append(made)
        shapes[output] = SHAPES.get(output[0], (4,))
    move_vectors(draft, shapes)
    return [each.name for each in draft.nodes]


def test_vectors_leave_the_run_that_they_need_nothing_of() -> None:
    assert order("p1:x", "v1:t", "g1:v1", "p2:p1,g1") == ["v1", "g1", "p1", "p2"]
    # All of a run, and in their order.
    assert order("p1:x", "v1:t", "p2:p1,v1", "v2:t", "v3:v1", "p3:p2,v2") == ["v1", "v2", "v3", "p1", "p2", "p3"]


def test_vectors_that_need_a_picture_stay_and_begin_a_new_run() -> None:
    # A mean is one of the run; what reads it ends the run.
    gated = ["p1:x", "g1:p1", "g2:g1", "p2:p1,g2"]
    assert order(*gated) == ["p1", "g1", "g2", "p2"]
    assert order(*gated, "v1:g1", "p3:p2,v1") == ["p1", "g1", "g2", "v1", "p2", "p3"]
    # The mean of an input could move, but would need all of it in memory.
    assert order("p1:x", "g1:x", "p2:p1,g1") == ["p1", "g1", "p2"]


def test_other_nodes_end_a_run() -> None:
    assert order("p1:x", "k1:t", "v1:t", "p2:p1,v1") == ["p1", "k1", "v1", "p2"]
    assert order("p1:x", "k1:t", "p2:p1", "v1:t", "p3:p2,v1") == ["p1", "k1", "v1", "p2", "p3"]


def test_vectors_stay_if_no_node_of_the_picture_follows() -> None:
    assert order("p1:x", "p2:p1", "v1:t") == ["p1", "p2", "v1"]


def test_sizes_of_the_run_count_as_needed() -> None:
    assert order("p1:x", "s1:p1", "v1:t,s1", "p2:p1,v1") == ["p1", "v1", "p2"]
    assert order("p1:x", "s1:x", "v1:t,s1", "p2:p1,v1") == ["v1", "p1", "p2"]


def test_no_node_moves_before_a_condition() -> None:
    assert order("p1:x", "s1:p1", "if:s1", "v1:t", "p2:p1,v1") == ["p1", "v1", "p2"]


def embedded(first: int) -> Any:
    """Two convolutions with the sum of a dense layer of another input between them.

    The nodes of the dense layer come before the convolution with this number.
    """
    embedding = [
        node("Gemm", ["t", "e", "f"], ["v"]),
        node("Unsqueeze", ["v", "axes"], ["g"]),
    ]
    convolutions = [
        [node("Conv", ["x", "w", "b"], ["p"], pads=[1] * 4), node("Relu", ["p"], ["q"])],
        [node("Add", ["q", "g"], ["s"]), node("Conv", ["s", "u", "b"], ["y"], pads=[1] * 4)],
    ]
    params = {
        "e": random(5, 8, seed=1),
        "f": random(8, seed=2),
        "axes": np.array([2, 3]),
        "w": random(8, 3, 3, 3, seed=3),
        "u": random(8, 8, 3, 3, seed=4),
        "b": random(8, seed=5),
    }
    nodes = [*itertools.chain(*convolutions[:first]), *embedding, *itertools.chain(*convolutions[first:])]
    return make_model(nodes, params, inputs={"x": ("n", 3, "h", "w"), "t": ("n", 5)})


def test_a_dense_layer_beside_its_use_does_not_divide_a_section(tmp_path: Path) -> None:
    check(embedded(1), tmp_path)
    values = {"x": random(1, 3, 512, 64), "t": random(1, 5, seed=6)}
    shapes = {name: array.shape for name, array in values.items()}
    tensor = 4 * 8 * 512 * 64
    results = set()
    with using("scalar" if _core.isa() == NUMPY else _core.isa()):
        for first in (0, 1):
            path = streamrt.pack(embedded(first), tmp_path / f"model{first}")
            file = read_header(path)
            assert file.graph.nodes[0].op == "Gemm"
            assert next(iter(file.tensors)) in ("e", "f")
            with streamrt.Model(path, exact=True) as model:
                results.add(model(values).tobytes())
                least = model.min_budget(shapes)
            assert least < tensor  # one that is not made in bands
            with streamrt.Model(path, least, exact=True, verify="read") as model:
                results.add(model(values).tobytes())
    assert len(results) == 1


@pytest.mark.parametrize("fixed", [True, False])
def test_a_vector_without_a_batch(tmp_path: Path, fixed: bool) -> None:
    """A time is one number for all samples, or one for each."""
    nodes = [
        node("Conv", ["x", "w"], ["p"]),
        node("Mul", ["t", "f"], ["a"]),
        node("Sin", ["a"], ["s"]),
        node("Gemm", ["s", "e"], ["v"]),
        node("Unsqueeze", ["v", "axes"], ["g"]),
        node("Add", ["p", "g"], ["q"]),
        node("Conv", ["q", "u"], ["y"]),
    ]
    params = {
        "w": random(8, 3, 3, 3),
        "u": random(8, 8, 3, 3, seed=1),
        "f": random(1, 6, seed=2),
        "e": random(6, 8, seed=3),
        "axes": np.array([2, 3]),
    }
    time = (1,) if fixed else ("n", 1)
    inputs = {"x": (2, 3, 8, 8) if fixed else ("n", 3, 8, 8), "t": time}
    graph = check(make_model(nodes, params, inputs=inputs), tmp_path)
    assert ops(graph) == ["Mul", "Sin", "Gemm", "Unsqueeze", "Conv", "Add", "Conv"]
