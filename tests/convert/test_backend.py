"""The test cases that the `onnx` package brings: each operator alone, and whole networks.

A case counts if its inputs are inputs of the packed model. Inputs that streamrt requires to be constant, and that
trained models have as constants, become constants (`CONSTANT_INPUTS`): weights, shapes, axes. Such cases are counted
apart. A case that does not count has a reason. It is found from the case (an operator without conversion, a type that
no input can have, an output that is known when packing), or it is in `EXCLUDED`.

Cases that do not count because of types or known outputs are still run where that is possible (`test_folded`). The
first float32 input is then the model's input, and all others are constants. No model can have an output that is a
constant. Such an output is therefore added to one more input, which is zeros.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from convert.support import onnx, ops, random, run_packed
from streamrt import graph as graphs
from streamrt.convert.onnx.constants import CONSTANT_INPUTS
from streamrt.convert.onnx.ops import CONVERSIONS
from streamrt.convert.refused import REFUSED
from streamrt.format import read_header
from streamrt.ops import supported

#: Operators without a conversion that are computed when packing: from the extents of an input, or from constants.
MEASURED, FOLDED = {"Shape", "Size"}, {"ConstantOfShape", "Range"}
OPERATORS = CONVERSIONS.keys() | MEASURED | FOLDED
#: The types of inputs and outputs of a model, by NumPy's names.
INPUT_TYPES = OUTPUT_TYPES = graphs.TYPES

#: A part of the name of each case that does not run although its operators and types are supported, and the reason. An
#: operator in front of it means the cases with that operator alone, not those that are spelled out.
EXCLUDED: dict[str, str] = {
    "training": "it is about training",
    "dropout_default_mask": "a mask that is true everywhere, which depends on no input",
    "maxpool_with_argmax": "the indices of MaxPool are for the way back, in training",
    "pow_types_int": "a power of integers",
    "top_k_same_values": "TopK of integers",
    "quantizelinear_blocked": "a scale for a block is for constants alone",
    "not_2d": "an opset below 7",
    "not_3d": "an opset below 7",
    "not_4d": "an opset below 7",
    "castlike_": "a tensor without elements",
    "empty_set": "a tensor without elements",
    "kernel_size_one_expanded": "a tensor without elements",
    "triu_zero": "a tensor without elements",
    "tril_zero": "a tensor without elements",
    "zero_size": "a tensor without elements",
    "allowzero_reordered": "a tensor without elements",
    "start_out_of_bounds": "a tensor without elements",
    "start_greater_than_end": "a tensor without elements",
    "rotary_embedding_expanded": "a part without elements",
    "rotary_embedding_3d_input_expanded": "a part without elements",
    "rotary_embedding_interleaved_expanded": "a part without elements",
    "no_position_ids_expanded": "a part without elements",
    "no_position_ids_interleaved_expanded": "a part without elements",
    "Attention qk_matmul": "Attention computes no output of scores",
    "Attention gqa_rank4_mask": "Attention computes no output of scores",
    "Attention nonpad": "Attention takes no numbers of keys",
    "Attention padded_kv": "Attention takes no numbers of keys",
    "Attention ext_cache": "Attention takes no numbers of keys",
    "nllloss_NCd1d2d3d4d5": "more indices than an attribute can have",
    "tf_crop_and_resize": "Resize takes no region",
    "not_larger": "Resize keeps no aspect ratio",
    "not_smaller": "Resize keeps no aspect ratio",
}
#: The cases that must run. A newer onnx package may have more.
AT_LEAST = {"with all inputs": 802, "with some inputs as constants": 376}
#: The cases that do not count, and that run with constants in place of all inputs except one.
AT_LEAST_FOLDED = 41

#: Operators of classic CNNs, besides convolutions, pooling and plain arithmetic.
OF_CLASSIC_NETWORKS = {
    *("ConvTranspose", "Resize", "Upsample", "InstanceNormalization", "LayerNormalization", "GlobalLpPool", "LpPool"),
    *("Gather", "Shape", "Range", "Cast", "Where", "Expand", "ReduceSum", "ReduceMax", "ArgMax", "Exp", "Log", "Sqrt"),
    *("Pow", "Erf", "Softplus", "Selu", "Min", "Max", "Neg", "DepthToSpace", "SpaceToDepth"),
}
#: Operators without a case that runs, and the reason.
WITHOUT_A_CASE = {"GlobalLpPool": "the onnx package has no case of it"}
#: An operator that packing makes of two others.
MADE = {"QuantizeDequantizeLinear"}


@functools.cache
def constant_indices(op: str) -> set[int]:
    """The indices of the inputs that must be constants."""
    schemas = [s for s in onnx.defs.get_all_schemas_with_history() if s.domain == "" and s.name == op]
    if not schemas:  # an operator of another domain
        return set()
    names = [given.name for given in max(schemas, key=lambda s: (not s.deprecated, s.since_version)).inputs]
    return set(map(names.index, CONSTANT_INPUTS.get(op, ())))


def is_float(value: Any) -> bool:
    return bool(value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT)


def can_be_output(value: Any) -> bool:
    kinds = onnx.TensorProto
    return value.type.tensor_type.elem_type in (kinds.FLOAT, kinds.BOOL, kinds.INT64)


@functools.cache
def all_cases() -> dict[str, Any]:
    """All cases, by name."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings(action="ignore"):  # the cases of other operators overflow on purpose
        cases = collect_testcases(None)
    return {case.name.removeprefix("test_"): case for case in cases if case.model is not None}


