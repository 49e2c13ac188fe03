"""The test cases that the `onnx` package brings: each operator alone, and whole networks."""

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

#: What these test is not supported.
_LEFT_OUT = (
    *("3d", "training", "mask", "argmax", "expand_dim", "allowzero_reordered", "start_out_of_bounds"),
    *("zero_size", "empty_set", "cast_", "castlike", "constant", "shape_", "swiglu_float16"),
)


@functools.cache
def node_cases() -> dict[str, Any]:
    """The cases of the operators that are converted, by name."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings(action="ignore"):  # the cases of other operators overflow on purpose
        cases = collect_testcases(None)
    return {
        case.name: case
        for case in cases
        if case.model is not None
        and all(_is_float(value) for value in (*case.model.graph.input[:1], *case.model.graph.output))
        and {node.op_type for node in case.model.graph.node} <= CONVERSIONS.keys()
        and not any(word in case.name for word in _LEFT_OUT)
    }


def _is_float(value: Any) -> bool:
    return bool(value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT)


def test_every_operator(tmp_path: Path) -> None:
    """All but the first input become constants, for that is what they are in a trained model."""
    cases = node_cases()
    assert len(cases) > 150
    for name, case in cases.items():
        inputs, outputs = case.data_sets[0]
        model = onnx.ModelProto.FromString(case.model.SerializeToString())
        names = [value.name for value in model.graph.input]
        for extra, value in zip(names[1:], inputs[1:], strict=True):
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), extra))
        path = streamrt.pack(model, tmp_path / "out.safetensors")
        for found, wanted in zip(run_packed(path, {names[0]: inputs[0]}), outputs, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=case.rtol, atol=1e-5, err_msg=name)


LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
#: Those of at most 150 MiB.
NETWORKS = ("densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet")


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str, tmp_path: Path) -> None:
    """Famous networks with weights made by ConstantOfShape: everything folds that should."""
    graph = read_header(streamrt.pack(LIGHT / f"light_{name}.onnx", tmp_path / "out.safetensors")).graph
    found = set(ops(graph))
    assert found.isdisjoint({"Dropout", "Identity", "Relu", "Constant", "ConstantOfShape"})
    assert any("BatchNormalization" in op for op in found) == ("densenet" in name)
