"""The test cases that the `onnx` package brings: each operator alone, and whole networks.

A case is taken by rule: all its operators are converted, it takes float32, and gives float32, truth values or indices.
`EXCLUDED` has what is left out nevertheless, and why. The first float32 input is what the model is given; all others
become constants, for that is what they are in a trained model.
"""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from convert.support import onnx, ops, run_packed
from streamrt.convert.onnx_ops import CONVERSIONS
from streamrt.format import read_header

#: A part of the name of each case that is refused, and the reason.
EXCLUDED = {
    "pool_3d": "windows have one or two axes",
    "convtranspose_3d": "windows have one or two axes",
    "training": "it is about training",
    "dropout_default_mask": "a mask that is true everywhere, which depends on no input",
    "maxpool_with_argmax": "the indices of MaxPool are for the way back, in training",
    "pow_types_int64_float32": "what is raised is not float32, so it becomes a constant, and constants are float32 too",
    "castlike": "what is cast is not float32, so it becomes a constant, and the result too",
    "empty_set": "a tensor without elements",
    "zero_size": "a tensor without elements",
    "allowzero_reordered": "a tensor without elements",
    "start_out_of_bounds": "a tensor without elements",
    "resize_upsample_scales_cubic": "Resize is nearest or linear",
    "resize_upsample_sizes_cubic": "Resize is nearest or linear",
    "resize_downsample_scales_cubic": "Resize is nearest or linear",
    "resize_downsample_sizes_cubic": "Resize is nearest or linear",
    "antialias": "Resize is nearest or linear",
    "tf_crop_and_resize": "Resize takes no region",
    "not_larger": "Resize keeps no aspect ratio",
    "not_smaller": "Resize keeps no aspect ratio",
}
#: As many cases as the onnx package had when this was written; a newer one may have more.
AT_LEAST = 465


def is_float(value: Any) -> bool:
    return bool(value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT)


def is_given(value: Any) -> bool:
    kinds = onnx.TensorProto
    return value.type.tensor_type.elem_type in (kinds.FLOAT, kinds.BOOL, kinds.INT64)


@functools.cache
def node_cases() -> dict[str, Any]:
    """The cases that the rule takes, by name."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings(action="ignore"):  # the cases of other operators overflow on purpose
        cases = collect_testcases(None)
    return {
        case.name.removeprefix("test_"): case
        for case in cases
        if case.model is not None
        and any(map(is_float, case.model.graph.input))
        and all(map(is_given, case.model.graph.output))
        and {node.op_type for node in case.model.graph.node} <= CONVERSIONS.keys()
    }


def is_excluded(name: str) -> bool:
    return any(word in name for word in EXCLUDED)


def run_case(case: Any, folder: Path) -> None:
    """Pack, run, and compare with what the case says."""
    inputs, outputs = case.data_sets[0]
    model = onnx.ModelProto.FromString(case.model.SerializeToString())
    given = next(value.name for value in model.graph.input if is_float(value))
    feeds = {}
    for value, array in zip(model.graph.input, inputs, strict=True):
        if value.name == given:
            feeds[given] = array
        elif value.type.tensor_type.elem_type:
            made = isinstance(array, onnx.TensorProto)  # of types that NumPy has not
            model.graph.initializer.append(array if made else onnx.numpy_helper.from_array(np.asarray(array)))
            model.graph.initializer[-1].name = value.name
    path = streamrt.pack(model, folder / "out.safetensors")
    for found, wanted in zip(run_packed(path, feeds), outputs, strict=True):
        assert found.dtype == wanted.dtype
        np.testing.assert_allclose(found, wanted, rtol=case.rtol, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in node_cases() if not is_excluded(name)])
def test_node(name: str, tmp_path: Path) -> None:
    run_case(node_cases()[name], tmp_path)


@pytest.mark.parametrize("name", [name for name in node_cases() if is_excluded(name)])
def test_what_is_excluded_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(streamrt.StreamrtError):
        run_case(node_cases()[name], tmp_path)


def test_how_many_run() -> None:
    assert sum(not is_excluded(name) for name in node_cases()) >= AT_LEAST
    for word in EXCLUDED:
        assert any(word in name for name in node_cases()), word


LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"


@pytest.mark.parametrize("path", sorted(LIGHT.glob("*.onnx")), ids=lambda path: path.stem.removeprefix("light_"))
def test_networks(path: Path, tmp_path: Path) -> None:
    """Famous networks with weights made by ConstantOfShape: everything folds that should, and the answer is right."""
    from onnx.backend.test.runner import Runner

    model = onnx.load(path)
    constants = {tensor.name for tensor in model.graph.initializer}
    (given,) = (value for value in model.graph.input if value.name not in constants)
    packed = streamrt.pack(path, tmp_path / "out.safetensors")
    try:
        found = set(ops(read_header(packed).graph))
        assert found.isdisjoint({"Dropout", "Identity", "Relu", "Constant", "ConstantOfShape"})
        assert any("BatchNormalization" in op for op in found) == ("densenet" in path.stem)
        (y,) = run_packed(packed, {given.name: Runner.generate_dummy_data(given, seed=0, name="", random=False)})
    finally:
        packed.unlink()  # up to 550 MiB
    wanted = onnx.numpy_helper.to_array(onnx.load_tensor(str(path.with_suffix("")) + "_output_0.pb"))
    np.testing.assert_allclose(y, wanted, rtol=1e-3, atol=1e-6)