@functools.cache
def node_cases() -> dict[str, Any]:
    """The cases that count."""
    return {name: case for name, case in all_cases().items() if reason(name) is None}


@functools.cache
def folded_cases() -> dict[str, Any]:
    """The cases that do not count, and that run with constants in place of all inputs except one."""
    return {
        name: case
        for name, case in all_cases().items()
        if reason(name) is not None
        and not any(is_meant(word, case) for word in EXCLUDED)
        and any(map(is_float, [*case.model.graph.input, *case.model.graph.output]))
        and all(map(can_be_output, case.model.graph.output))
        and unsupported_operator(case.model.graph) is None
    }


def type_of(value: Any) -> str:
    """NumPy's name of the type of an input or output, or what it is if it is no tensor of numbers."""
    number = value.type.tensor_type.elem_type
    if not number:
        return "no tensor"
    return "text" if number == onnx.TensorProto.STRING else str(onnx.helper.tensor_dtype_to_np_dtype(number))


def unsupported_operator(graph: Any) -> str | None:
    """The first operator, by name, that has no conversion."""
    foreign = {node.op_type for node in graph.node if node.domain not in ("", "ai.onnx")}
    return min(foreign | ({node.op_type for node in graph.node} - OPERATORS), default=None)


@functools.cache
def reason(name: str) -> str | None:
    """Why a case does not count; None if it does."""
    graph = all_cases()[name].model.graph
    op = unsupported_operator(graph)
    if op is not None:
        return f"operator {op}" + (f": {REFUSED[op]}" if op in REFUSED else "")
    constants = constant_inputs(graph)
    given = [value for value in graph.input if value.name not in constants]
    foreign = sorted({type_of(value) for value in given} - set(INPUT_TYPES))
    if foreign:
        return f"an input of type {', '.join(foreign)}"
    foreign = sorted({type_of(value) for value in graph.output} - set(OUTPUT_TYPES))
    if foreign:
        return f"an output of type {', '.join(foreign)}"
    if known_outputs(graph, {value.name for value in given}):
        return "an output is known when packing"
    return next((why for word, why in EXCLUDED.items() if is_meant(word, all_cases()[name])), None)


def is_meant(word: str, case: Any) -> bool:
    """Whether a key of `EXCLUDED` is for a case."""
    *op, part = word.split()
    return part in case.name and set(op) <= {node.op_type for node in case.model.graph.node}


def constant_inputs(graph: Any) -> set[str]:
    """The inputs that must be constants, also through nodes between the input and the operator."""
    wanted: set[str] = set()
    for node in reversed(graph.node):
        indices = constant_indices(node.op_type)
        if node.op_type not in MEASURED and wanted.intersection(node.output):
            indices = set(range(len(node.input)))
        wanted.update(name for index, name in enumerate(node.input) if index in indices and name)
    return {value.name for value in graph.input if value.name in wanted}


def as_array(value: Any) -> np.ndarray:
    """A value of a case. It is a protocol buffer if NumPy does not have its type."""
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def given_input(graph: Any) -> str | None:
    """The name of the model's input: it is read, and nothing that is folded depends on it."""
    read = {name for node in graph.node for name in node.input}
    read -= {name for node in graph.node if node.op_type in FOLDED for name in node.input} | constant_inputs(graph)
    return next((value.name for value in graph.input if is_float(value) and value.name in read), None)


