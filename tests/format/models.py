"""Small models to write: graphs of dense layers with random weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from streamrt.format import Segment, Source
from streamrt.graph import Activation, Graph, Node, TensorSpec

Array = NDArray[np.float32]


def chain(*parameters: Sequence[str]) -> Graph:
    """A graph of Gemm nodes, one after the other, each with these parameters."""
    nodes = tuple(
        Node(f"n{i}", "Gemm", (f"t{i}", *names), (f"t{i + 1}",), {}, Activation("Clip", {"min": 0.0, "max": 6.0}))
        for i, names in enumerate(parameters)
    )
    return Graph((TensorSpec("t0", ("N", 8)),), (TensorSpec(f"t{len(nodes)}", ("N", 8)),), nodes)


def dense(*widths: int, seed: int = 0) -> tuple[Graph, list[Segment], dict[str, Array]]:
    """A multilayer perceptron: its graph, its segments, and its parameters by name in the order of execution."""
    random = np.random.default_rng(seed)
    arrays: dict[str, Array] = {}
    names = []
    for i, (inner, outer) in enumerate(pairwise(widths)):
        arrays[f"w{i}"] = random.standard_normal((outer, inner), np.float32)
        arrays[f"b{i}"] = random.standard_normal(outer, np.float32)
        names.append((f"w{i}", f"b{i}"))
    return chain(*names), [Segment([Source.of(n, arrays[n]) for n in pair]) for pair in names], arrays


def constant(name: str, size: int, chunk: int = 1 << 20) -> Source:
    """A vector of ``size`` ones that is never in memory as a whole."""

    def chunks() -> Iterator[Array]:
        for first in range(0, size, chunk):
            yield np.ones(min(chunk, size - first), np.float32)

    return Source(name, (size,), chunks)
