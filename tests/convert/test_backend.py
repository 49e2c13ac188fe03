"""The test cases that the `onnx` package brings: each operator alone, and whole networks.

A case is used if all its operators are converted or folded, some input or output is float32, and all outputs are
float32, truth values or indices. `EXCLUDED` has the exceptions with reasons. The first float32 input is the model's
input. All others become constants, as they are in a trained model. No model can have an output that is a constant. Such
an output is therefore added to one more input, which is zeros.
"""

from __future__ import annotations

import functools
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from convert.support import onnx, ops, random, run_packed
from streamrt.convert.onnx.ops import CONVERSIONS
from streamrt.format import read_header
from streamrt.ops import supported

#: Operators without a conversion that are computed when packing: from the extents of an input, or from constants.
MEASURED, FOLDED = {"Shape", "Size"}, {"ConstantOfShape", "Range"}
OPERATORS = CONVERSIONS.keys() | MEASURED | FOLDED

#: A part of the name of each case that is refused, and the reason.
EXCLUDED = {
    "pool_3d": "windows have one or two axes",
    "convtranspose_3d": "windows have one or two axes",
    "training": "it is about training",
    "dropout_default_mask": "a mask that is true everywhere, which depends on no input",
    "maxpool_with_argmax": "the indices of MaxPool are for the way back, in training",
    "pow_types_int64_float32": "the base is int64, so it becomes a constant, and constants are float32",
    "empty_set": "a tensor without elements",
    "zero_size": "a tensor without elements",
    "allowzero_reordered": "a tensor without elements",
    "start_out_of_bounds": "a tensor without elements",
    "start_greater_than_end": "a tensor without elements",
    "rotary_embedding_expanded": "a part without elements",
    "rotary_embedding_3d_input": "a part without elements",
    "rotary_embedding_interleaved": "a part without elements",
    "no_position_ids_expanded": "a part without elements",
    "no_position_ids_interleaved": "a part without elements",
    "resize_upsample_scales_cubic": "Resize is nearest or linear",
    "resize_upsample_sizes_cubic": "Resize is nearest or linear",
    "resize_downsample_scales_cubic": "Resize is nearest or linear",
    "resize_downsample_sizes_cubic": "Resize is nearest or linear",
    "antialias": "Resize is nearest or linear",
    "tf_crop_and_resize": "Resize takes no region",
    "not_larger": "Resize keeps no aspect ratio",
    "not_smaller": "Resize keeps no aspect ratio",
}
#: The cases that must run. A newer onnx package may have more.
AT_LEAST = 596

#: Operators of classic CNNs, besides convolutions, pooling and plain arithmetic.
OF_CLASSIC_NETWORKS = {
    *("ConvTranspose", "Resize", "Upsample", "InstanceNormalization", "LayerNormalization", "GlobalLpPool", "LpPool"),
    *("Gather", "Shape", "Range", "Cast", "Where", "Expand", "ReduceSum", "ReduceMax", "ArgMax", "Exp", "Log", "Sqrt"),
    *("Pow", "Erf", "Softplus", "Selu", "Min", "Max", "Neg", "DepthToSpace", "SpaceToDepth"),
}
#: Operators without a case that runs, and the reason.
WITHOUT_A_CASE = {
    "GlobalLpPool": "the onnx package has no case of it",
    "And": "its cases have truth values alone, which no input can be",
    "Not": "its cases have truth values alone, which no input can be",
    "Xor": "its cases have truth values alone, which no input can be",
}


def is_float(value: Any) -> bool:
    return bool(value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT)


def can_be_output(value: Any) -> bool:
    kinds = onnx.TensorProto
    return value.type.tensor_type.elem_type in (kinds.FLOAT, kinds.BOOL, kinds.INT64)


