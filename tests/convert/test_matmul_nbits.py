"""MatMulNBits of ONNX Runtime: a weights file gets the same codes, scales and zero points."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from convert.support import make_model, onnx, ops, random, run_packed
from convert.test_quantized import stored
from streamrt.errors import LimitError, UnsupportedModelError
from streamrt.format import read_header

node = onnx.helper.make_node
Array = np.ndarray[Any, Any]


def nbits(
    rows: int,
    inner: int,
    block: int,
    bits: int,
    zeros: bool,
    bias: bool = False,
    changed: Mapping[str, int] | None = None,
) -> tuple[Any, dict[str, Array], Array]:
    """A model of one MatMulNBits, its constants, and the elements of its weights (rows, inner)."""
    rng = np.random.default_rng(rows + inner + block + bits)
    blocks = -(-inner // block)
    codes = rng.integers(0, 2**bits, size=(rows, blocks * block)).astype(np.uint8)
    points = rng.integers(0, 2**bits, size=(rows, blocks)).astype(np.uint8)
    scales = (rng.normal(size=(rows, blocks)) / 2**bits).astype(np.float32)
    spread = [np.repeat(part, block, axis=1).astype(np.float32) for part in (points, scales)]
    if not zeros:
        spread[0].fill(2 ** (bits - 1))
    elements = ((codes.astype(np.float32) - spread[0]) * spread[1])[:, :inner]

    def halves(array: Array) -> Array:
        if bits == 8:
            return array
        even = np.zeros((rows, array.shape[1] + array.shape[1] % 2), np.uint8)
        even[:, : array.shape[1]] = array
        return even[:, ::2] | even[:, 1::2] << 4

    constants = {"b": halves(codes).reshape(rows, blocks, -1), "s": scales}
    names = ["x", "b", "s"]
    if zeros or bias:
        names.append("z" if zeros else "")
    if zeros:
        constants["z"] = halves(points)
    if bias:
        names += ["", "c"]
        constants["c"] = rng.normal(size=rows).astype(np.float32)
    given = {"K": inner, "N": rows, "block_size": block, "bits": bits} | dict(changed or {})
    model = make_model(
        [node("MatMulNBits", names, ["y"], domain="com.microsoft", **given)],
        constants,
        inputs={"x": ("N", inner)},
        opset=21,
    )
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    return model, constants, elements


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("inner", "block"), [(96, 32), (90, 32), (33, 16), (64, 128)])
def test_matmul_of_bits(inner: int, block: int, bits: int, zeros: bool, bias: bool, tmp_path: Path) -> None:
    model, constants, elements = nbits(20, inner, block, bits, zeros, bias)
    path = streamrt.pack(model, tmp_path / "packed")
    x = random(3, inner)
    wanted = x.astype(np.float64) @ elements.T.astype(np.float64) + constants.get("c", 0)
    np.testing.assert_allclose(run_packed(path, {"x": x})[0], wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())
    file = read_header(path)
    assert ops(file.graph) == ["Gemm"]
    (name,) = (name for name, tensor in file.tensors.items() if len(tensor.shape) > 1)
    assert file.tensors[name].dtype == f"int{bits}"
    assert file.tensors[name].zeros == zeros
    assert file.tensors[name].block == (block if block < inner else None)
    np.testing.assert_array_equal(stored(path, name), elements)


@pytest.mark.extras
def test_matmul_of_bits_agrees_with_onnx_runtime(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    for zeros in (False, True):
        model, _, _ = nbits(24, 128, 32, 4, zeros)
        model.ir_version = 10
        session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        x = random(5, 128)
        (wanted,) = session.run(None, {"x": x})
        path = streamrt.pack(model, tmp_path / "packed")
        np.testing.assert_allclose(run_packed(path, {"x": x})[0], wanted, rtol=1e-4, atol=1e-4)


def test_a_last_block_of_fewer_codes_than_the_tensor_has(tmp_path: Path) -> None:
    model = nbits(20, 96, 32, 4, False, changed={"K": 95})[0]
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 95
    streamrt.pack(model, tmp_path / "packed")
    assert [t.shape for t in read_header(tmp_path / "packed").tensors.values()] == [(20, 95)]


@pytest.mark.parametrize(
    ("options", "inputs", "reason"),
    [
        ({"bits": 3}, {}, "attribute 'bits' is 3, expected 4 or 8"),
        ({"block_size": 24}, {}, "attribute 'block_size' is 24, expected a power of 2 from 16 on"),
        ({"block_size": 8}, {}, "attribute 'block_size' is 8"),
        ({"K": 0}, {}, "attribute 'K' is missing or below 1"),
        ({"K": 97}, {}, r"input 1 \(B, 'b'\) has shape \(20, 3, 16\), expected 1280 elements"),
        ({"N": 2**40}, {}, "input 1 .* expected"),
        ({}, {1: "x"}, r"input 1 \(B, 'x'\) is computed, expected a constant"),
        ({}, {1: "s"}, r"input 1 \(B, 's'\) is float32, expected uint8"),
        ({}, {2: "b"}, r"input 2 \(scales, 'b'\) is uint8, expected a floating-point type"),
        ({}, {3: "s"}, r"input 3 \(zero_points, 's'\) is float32, expected uint8"),
        ({}, {4: "s"}, r"input 4 \(g_idx\) is given"),
        ({}, {2: ""}, "it has 3 inputs and 1 outputs, expected 3 to 6 and 1"),
    ],
    ids=str,
)
def test_matmul_of_bits_that_is_refused(
    options: dict[str, int], inputs: dict[int, str], reason: str, tmp_path: Path
) -> None:
    model, _, _ = nbits(20, 96, 32, 4, False, changed=options)
    names = model.graph.node[0].input
    for index, name in inputs.items():
        names.extend([""] * (index + 1 - len(names)))
        names[index] = name
    with pytest.raises(UnsupportedModelError, match=rf"\(MatMulNBits\): {reason}"):
        streamrt.pack(model, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("weight_prepacked", 1, "attribute 'weight_prepacked' is not 0"),
        ("mystery", 3, "attribute 'mystery' is not supported"),
    ],
)
def test_attributes_that_would_change_the_weights(name: str, value: int, reason: str, tmp_path: Path) -> None:
    model, _, _ = nbits(20, 96, 32, 4, False, changed={name: value})
    with pytest.raises(UnsupportedModelError, match=reason):
        streamrt.pack(model, tmp_path / "packed")
    streamrt.pack(nbits(20, 96, 32, 4, False, changed={"weight_prepacked": 0})[0], tmp_path / "packed")


def chain(count: int, inputs: tuple[str, ...] = ("b", "s")) -> Any:
    """Products with the same weights, one after the other."""
    names = ["x", *(f"t{index}" for index in range(1, count)), "y"]
    given = {"K": 16, "N": 16, "block_size": 16, "bits": 4}
    nodes = [
        node("MatMulNBits", [x, *inputs], [y], domain="com.microsoft", **given) for x, y in itertools.pairwise(names)
    ]
    constants = {"b": np.full((16, 1, 8), 0x79, np.uint8), "s": np.full((16, 1), 0.1, np.float32)}
    model = make_model(nodes, constants, inputs={"x": ("N", 16)}, opset=21)
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    return model


def test_nodes_of_the_same_weights_share_them(tmp_path: Path) -> None:
    streamrt.pack(chain(3), tmp_path / "packed")
    file = read_header(tmp_path / "packed")
    assert len(file.tensors) == 1
    assert ops(file.graph) == ["Gemm"] * 3


def test_names_that_are_taken(tmp_path: Path) -> None:
    model, constants, elements = nbits(20, 96, 32, 4, False, bias=True)
    for name in ("b.matrix", "y.matrix", "y.product"):
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ("N", 3)))
    path = streamrt.pack(model, tmp_path / "packed")
    assert {spec.name for spec in read_header(path).graph.inputs} == {"x", "b.matrix", "y.matrix", "y.product"}
    unused = dict.fromkeys(("b.matrix", "y.matrix", "y.product"), random(3, 3))
    found = run_packed(path, {"x": random(3, 96), **unused})[0]
    wanted = random(3, 96).astype(np.float64) @ elements.T + constants["c"]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def test_the_time_for_many_nodes_is_limited(tmp_path: Path) -> None:
    model = chain(3000)
    for index, each in enumerate(model.graph.node):  # weights of their own
        scales = onnx.numpy_helper.from_array(np.full((16, 1), index, np.float32), f"s{index}")
        model.graph.initializer.append(scales)
        each.input[2] = scales.name
    begin = time.process_time()
    with pytest.raises(LimitError):
        streamrt.pack(model, tmp_path / "packed", max_seconds=0.5)
    assert time.process_time() - begin < 10