def known_outputs(graph: Any, given: set[str]) -> list[Any]:
    """The outputs that do not depend on the values of the given inputs."""
    computed = set(given)
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


def run_case(case: Any, folder: Path, given: set[str]) -> None:
    """Pack a case whose inputs are ``given``, run it, and compare with its outputs. Other inputs become constants."""
    inputs, outputs = case.data_sets[0]
    model = onnx.ModelProto.FromString(case.model.SerializeToString())
    known = {value.name for value in known_outputs(model.graph, given)}
    feeds: dict[str, Any] = {}
    for value, array in zip(model.graph.input, inputs, strict=True):
        if value.name in given:
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


def given_inputs(graph: Any) -> set[str]:
    return {value.name for value in graph.input} - constant_inputs(graph)


@pytest.mark.parametrize("name", node_cases())
def test_node(name: str, tmp_path: Path) -> None:
    case = all_cases()[name]
    run_case(case, tmp_path, given_inputs(case.model.graph))


@pytest.mark.parametrize("name", [name for name in all_cases() if reason(name) in EXCLUDED.values()])
def test_excluded_cases_are_refused(name: str, tmp_path: Path) -> None:
    case = all_cases()[name]
    with pytest.raises(streamrt.StreamrtError):
        run_case(case, tmp_path, given_inputs(case.model.graph))


@pytest.mark.parametrize("name", folded_cases())
def test_folded(name: str, tmp_path: Path) -> None:
    case = all_cases()[name]
    given = given_input(case.model.graph)
    run_case(case, tmp_path, set() if given is None else {given})


def counts() -> dict[str, int]:
    """How many cases count, in two classes."""
    apart = sum(bool(constant_inputs(case.model.graph)) for case in node_cases().values())
    return dict(zip(AT_LEAST, (len(node_cases()) - apart, apart), strict=True))


@pytest.mark.parametrize("name", ["shape", "size"])
def test_a_value_that_is_known_when_packing_cannot_be_an_output(name: str, tmp_path: Path) -> None:
    """This is why `run_case` adds zeros to such outputs."""
    with pytest.raises(streamrt.UnsupportedModelError, match="does not depend on the values of any input"):
        streamrt.pack(all_cases()[name].model, tmp_path / "out.safetensors")


def test_enough_cases_run() -> None:
    found = counts()
    why = Counter(filter(None, map(reason, all_cases())))
    print(*(f"{count:5} {what}" for what, count in (*found.items(), *why.most_common())), sep="\n")  # shown with -rP
    assert all(found[which] >= least for which, least in AT_LEAST.items()), found
    assert len(folded_cases()) >= AT_LEAST_FOLDED
    for word in EXCLUDED:
        assert any(is_meant(word, case) for case in all_cases().values()), word


def left_as_input(graph: Any, op: str, index: int) -> set[str]:
    """The inputs that a node reads as input ``index`` and that must be constants for no other reason."""
    names = {node.input[index] for node in graph.node if node.op_type == op and len(node.input) > index}
    others = {
        name
        for node in graph.node
        for position, name in enumerate(node.input)
        if position in constant_indices(node.op_type) and (node.op_type, position) != (op, index)
    }
    return {value.name for value in graph.input if value.name in names - others and type_of(value) in INPUT_TYPES}


@pytest.mark.parametrize("op", CONSTANT_INPUTS)
def test_inputs_that_must_be_constants_are_refused_as_inputs(op: str, tmp_path: Path) -> None:
    """No input is a constant in these tests that need not be one."""
    for index in constant_indices(op):
        for case in node_cases().values():
            graph = case.model.graph
            freed = left_as_input(graph, op, index)
            if freed:
                with pytest.raises(streamrt.StreamrtError):
                    run_case(case, tmp_path, given_inputs(graph) | freed)
                break


def test_operators_are_supported_or_refused() -> None:
    assert REFUSED.keys().isdisjoint(OPERATORS)
    assert {node.op_type for case in all_cases().values() for node in case.model.graph.node} & REFUSED.keys()


def test_every_operator_has_a_conversion() -> None:
    assert supported() - MADE <= CONVERSIONS.keys()


def test_every_operator_runs_in_some_case() -> None:
    """This fails if the rule in the module's docstring selects too few cases."""
    runs = [case.model.graph for case in (*node_cases().values(), *folded_cases().values())]
    assert OF_CLASSIC_NETWORKS <= OPERATORS
    assert OPERATORS - {node.op_type for graph in runs for node in graph.node} == WITHOUT_A_CASE.keys()


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