@functools.cache
def node_cases() -> dict[str, Any]:
    """The cases that are used, by name."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings(action="ignore"):  # the cases of other operators overflow on purpose
        cases = collect_testcases(None)
    return {
        case.name.removeprefix("test_"): case
        for case in cases
        if case.model is not None
        and any(map(is_float, [*case.model.graph.input, *case.model.graph.output]))
        and all(map(can_be_output, case.model.graph.output))
        and {node.op_type for node in case.model.graph.node} <= OPERATORS
    }


def is_excluded(name: str) -> bool:
    return any(word in name for word in EXCLUDED)


def as_array(value: Any) -> np.ndarray:
    """A value of a case. It is a protocol buffer if NumPy does not have its type."""
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def given_input(graph: Any) -> str | None:
    """The name of the model's input: it is read, and nothing that is folded depends on it."""
    read = {name for node in graph.node for name in node.input}
    read -= {name for node in graph.node if node.op_type in FOLDED for name in node.input}
    return next((value.name for value in graph.input if is_float(value) and value.name in read), None)


def known_outputs(graph: Any, given: str | None) -> list[Any]:
    """The outputs that do not depend on the values of the given input."""
    computed = {given}
    for node in graph.node:
        if node.op_type not in MEASURED and any(name and name in computed for name in node.input):
            computed.update(node.output)
    return [value for value in graph.output if value.name not in computed]


def add_to_zeros(graph: Any, output: Any) -> str:
    """Add one more float32 input to a known output; returns the name of the input."""
    name = str(output.name)
    known, number, zeros = (f"{name}.{suffix}" for suffix in ("known", "number", "zeros"))
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [known if other == name else other for other in names]
    output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    graph.input.add().CopyFrom(output)
    graph.input[-1].name = zeros
    graph.node.append(onnx.helper.make_node("Cast", [known], [number], to=onnx.TensorProto.FLOAT))
    graph.node.append(onnx.helper.make_node("Add", [number, zeros], [name]))
    return zeros


def run_case(case: Any, folder: Path) -> None:
    """Pack, run, and compare with the outputs of the case."""
    inputs, outputs = case.data_sets[0]
    model = onnx.ModelProto.FromString(case.model.SerializeToString())
    given = given_input(model.graph)
    known = {value.name for value in known_outputs(model.graph, given)}
    feeds: dict[str, Any] = {}
    for value, array in zip(model.graph.input, inputs, strict=True):
        if value.name == given:
            feeds[value.name] = as_array(array)
        elif value.type.tensor_type.elem_type:
            made = isinstance(array, onnx.TensorProto)
            model.graph.initializer.append(array if made else onnx.numpy_helper.from_array(np.asarray(array)))
            model.graph.initializer[-1].name = value.name
    answers = [as_array(wanted) for wanted in outputs]
    for index, value in enumerate(model.graph.output):
        if value.name in known:
            answers[index] = answers[index].astype(np.float32)
            feeds[add_to_zeros(model.graph, value)] = np.zeros_like(answers[index])
    path = streamrt.pack(model, folder / "out.safetensors")
    for found, wanted in zip(run_packed(path, feeds), answers, strict=True):
        assert found.dtype == wanted.dtype
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, rtol=case.rtol, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in node_cases() if not is_excluded(name)])
def test_node(name: str, tmp_path: Path) -> None:
    run_case(node_cases()[name], tmp_path)


@pytest.mark.parametrize("name", [name for name in node_cases() if is_excluded(name)])
def test_excluded_cases_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(streamrt.StreamrtError):
        run_case(node_cases()[name], tmp_path)


@pytest.mark.parametrize("name", ["shape", "size"])
def test_a_value_that_is_known_when_packing_cannot_be_an_output(name: str, tmp_path: Path) -> None:
    """This is why `run_case` adds zeros to such outputs."""
    with pytest.raises(streamrt.UnsupportedModelError, match="does not depend on the values of any input"):
        streamrt.pack(node_cases()[name].model, tmp_path / "out.safetensors")


def test_enough_cases_run() -> None:
    count = sum(not is_excluded(name) for name in node_cases())
    print(f"{count} cases run")  # `pytest -rP` shows it
    assert count >= AT_LEAST, f"{count} cases run"
    for word in EXCLUDED:
        assert any(word in name for name in node_cases()), word


