"""Weights that an ONNX model has as integers: a weights file gets the same codes, scales and zero points."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from convert.support import check, expected, integers, make_model, onnx, ops, random, run_packed
from streamrt.convert.quantized import Integers, Quantized
from streamrt.convert.weights import Weight
from streamrt.errors import FormatError, LimitError
from streamrt.format import read_header, values

node = onnx.helper.make_node
TensorProto = onnx.TensorProto
Array = np.ndarray[Any, Any]

#: The least and the largest code of a type.
RANGES = {"int8": (-128, 127), "uint8": (0, 255), "int4": (-8, 7), "uint4": (0, 15)}


def random_integers(kind: str, *shape: int, seed: int = 0) -> Array:
    low, high = RANGES[kind]
    drawn = np.random.default_rng(seed).integers(low, high + 1, size=shape)
    return drawn.astype(onnx.helper.tensor_dtype_to_np_dtype(getattr(TensorProto, kind.upper())))


def quantized(
    kind: str, shape: tuple[int, ...], scales: tuple[int, ...], zeros: bool, seed: int = 0
) -> dict[str, Array]:
    """The inputs of a DequantizeLinear: codes, scales and perhaps zero points."""
    low, high = RANGES[kind]
    made = {
        "codes": random_integers(kind, *shape, seed=seed),
        "scales": (random(*scales, seed=seed + 1) / np.float32(high - low)).astype(np.float32),
    }
    if zeros:
        made["zeros"] = random_integers(kind, *scales, seed=seed + 2)
    return made


def dequantize(parts: dict[str, Array], **attributes: Any) -> Any:
    return node("DequantizeLinear", list(parts), ["w"], **attributes)


def kinds(path: Path) -> dict[str, str]:
    return {name: tensor.dtype for name, tensor in read_header(path).tensors.items()}


def stored(path: Path, name: str) -> Array:
    """The elements of a tensor of a weights file."""
    tensor = read_header(path).tensors[name]
    data = np.fromfile(path, np.uint8, tensor.nbytes, offset=tensor.offset)
    return np.concatenate(list(values(tensor.coding, tensor.shape, [data.data]))).reshape(tensor.shape)


def weight_of(model: Any, path: Path) -> Array:
    """The elements of the only weight of two or more dimensions after packing."""
    streamrt.pack(model, path)
    (name,) = (name for name, tensor in read_header(path).tensors.items() if len(tensor.shape) > 1)
    return stored(path, name)


def reference(parts: dict[str, Array], **attributes: Any) -> Array:
    """The elements as float32, by the definition."""
    codes = parts["codes"].astype(np.float32)
    axis, block = attributes.get("axis", 1), attributes.get("block_size", 0)
    spread = []
    for part in (parts["scales"], parts.get("zeros", np.zeros((), np.int8))):
        array = part.astype(np.float32)
        if array.ndim == 1:
            array = array.reshape([-1 if index == axis % codes.ndim else 1 for index in range(codes.ndim)])
        elif block and array.ndim:
            array = np.repeat(array, block, axis).take(range(codes.shape[axis]), axis)
        spread.append(array)
    return (codes - spread[1]) * spread[0]


CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, int]]] = {
    "a scale of the tensor": ((24, 40), (), {}),
    "a scale of a row": ((24, 40), (24,), {"axis": 0}),
    "blocks of a row": ((24, 40), (24, 3), {"axis": 1, "block_size": 16}),
    "a block is a row": ((24, 40), (24, 1), {"axis": -1, "block_size": 64}),
}


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("kind", RANGES)
@pytest.mark.parametrize("case", CASES)
def test_a_dense_layer_keeps_its_integers(case: str, kind: str, zeros: bool, tmp_path: Path) -> None:
    shape, scales, attributes = CASES[case]
    parts = quantized(kind, shape, scales, zeros)
    model = make_model(
        [dequantize(parts, **attributes), node("Gemm", ["x", "w"], ["y"], transB=1)], parts, inputs={"x": ("N", 40)}
    )
    check(model, tmp_path)
    path = tmp_path / "model.safetensors"
    tensor = read_header(path).tensors["w"]
    assert tensor.dtype == kind.removeprefix("u")
    assert tensor.coding.block == (16 if case == "blocks of a row" else None)
    assert tensor.coding.zeros == (zeros or kind[0] == "u")  # without zero points they are 0, which is not the middle
    np.testing.assert_array_equal(stored(path, "w"), reference(parts, **attributes))


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("kind", RANGES)
@pytest.mark.parametrize("op", ["MatMul", "MatMul of 3 axes", "Gemm", "a Transpose before"])
@pytest.mark.parametrize("case", CASES)
def test_codes_are_transposed(case: str, op: str, kind: str, zeros: bool, tmp_path: Path) -> None:
    shape, scales, attributes = CASES[case]
    parts = quantized(kind, shape, scales, zeros)
    nodes = [dequantize(parts, **attributes)]
    wanted = reference(parts, **attributes)
    if op == "a Transpose before":
        nodes += [node("Transpose", ["w"], ["t"]), node("MatMul", ["x", "t"], ["y"])]
    else:
        axis = attributes.get("axis")
        parts = {name: part.T.copy() if part.ndim == 2 or name == "codes" else part for name, part in parts.items()}
        flipped = attributes if axis is None else {**attributes, "axis": 1 - axis % 2}
        nodes = [dequantize(parts, **flipped), node(op.split()[0], ["x", "w"], ["y"])]
    model = make_model(nodes, parts, inputs={"x": ("N", 3, 40) if "3" in op else ("N", 40)})
    check(model, tmp_path)
    path = tmp_path / "model.safetensors"
    assert list(kinds(path).values()) == [kind.removeprefix("u")]
    np.testing.assert_array_equal(weight_of(model, path), wanted)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize(
    ("w", "attributes"),
    [((20, 6, 3, 3), {}), ((24, 16, 1, 1), {}), ((24, 4, 3, 3), {"group": 2}), ((8, 1, 3, 3), {"group": 8})],
    ids=str,
)
@pytest.mark.parametrize("per_row", [False, True])
def test_a_convolution_keeps_its_integers(
    w: tuple[int, ...], attributes: dict[str, int], per_row: bool, zeros: bool, tmp_path: Path
) -> None:
    parts = quantized("int8", w, (w[0],) if per_row else (), zeros)
    constants = parts | {"b": random(w[0])}
    model = make_model(
        [dequantize(parts, axis=0), node("Conv", ["x", "w", "b"], ["y"], **attributes)],
        constants,
        inputs={"x": (2, w[1] * attributes.get("group", 1), 9, 9)},
    )
    check(model, tmp_path)
    path = tmp_path / "model.safetensors"
    assert kinds(path) == {"b": "F32", "w": "int8"}
    np.testing.assert_array_equal(stored(path, "w"), reference(parts, axis=0))


def test_blocks_of_channels_of_a_convolution(tmp_path: Path) -> None:
    for window, kept in (((1, 1), "int4"), ((3, 3), "F32")):
        parts = quantized("int4", (8, 48, *window), (8, 3, *window), True)
        constants = [dequantize(parts, axis=1, block_size=16), node("Conv", ["x", "w"], ["y"])]
        model = make_model(constants, parts, inputs={"x": (1, 48, 5, 5)})
        check(model, tmp_path)
        assert kinds(tmp_path / "model.safetensors") == {"w": kept}
        np.testing.assert_array_equal(weight_of(model, tmp_path / "again"), reference(parts, axis=1, block_size=16))


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("per_channel", [False, True])
def test_a_transposed_convolution_keeps_its_integers(
    kind: str, zeros: bool, groups: int, per_channel: bool, tmp_path: Path
) -> None:
    parts = quantized(kind, (32, 6, 3, 3), (6,) if per_channel else (), zeros)
    product = node("ConvTranspose", ["x", "w"], ["y"], strides=(2, 2), group=groups)
    model = make_model([dequantize(parts), product], parts, inputs={"x": (2, 32, 5, 5)})
    path, plain = tmp_path / "packed", tmp_path / "plain"
    streamrt.pack(model, path)
    assert kinds(path) == {"w": "int8"}
    streamrt.pack(make_model([product], {"w": reference(parts)}, inputs={"x": (2, 32, 5, 5)}), plain)
    np.testing.assert_array_equal(stored(path, "w"), stored(plain, "w"))
    feeds = {"x": random(2, 32, 5, 5)}
    np.testing.assert_array_equal(run_packed(path, feeds), run_packed(plain, feeds))


def test_a_transposed_convolution_with_scales_of_inputs_becomes_float32(tmp_path: Path) -> None:
    parts = quantized("int8", (16, 6, 3, 3), (16,), True)
    nodes = [dequantize(parts, axis=0), node("ConvTranspose", ["x", "w"], ["y"])]
    check(make_model(nodes, parts, inputs={"x": (2, 16, 5, 5)}), tmp_path, tolerance=3e-5)
    assert kinds(tmp_path / "model.safetensors") == {"w": "F32"}


def test_factors_are_folded_into_scales(tmp_path: Path) -> None:
    parts = quantized("int8", (24, 40), (24,), True)
    nodes = [
        dequantize(parts, axis=0),
        node("Gemm", ["x", "w"], ["p"], transB=1, alpha=0.3),
        node("Mul", ["p", "factors"], ["y"]),
    ]
    model = make_model(nodes, parts | {"factors": random(24, seed=7)}, inputs={"x": ("N", 40)})
    assert ops(check(model, tmp_path)) == ["Gemm"]
    path = tmp_path / "model.safetensors"
    tensor = read_header(path).tensors["w"]
    assert tensor.dtype == "int8"
    data = np.fromfile(path, np.uint8, tensor.nbytes, offset=tensor.offset).reshape(24, -1)
    np.testing.assert_array_equal(data[:, 5:45].view(np.int8), parts["codes"])
    np.testing.assert_array_equal(data[:, 4].view(np.int8), parts["zeros"])
    scales = data[:, :4].copy().view(np.float32)[:, 0]
    wanted = (parts["scales"] * (0.3 * random(24, seed=7).astype(np.float64))).astype(np.float32)
    np.testing.assert_allclose(scales, wanted, rtol=2e-7)


@pytest.mark.parametrize("scale", ["float16", "bfloat16"])
def test_scales_in_halves(scale: str, tmp_path: Path) -> None:
    parts = quantized("int8", (24, 40), (24,), False)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(getattr(TensorProto, scale.upper()))
    parts["scales"] = parts["scales"].astype(dtype)
    nodes = [
        dequantize(parts, axis=0),
        node("Cast", ["w"], ["f"], to=TensorProto.FLOAT),
        node("Gemm", ["x", "f"], ["y"], transB=1),
    ]
    model = make_model(nodes, parts, inputs={"x": ("N", 40)})
    np.testing.assert_array_equal(weight_of(model, tmp_path / "packed"), reference(parts, axis=0))
    assert list(kinds(tmp_path / "packed").values()) == ["int8"]


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_halves_behind_a_cast_stay_halves(half: str, tmp_path: Path) -> None:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(getattr(TensorProto, half.upper()))
    w = random(40, 24).astype(dtype)
    nodes = [node("Cast", ["w"], ["f"], to=TensorProto.FLOAT), node("MatMul", ["x", "f"], ["y"])]
    model = make_model(nodes, {"w": w}, inputs={"x": ("N", 40)})
    check(model, tmp_path)
    path = tmp_path / "model.safetensors"
    assert list(kinds(path).values()) == [{"float16": "F16", "bfloat16": "BF16"}[half]]
    np.testing.assert_array_equal(weight_of(model, path), w.T.astype(np.float32))


def test_views_keep_integers(tmp_path: Path) -> None:
    parts = quantized("uint8", (6, 4, 40), (4,), True)
    nodes = [
        dequantize(parts, axis=1),
        node("Transpose", ["w"], ["t"], perm=(1, 2, 0)),
        node("Reshape", ["t", "shape"], ["r"]),
        node("Gemm", ["x", "r"], ["y"], transB=1),
    ]
    model = make_model(nodes, parts | {"shape": integers(4, 240)}, inputs={"x": ("N", 240)})
    check(model, tmp_path)
    wanted = reference(parts, axis=1).transpose(1, 2, 0).reshape(4, 240)
    np.testing.assert_array_equal(weight_of(model, tmp_path / "again"), wanted)
    assert list(kinds(tmp_path / "again").values()) == ["int8"]


@pytest.mark.parametrize(
    ("shape", "scales", "attributes"),
    [
        ((40, 24), (40,), {"axis": 0}),  # along the reduction
        ((40, 24), (14, 24), {"axis": 0, "block_size": 3}),  # not a multiple of 16
        ((40, 24), (40, 2), {"axis": 1, "block_size": 12}),  # blocks of outputs
        ((24, 40), (24,), {"axis": 0, "reshape": (40, 24)}),  # rows are cut
    ],
    ids=str,
)
def test_scales_that_do_not_fit_rows_become_float32(
    shape: tuple[int, ...], scales: tuple[int, ...], attributes: dict[str, Any], tmp_path: Path
) -> None:
    parts = quantized("int8", shape, scales, True)
    target = attributes.pop("reshape", shape)
    nodes = [
        dequantize(parts, **attributes),
        node("Reshape", ["w", "shape"], ["r"]),
        node("MatMul", ["x", "r"], ["y"]),
    ]
    model = make_model(nodes, parts | {"shape": integers(*target)}, inputs={"x": ("N", 40)})
    check(model, tmp_path)
    wanted = reference(parts, **attributes).reshape(target).T
    np.testing.assert_array_equal(weight_of(model, tmp_path / "again"), wanted)
    assert list(kinds(tmp_path / "again").values()) == ["F32"]


def test_other_readers_get_the_elements(tmp_path: Path) -> None:
    parts = quantized("uint8", (5, 40), (5,), True)
    nodes = [dequantize(parts, axis=0), node("Mul", ["x", "w"], ["m"]), node("Add", ["m", "w"], ["y"])]
    check(make_model(nodes, parts, inputs={"x": (3, 5, 40)}), tmp_path)
    assert list(kinds(tmp_path / "model.safetensors").values()) == ["int8"]
    nodes = [dequantize(parts, axis=0), node("ReduceSum", ["w"], ["s"], keepdims=0), node("Add", ["x", "s"], ["y"])]
    check(make_model(nodes, parts, inputs={"x": (3, 5)}), tmp_path)
    assert list(kinds(tmp_path / "model.safetensors").values()) == ["F32"]


def test_short_rows_that_would_grow_become_float32(tmp_path: Path) -> None:
    parts = quantized("int8", (6, 1), (6,), True)
    model = make_model([dequantize(parts, axis=0), node("Mul", ["x", "w"], ["y"])], parts, inputs={"x": (2, 6, 5)})
    check(model, tmp_path)
    assert list(kinds(tmp_path / "model.safetensors").values()) == ["F32"]


def test_a_type_that_is_asked_for(tmp_path: Path) -> None:
    parts = quantized("int8", (24, 64), (24, 2), True)
    nodes = [dequantize(parts, axis=1, block_size=32), node("Gemm", ["x", "w"], ["y"], transB=1)]
    model = make_model(nodes, parts, inputs={"x": ("N", 64)})
    wanted = reference(parts, axis=1, block_size=32)
    path, plain = tmp_path / "packed", tmp_path / "plain"
    streamrt.pack(model, plain)
    for weights, kept in (("int8", "int8"), ("float32", "F32"), ("float16", "F16"), ("int4", "int4")):
        streamrt.pack(model, path, weights=weights)
        assert kinds(path) == {"w": kept}
        if kept in ("int8", "F32"):
            np.testing.assert_array_equal(stored(path, "w"), wanted)
        streamrt.pack(plain, tmp_path / "again", weights=weights)
        assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_large_tensors_of_a_file(tmp_path: Path) -> None:
    """Their values are read from a mapping of the file, and those of 4 bits are unpacked."""
    for kind in RANGES:
        parts = quantized(kind, (384, 512), (384, 16), True)
        nodes = [dequantize(parts, axis=1, block_size=32), node("Gemm", ["x", "w"], ["y"], transB=1)]
        onnx.save(make_model(nodes, parts, inputs={"x": ("N", 512)}), tmp_path / "model.onnx")
        streamrt.pack(tmp_path / "model.onnx", tmp_path / "packed")
        np.testing.assert_array_equal(stored(tmp_path / "packed", "w"), reference(parts, axis=1, block_size=32))
        onnx.save(
            onnx.load(tmp_path / "model.onnx"),
            tmp_path / "outside.onnx",
            save_as_external_data=True,
            location=f"{kind}.bin",
            size_threshold=0,
        )
        streamrt.pack(tmp_path / "outside.onnx", tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == (tmp_path / "packed").read_bytes()


@pytest.mark.parametrize("length", [99, 101])
def test_a_wrong_number_of_bytes_of_4_bits(length: int, tmp_path: Path) -> None:
    parts = quantized("uint4", (10, 20), (10,), False)
    model = make_model(
        [dequantize(parts, axis=0), node("Gemm", ["x", "w"], ["y"], transB=1)], parts, inputs={"x": ("N", 20)}
    )
    (codes,) = (tensor for tensor in model.graph.initializer if tensor.name == "codes")
    codes.ClearField("raw_data")
    codes.ClearField("int32_data")
    codes.data_location = TensorProto.EXTERNAL
    codes.external_data.add(key="location", value="codes.bin")
    codes.external_data.add(key="length", value=str(length))
    (tmp_path / "codes.bin").write_bytes(bytes(length))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(FormatError, match=rf"tensor 'codes': {length} bytes of uint4 .* expected 100"):
        streamrt.pack(tmp_path / "model.onnx", tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_scale_that_is_not_finite(value: float, tmp_path: Path) -> None:
    parts = quantized("int8", (24, 40), (24,), False)
    parts["scales"][5] = value
    model = make_model(
        [dequantize(parts, axis=0), node("Gemm", ["x", "w"], ["y"], transB=1)], parts, inputs={"x": ("N", 40)}
    )
    with pytest.raises(FormatError, match=r"weight 'w' has the scale .*, expected finite numbers"):
        streamrt.pack(model, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_scales_that_overflow_with_a_folded_factor(tmp_path: Path) -> None:
    parts = quantized("int8", (24, 40), (24,), False)
    parts["scales"][:] = 1e38
    nodes = [dequantize(parts, axis=0), node("Gemm", ["x", "w"], ["y"], transB=1, alpha=10.0)]
    with pytest.raises(FormatError, match="weight 'w' has the scale inf"):
        streamrt.pack(make_model(nodes, parts, inputs={"x": ("N", 40)}), tmp_path / "packed")


@pytest.mark.parametrize(
    ("scales", "zeros", "attributes"),
    [
        ((23,), None, {"axis": 0}),
        ((24,), (23,), {"axis": 0}),
        ((24,), None, {"axis": 2}),
        ((24, 2), None, {"axis": 1, "block_size": 16}),
        ((24, 3), None, {"axis": 1, "block_size": -16}),
    ],
    ids=str,
)
def test_shapes_that_do_not_fit(
    scales: tuple[int, ...], zeros: tuple[int, ...] | None, attributes: dict[str, int], tmp_path: Path
) -> None:
    parts = quantized("int8", (24, 40), scales, False)
    if zeros is not None:
        parts["zeros"] = random_integers("int8", *zeros)
    model = make_model(
        [dequantize(parts, **attributes), node("Gemm", ["x", "w"], ["y"], transB=1)], parts, inputs={"x": ("N", 40)}
    )
    with pytest.raises(FormatError, match="DequantizeLinear"):
        streamrt.pack(model, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_elements_beyond_the_memory_that_packing_may_hold(tmp_path: Path) -> None:
    """Scales along the reduction make a constant of float32, which is computed as a whole."""
    codes = np.broadcast_to(np.int8(1), (2**12, 2**12))
    parts = {"codes": np.zeros(1, np.int8), "scales": np.ones(2**12, np.float32)}
    nodes = [
        node("Expand", ["codes", "shape"], ["e"]),
        node("DequantizeLinear", ["e", "scales"], ["w"], axis=0),
        node("MatMul", ["x", "w"], ["y"]),
    ]
    model = make_model(nodes, parts | {"shape": integers(*codes.shape)}, inputs={"x": ("N", 2**12)})
    with pytest.raises(LimitError):
        streamrt.pack(model, tmp_path / "packed", max_memory="32MiB")
    assert not (tmp_path / "packed").exists()


def test_the_example_of_this_module_is_the_operator() -> None:
    """`reference` agrees with the reference implementation of the ``onnx`` package."""
    parts = quantized("int4", (24, 40), (24, 3), True)
    model = make_model(
        [dequantize(parts, axis=1, block_size=16), node("Add", ["x", "w"], ["y"])], parts, inputs={"x": (24, 40)}
    )
    (found,) = expected(model, {"x": np.zeros((24, 40), np.float32)})
    np.testing.assert_array_equal(found, reference(parts, axis=1, block_size=16))


def test_a_constant_that_is_given_twice(tmp_path: Path) -> None:
    parts = {"codes": random_integers("int8", 6), "scales": np.ones(6, np.float32)}
    nodes = [node("DequantizeLinear", ["codes", "scales", "codes"], ["w"], axis=0), node("Add", ["x", "w"], ["y"])]
    check(make_model(nodes, parts, inputs={"x": (4, 6)}), tmp_path)


@pytest.mark.parametrize("view", ["Identity", "Reshape", "Unsqueeze"])
def test_views_keep_blocks(view: str, tmp_path: Path) -> None:
    parts = quantized("int4", (24, 64), (24, 2), True)
    constants = parts | {"shape": integers(24, 64, 1, 1), "axes": integers(2, 3)}
    inputs = {"Identity": ["w"], "Reshape": ["w", "shape"], "Unsqueeze": ["w", "axes"]}[view]
    product = node("Gemm", ["x", "v"], ["y"], transB=1) if view == "Identity" else node("Conv", ["x", "v"], ["y"])
    nodes = [dequantize(parts, axis=1, block_size=32), node(view, inputs, ["v"]), product]
    dims = (2, 64) if view == "Identity" else (2, 64, 3, 3)
    model = make_model(nodes, {name: constants[name] for name in {*parts, *inputs[1:]}}, inputs={"x": dims})
    check(model, tmp_path)
    (name,) = kinds(tmp_path / "model.safetensors")
    assert kinds(tmp_path / "model.safetensors")[name] == "int4"
    found = stored(tmp_path / "model.safetensors", name).reshape(24, 64)
    np.testing.assert_array_equal(found, reference(parts, axis=1, block_size=32))


def peak_of_packing(model: Any, tmp_path: Path, options: str = "") -> tuple[str, int]:
    """The error of packing in a process of its own, and the largest memory (bytes) beyond what its imports took."""
    onnx.save(model, tmp_path / "model.onnx")
    program = f"""
