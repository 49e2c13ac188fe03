"""A multi-layer perceptron of equal layers, ``mlp-LAYERSxWIDTH``, with ReLU between them.

``weights.bin`` holds the matrices, each (out, in) row-major, and then the biases. NumPy maps it. It is the external
data of ``model.onnx``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from bench.models import Source

_ROWS = 1024  # rows generated at a time: 32 MiB of a matrix of 8192


@dataclass(frozen=True, slots=True)
class Shape:
    """Layers, and units of each."""

    layers: int
    width: int

    @classmethod
    def of(cls, source: Source) -> Self:
        match = re.fullmatch(r"mlp-(\d+)x(\d+)", source.name)
        assert match
        return cls(int(match[1]), int(match[2]))

    def layer(self, path: Path, index: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The (out, in) matrix and the bias of a layer, mapped."""
        matrix = 4 * self.width * self.width
        weights = np.memmap(path, np.float32, "r", index * matrix, (self.width, self.width))
        bias = np.memmap(path, np.float32, "r", self.layers * matrix + index * 4 * self.width, (self.width,))
        return weights, bias


def source(name: str, data: Path) -> Source | None:
    if not (match := re.fullmatch(r"mlp-(\d+)x(\d+)", name)):
        return None
    return Source(name, "mlp", data / name, (int(match[2]),), ("onnx",), _make, _reference)


def weights_file(source: Source) -> Path:
    """The matrices and biases."""
    return source.folder / "weights.bin"


def layers(source: Source) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """The (out, in) matrix and the bias of every layer, mapped."""
    shape = Shape.of(source)
    return (shape.layer(weights_file(source), index) for index in range(shape.layers))


def _make(source: Source) -> None:
    shape = Shape.of(source)
    random = np.random.default_rng(0)
    scale = np.float32((2 / shape.width) ** 0.5)  # keeps the variance through a ReLU layer (He et al. 2015)
    with weights_file(source).open("wb") as file:
        for _ in range(shape.layers):
            for first in range(0, shape.width, _ROWS):
                rows = min(_ROWS, shape.width - first)
                file.write((random.standard_normal((rows, shape.width), np.float32) * scale).data)
        file.write(random.uniform(-0.1, 0.1, (shape.layers, shape.width)).astype(np.float32).data)
    _write_onnx(source, shape)


def _write_onnx(source: Source, shape: Shape) -> None:
    import onnx
    from onnx import TensorProto, helper

    matrix = 4 * shape.width * shape.width

    def external(name: str, dims: list[int], offset: int, length: int) -> TensorProto:
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", weights_file(source).name), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        return tensor

    nodes, tensors, x = [], [], "x"
    for index in range(shape.layers):
        w, b, y = f"w{index}", f"b{index}", f"y{index}"
        tensors.append(external(w, [shape.width] * 2, index * matrix, matrix))
        tensors.append(external(b, [shape.width], shape.layers * matrix + index * 4 * shape.width, 4 * shape.width))
        nodes.append(helper.make_node("Gemm", [x, w, b], [y], name=f"gemm{index}", transB=1))
        x = y
        if index < shape.layers - 1:
            x = f"r{index}"
            nodes.append(helper.make_node("Relu", [y], [x], name=f"relu{index}"))
    value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", shape.width])  # noqa: E731
    graph = helper.make_graph(nodes, "mlp", [value("x")], [value(x)], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, source.onnx)


def _reference(source: Source, x: NDArray[np.float32]) -> NDArray[np.float64]:
    y = x.astype(np.float64)
    count = Shape.of(source).layers
    for index, (weights, bias) in enumerate(layers(source)):
        y = y @ weights.astype(np.float64).T + bias
        if index < count - 1:
            y = np.maximum(y, 0)
    return y