def test_every_operator_has_a_conversion() -> None:
    assert supported() <= CONVERSIONS.keys()


def test_every_operator_runs_in_some_case() -> None:
    """This fails if the rule in the module's docstring selects too few cases."""
    runs = [case.model.graph for name, case in node_cases().items() if not is_excluded(name)]
    assert OF_CLASSIC_NETWORKS <= OPERATORS
    assert OPERATORS - {node.op_type for graph in runs for node in graph.node} <= WITHOUT_A_CASE.keys()


LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
NETWORKS = {
    *("bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet"),
    *("vgg19", "zfnet512"),
}
#: Networks with hundreds of MiB of weights in dense layers.
HUGE = {"bvlc_alexnet", "vgg19", "zfnet512"}


def name_of(path: Path) -> str:
    return path.stem.removeprefix("light_")


def test_all_networks_are_there() -> None:
    assert set(map(name_of, LIGHT.glob("*.onnx"))) >= NETWORKS


@pytest.mark.parametrize("path", sorted(LIGHT.glob("*.onnx")), ids=name_of)
def test_networks(path: Path, tmp_path: Path) -> None:
    """Well-known networks with weights made by ConstantOfShape: they fold as they should, and the answer is right."""
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


def with_random_weights(path: Path) -> Any:
    """A network with random weights of a fixed seed that keep the magnitude of values. Its logits are outputs, too."""
    graph = onnx.load(path).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type != "ConstantOfShape"]
    uses = {
        name: (node.op_type, index, node.output[0]) for node in reversed(nodes) for index, name in enumerate(node.input)
    }

    def use(name: str) -> tuple[str, int]:
        """The operator that reads a tensor, and the index of the input; views are skipped."""
        op, index, output = uses[name]
        return use(output) if op in ("Unsqueeze", "Reshape") else (op, index)

    rng = np.random.default_rng(0)
    for node in graph.node:
        if node.op_type == "ConstantOfShape":
            shape = tuple(constants[node.input[0]])
            if len(shape) > 1:  # of a convolution, or a dense layer, before a Relu
                value = rng.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:]))
            elif use(node.output[0]) in (("BatchNormalization", 1), ("BatchNormalization", 4), ("Mul", 1)):
                value = rng.uniform(0.75, 1.25, shape)  # scales and variances
            else:
                value = rng.standard_normal(shape) / 10
            constants[node.output[0]] = value.astype(np.float32)
    logits = [node.input[0] for node in nodes if node.op_type == "Softmax"]
    read = {name for node in nodes for name in node.input}
    return onnx.helper.make_model(
        onnx.helper.make_graph(
            nodes,
            graph.name,
            [value for value in graph.input if value.name not in constants],
            [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in logits]
            + list(graph.output),
            [onnx.numpy_helper.from_array(value, name) for name, value in constants.items() if name in read],
        ),
        opset_imports=onnx.load(path).opset_import,
        ir_version=8,  # for a runtime that is older than the onnx package
    )


@pytest.mark.extras
@pytest.mark.parametrize("name", sorted(NETWORKS - HUGE))
def test_networks_with_random_weights(name: str, tmp_path: Path) -> None:
    """With equal weights, swapped channels would not show. ONNX Runtime gives the right answer."""
    runtime = pytest.importorskip("onnxruntime")
    model = with_random_weights(LIGHT / f"light_{name}.onnx")
    (given,) = model.graph.input
    feeds = {given.name: random(*(dim.dim_value for dim in given.type.tensor_type.shape.dim))}
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    path = streamrt.pack(model, tmp_path / "out.safetensors")
    for found, wanted in zip(run_packed(path, feeds), session.run(None, feeds), strict=True):
        largest = np.abs(wanted).max()
        assert found.shape == wanted.shape
        assert np.isfinite(largest)
        assert np.ptp(wanted) > largest / 10
        assert np.abs(found - wanted).max() <= 1e-4 * largest
    path.unlink()