import streamrt, streamrt.convert.onnx.importer
def status(key):
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(key))
before = status("VmRSS")
try:
    streamrt.pack({str(tmp_path / "model.onnx")!r}, {str(tmp_path / "packed")!r}{options})
    error = ""
except Exception as raised:
    error = type(raised).__name__
print(error, status("VmHWM") - before)
"""
    run = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    *error, peak = run.stdout.split()
    return " ".join(error), int(peak)


MIB = 1 << 20


def test_a_block_that_is_longer_than_its_axis_takes_no_memory(tmp_path: Path) -> None:
    for block, axis in ((2**24, 0), (2**62, 0), (2**24, 1), (2**62, 1)):
        parts = {"codes": random_integers("int8", 24, 64), "scales": random(*((1, 64), (24, 1))[axis])}
        nodes = [dequantize(parts, axis=axis, block_size=block), node("Gemm", ["x", "w"], ["y"], transB=1)]
        model = make_model(nodes, parts, inputs={"x": ("N", 64)})
        error, peak = peak_of_packing(model, tmp_path)
        assert (error, peak < 64 * MIB) == ("", True), peak
        wanted = reference(parts, axis=axis, block_size=parts["codes"].shape[axis])
        np.testing.assert_array_equal(stored(tmp_path / "packed", "w"), wanted)


def test_transposed_convolutions_hold_no_scales_of_rows(tmp_path: Path) -> None:
    """Strides make millions of rows of a few bytes."""
    nodes, constants, count = [], {"s": np.ones((), np.float32)}, 40
    for index in range(count):
        constants |= {f"c{index}": np.ones((1, 1, 1, 1), np.int8), f"z{index}": np.zeros((), np.int8)}
        nodes += [
            node("DequantizeLinear", [f"c{index}", "s", f"z{index}"], [f"w{index}"]),
            node("ConvTranspose", ["x", f"w{index}"], [f"t{index}"], strides=(1024, 1024)),
        ]
    nodes.append(node("Sum", [f"t{index}" for index in range(count)], ["y"]))
    model = make_model(nodes, constants, inputs={"x": (1, 1, 1, 1)})
    error, peak = peak_of_packing(model, tmp_path, ", max_memory='9MiB'")
    assert (error, peak < 100 * MIB) == ("LimitError", True), peak


@pytest.mark.parametrize("dims", [(0, 1, 1, 1), (0, 2**27, 1, 1), (0, 2**39, 1, 1)])
def test_weights_without_elements_take_no_memory(dims: tuple[int, ...], tmp_path: Path) -> None:
    constants = {"s": np.ones((), np.float32)}
    nodes = [
        node("DequantizeLinear", ["c", "s"], ["w"]),
        node("ConvTranspose", ["x", "w"], ["y"], strides=(512, 512)),
    ]
    model = make_model(nodes, constants, inputs={"x": (1, "C", 5, 5)})
    model.graph.initializer.append(TensorProto(name="c", data_type=TensorProto.INT8, dims=dims))
    error, peak = peak_of_packing(model, tmp_path)
    assert error in ("FormatError", "UnsupportedModelError", "LimitError")
    assert peak < 300 * MIB


def test_zero_points_that_are_broadcast_are_not_copied(tmp_path: Path) -> None:
    rows = 2**26

    def constant(name: str, shape: str, value: Any) -> Any:
        return node("ConstantOfShape", [shape], [name], value=onnx.numpy_helper.from_array(np.array([value])))

    nodes = [
        constant("c", "matrix", np.int8(1)),
        constant("z", "vector", np.int8(0)),
        constant("s", "vector", np.float16(1)),
        node("DequantizeLinear", ["c", "s", "z"], ["w"], axis=0),
        node("Cast", ["w"], ["f"], to=TensorProto.FLOAT),
        node("Gemm", ["x", "f"], ["y"], transB=1),
    ]
    shapes = {"matrix": integers(rows, 16), "vector": integers(rows)}
    model = make_model(nodes, shapes, inputs={"x": ("N", 16)})
    error, peak = peak_of_packing(model, tmp_path, ", max_memory='1MiB'")
    assert (error, peak < 64 * MIB) == ("LimitError", True), peak


def test_float32_of_large_integers_needs_no_more_memory_than_their_elements(tmp_path: Path) -> None:
    """Scales of columns become float32: the limits for the model's own weights are enough."""
    rows, columns = 2**13, 3072
    parts = {"codes": np.ones((rows, columns), np.int8), "scales": random(columns)}
    nodes = [dequantize(parts, axis=1), node("Gemm", ["x", "w"], ["y"], transB=1)]
    model = make_model(nodes, parts, inputs={"x": ("N", columns)})
    error, peak = peak_of_packing(model, tmp_path, ", max_memory='16MiB'")
    assert (error, peak < 80 * MIB) == ("", True), peak


