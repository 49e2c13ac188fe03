"""The cases that the `onnx` package brings for quantisation and products of integers.

The first input of a case is computed: of integers by a QuantizeLinear with the scale 1, from the float32 input of the
model. The other inputs are constants. A DequantizeLinear with the scale 1 makes float32 of results that are integers.
"""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from convert.support import onnx, run_packed

CASES_OF = ("quantizelinear", "dequantizelinear", "dynamicquantizelinear", "qlinear", "convinteger", "matmulinteger")
#: A part of the name of each case that is refused, and the reason.
EXCLUDED = {
    "expanded": "values are cast to integers",
    "blocked": "scales of blocks are for weights",
    "e4m3fn": "floating-point numbers of 8 bits",
    "e5m2": "floating-point numbers of 8 bits",
    "float4": "integers of activations have 8 or 16 bits",
    "int4": "integers of activations have 8 or 16 bits",
    "int2": "integers of activations have 8 or 16 bits",
}
#: The cases that must run.
AT_LEAST = 23
#: Cases in which float16 arithmetic of the reference gives other integers, one step away.
ONE_STEP = ("float16",)

node = onnx.helper.make_node


@functools.cache
def cases() -> dict[str, Any]:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings(action="ignore"):
        found = {case.name.removeprefix("test_"): case for case in collect_testcases(None) if case.model is not None}
    return {name: case for name, case in found.items() if name.startswith(CASES_OF)}


def is_excluded(name: str) -> bool:
    return any(word in name for word in EXCLUDED)


def scaled_by_one(op: str, source: str, target: str, dtype: np.dtype[Any], made: Any) -> Any:
    """A QuantizeLinear or a DequantizeLinear with the scale 1; its constants are added to ``made``."""
    made.append(onnx.numpy_helper.from_array(np.ones((), np.float32), f"{target}.one"))
    made.append(onnx.numpy_helper.from_array(np.zeros((), dtype), f"{target}.zero"))
    return node(op, [source, f"{target}.one", f"{target}.zero"], [target])


def run_case(case: Any, folder: Path) -> None:
    inputs, outputs = case.data_sets[0]
    graph = onnx.ModelProto.FromString(case.model.SerializeToString()).graph
    first, *others = graph.input
    constants, nodes = list(graph.initializer), list(graph.node)
    for value, array in zip(others, inputs[1:], strict=True):
        made = array if isinstance(array, onnx.TensorProto) else onnx.numpy_helper.from_array(np.asarray(array))
        constants.append(made)
        constants[-1].name = value.name
    x = onnx.numpy_helper.to_array(inputs[0]) if isinstance(inputs[0], onnx.TensorProto) else np.asarray(inputs[0])
    given = first.name
    if x.dtype != np.float32:
        given = f"{first.name}.given"
        nodes.insert(0, scaled_by_one("QuantizeLinear", given, first.name, x.dtype, constants))
    answers, names = [], []
    for value, answer in zip(graph.output, outputs, strict=True):
        wanted = onnx.numpy_helper.to_array(answer) if isinstance(answer, onnx.TensorProto) else np.asarray(answer)
        name = value.name
        if wanted.dtype.kind != "f":
            name = f"{value.name}.real"
            nodes.append(scaled_by_one("DequantizeLinear", value.name, name, wanted.dtype, constants))
        names.append(name)
        answers.append(wanted.astype(np.float32))
    info = onnx.helper.make_tensor_value_info
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            nodes,
            case.name,
            [info(given, onnx.TensorProto.FLOAT, x.shape)],
            [info(name, onnx.TensorProto.FLOAT, None) for name in names],
            constants,
        ),
        opset_imports=case.model.opset_import,
    )
    path = streamrt.pack(model, folder / "packed")
    for found, wanted in zip(run_packed(path, {given: x.astype(np.float32)}), answers, strict=True):
        assert found.shape == wanted.shape
        whole = np.array_equal(wanted, np.rint(wanted))
        step = 1.0 if any(word in case.name for word in ONE_STEP) else 0.0
        np.testing.assert_allclose(found, wanted, rtol=0 if whole else 1e-6, atol=step)


@pytest.mark.parametrize("name", [name for name in cases() if not is_excluded(name)])
def test_node(name: str, tmp_path: Path) -> None:
    run_case(cases()[name], tmp_path)


@pytest.mark.parametrize("name", [name for name in cases() if is_excluded(name)])
def test_excluded_cases_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(streamrt.UnsupportedModelError):
        run_case(cases()[name], tmp_path)


def test_enough_cases_run() -> None:
    count = sum(not is_excluded(name) for name in cases())
    assert count >= AT_LEAST, f"{count} cases run"
    for word in EXCLUDED:
        assert any(word in name for name in cases()), word