def test_a_source_of_4_bits_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    nodes, constants, count = [], {}, 8
    for index in range(count):
        constants |= {f"c{index}": random_integers("uint4", 2048, 2048, seed=index), f"s{index}": random(2048)}
        nodes += [
            node("DequantizeLinear", [f"c{index}", f"s{index}"], [f"w{index}"], axis=0),
            node("Gemm", [f"t{index}", f"w{index}"], [f"t{index + 1}"], transB=1),
        ]
    model = make_model(nodes, constants, inputs={"t0": ("N", 2048)}, outputs=(f"t{count}",))
    error, peak = peak_of_packing(model, tmp_path)
    assert (error, peak < 30 * MIB) == ("", True), peak
    parts = {"codes": constants["c7"], "scales": constants["s7"]}
    np.testing.assert_array_equal(stored(tmp_path / "packed", "w7"), reference(parts, axis=0))


def test_nothing_keeps_weights_alive() -> None:
    codes = Weight.of(np.zeros((4, 4), np.int8))
    weight = Quantized(Integers("int8", codes, Weight.of(np.ones((), np.float32))), np.dtype(np.float32))
    seen = weakref.ref(weight)
    enabled = gc.isenabled()
    gc.disable()
    try:
        del weight
        assert seen() is None
    finally:
        if enabled:
            gc.enable()


@pytest.mark.parametrize("weights", ["float32", "float16", "int4"])
def test_elements_beyond_float32(weights: str, tmp_path: Path) -> None:
    """They become infinite, as ONNX has it, without a warning. Only float32 has infinities."""
    parts = quantized("int8", (24, 40), (24,), False)
    parts["scales"][:] = 1e37
    model = make_model(
        [dequantize(parts, axis=0), node("Gemm", ["x", "w"], ["y"], transB=1)], parts, inputs={"x": ("N", 40)}
    )
    if weights == "float32":
        streamrt.pack(model, tmp_path / "packed", weights=weights)
    else:
        with pytest.raises(FormatError, match="weight 'w' has the value"):
            streamrt.pack(model, tmp_path / "packed", weights=weights)


def test_keep_of_the_type_that_is_there(tmp_path: Path) -> None:
    parts = quantized("int8", (24, 64), (24, 2), True)
    nodes = [dequantize(parts, axis=1, block_size=32), node("Gemm", ["x", "w"], ["y"], transB=1)]
    streamrt.pack(make_model(nodes, parts, inputs={"x": ("N", 64)}), tmp_path / "packed", keep={"w": "int8"})
    np.testing.assert_array_equal(stored(tmp_path / "packed", "w"), reference(parts, axis=1, block_size=32))


def test_rows_of_products_that_would_grow_become_float32(tmp_path: Path) -> None:
    parts = quantized("uint8", (64, 1, 1, 1), (64,), True)
    nodes = [dequantize(parts, axis=0), node("Conv", ["x", "w"], ["y"])]
    check(make_model(nodes, parts, inputs={"x": (2, 1, 4, 4)}), tmp_path)
    assert kinds(tmp_path / "model.safetensors") == {"w": "F32"}
