"""Messages of gRPC to requests, and results to messages: valid ones arrive unchanged, others are refused with a reason.

Messages are made with the classes of Triton's client.
"""

from __future__ import annotations

import math
import subprocess
import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from markers import needs
from streamrt.graph import TYPES

pytestmark = pytest.mark.extras
needs("grpc", "google.protobuf", "starlette", "prometheus_client", "tritonclient.grpc")

from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse  # noqa: E402

from streamrt.serve.protocol import DATATYPES, InferRequest, Output  # noqa: E402
from streamrt.serve.refusal import ProtocolError, UnrepresentableError  # noqa: E402
from streamrt.serve.rpc import codec  # noqa: E402

LIMIT = 1 << 20
CONTENTS = {
    "bool": "bool_contents",
    "int8": "int_contents",
    "int16": "int_contents",
    "int32": "int_contents",
    "int64": "int64_contents",
    "uint8": "uint_contents",
    "uint16": "uint_contents",
    "uint32": "uint_contents",
    "float32": "fp32_contents",
    "float64": "fp64_contents",
}


def parse(message: bytes) -> tuple[str, str | None, InferRequest]:
    return codec.parse_infer(codec.split(message, LIMIT))


def request(inputs: Mapping[str, np.ndarray], typed: bool = False, **fields: Any) -> Any:
    message = ModelInferRequest(**fields)
    for name, array in inputs.items():
        tensor = message.inputs.add(name=name, datatype=DATATYPES[array.dtype.name], shape=array.shape)
        if typed:
            getattr(tensor.contents, CONTENTS[array.dtype.name]).extend(array.ravel().tolist())
        else:
            message.raw_input_contents.append(array.tobytes())
    return message


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
arrays = st_numpy.arrays(np.float32, st_numpy.array_shapes(min_dims=0, max_dims=4, max_side=4))


@given(
    inputs=st.dictionaries(names, arrays, max_size=4),
    typed=st.booleans(),
    outputs=st.lists(names, unique=True, max_size=3),
    id_=st.text(st.characters(exclude_categories=["Cs"]), max_size=50),
    version=st.sampled_from(["", "1"]),
)
def test_valid_requests_arrive_unchanged(
    inputs: dict[str, np.ndarray], typed: bool, outputs: list[str], id_: str, version: str
) -> None:
    """NaN and infinities, too, which JSON cannot express."""
    message = request(inputs, typed, model_name="m", model_version=version, id=id_)
    message.parameters["priority"].uint64_param = 2**64 - 1
    message.parameters["timeout"].int64_param = -1
    message.parameters["ratio"].double_param = 0.5
    for output in outputs:
        message.outputs.add(name=output).parameters["mood"].string_param = "good"
    model, wanted, found = parse(message.SerializeToString())
    assert (model, wanted, found.id) == ("m", version or None, id_ or None)
    assert found.outputs == (tuple(map(Output, outputs)) or None)
    assert list(found.inputs) == list(inputs)
    for name, array in inputs.items():
        assert found.inputs[name].dtype == np.float32
        assert found.inputs[name].shape == array.shape
        np.testing.assert_array_equal(found.inputs[name], array)


def of_type(dtype: str) -> np.ndarray:
    if dtype == "bool":
        return np.array([[True, False, True]])
    if dtype.startswith("float"):
        return np.array([[0.5, -1.25, np.nan]], dtype)
    return np.array([[np.iinfo(dtype).min, np.iinfo(dtype).max, 7]], dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("typed", [True, False])
def test_every_type_arrives_and_is_sent(dtype: str, typed: bool) -> None:
    array = of_type(dtype)
    if typed and dtype == "float16":
        message = ModelInferRequest()
        message.inputs.add(name="x", datatype="FP16", shape=[1, 3]).contents.fp32_contents.extend([1, 2, 3])
        with pytest.raises(ProtocolError, match="expected raw_input_contents, since contents have no field for FP16"):
            parse(message.SerializeToString())
    else:
        found = parse(request({"x": array}, typed).SerializeToString())[2].inputs["x"]
        assert (found.dtype, found.shape) == (dtype, (1, 3))
        np.testing.assert_array_equal(found, array)
    sent = ModelInferResponse.FromString(codec.encode_infer("m", "1", InferRequest({}), {"y": array}))
    (output,) = sent.outputs
    assert (output.datatype, output.shape) == (DATATYPES[dtype], [1, 3])
    assert sent.raw_output_contents == [array.tobytes()]


def test_a_truth_value_is_any_byte() -> None:
    message = ModelInferRequest(raw_input_contents=[b"\x00\x01\x02\xff"])
    message.inputs.add(name="x", datatype="BOOL", shape=[4])
    array = parse(message.SerializeToString())[2].inputs["x"]
    np.testing.assert_array_equal(array.astype(np.float32), [0, 1, 1, 1])


def test_raw_contents_are_not_copied() -> None:
    message = request({"x": np.zeros(1 << 20, np.float32), "y": np.ones((1, 2), np.float32)}).SerializeToString()
    tracemalloc.start()
    found = parse(message)[2].inputs
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 1 << 18
    held = np.frombuffer(message, np.uint8)
    assert all(np.shares_memory(array, held) for array in found.values())


def test_parts_of_a_message_may_come_in_any_order() -> None:
    """protobuf joins parts of a message, and a tensor's contents may come before the tensor."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    whole = request({"x": array, "y": -array}, model_name="m", id="me")
    parts = []
    for content in whole.raw_input_contents:
        parts.append(ModelInferRequest(raw_input_contents=[content]).SerializeToString())
        parts.append(ModelInferRequest(model_name="overwritten").SerializeToString())
    whole.ClearField("raw_input_contents")
    name, _, found = parse(b"".join(parts) + whole.SerializeToString())
    assert (name, found.id) == ("m", "me")
    np.testing.assert_array_equal(found.inputs["x"], array)
    np.testing.assert_array_equal(found.inputs["y"], -array)


def varying(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varying(value >> 7)


def field(number: int, content: bytes) -> bytes:
    return varying(number << 3 | 2) + varying(len(content)) + content


def test_numbers_that_are_not_packed() -> None:
    tensor = field(1, b"x") + field(2, b"INT32") + b"\x18\x01\x18\x03"
    contents = b"\x10\x05\x10" + varying(2**64 - 1) + b"\x10\x07"
    found = parse(field(5, tensor + field(5, contents)))[2].inputs["x"]
    np.testing.assert_array_equal(found, [[5, -1, 7]])


def test_unknown_fields_are_ignored() -> None:
    known = request({"x": np.ones(2, np.float32)}).SerializeToString()
    unknown = field(99, b"\xff" * 20) + b"\xc8\x06\x01" + b"\xcd\x06abcd" + b"\xc9\x06abcdefgh"
    for message in (known + unknown, unknown + known):
        np.testing.assert_array_equal(parse(message)[2].inputs["x"], [1, 1])


def refused_or_bounded(message: bytes) -> None:
    """Any message is refused, or makes arrays that are not larger than the message allows."""
    try:
        found = parse(message)[2]
    except ProtocolError:
        return
    for array in found.inputs.values():
        assert array.dtype in TYPES
        assert array.size == math.prod(array.shape) > 0
    assert sum(array.nbytes for array in found.inputs.values()) <= 8 * len(message)


@given(st.binary(max_size=300))
@example(b"")
@example(b"\x2a\x00")
@example(b"\x3a\x00" * 3)
@example(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
def test_any_bytes(message: bytes) -> None:
    refused_or_bounded(message)


@given(
    inputs=st.dictionaries(names, arrays, min_size=1, max_size=2),
    typed=st.booleans(),
    changes=st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, 30),
)
def test_damaged_requests(inputs: dict[str, np.ndarray], typed: bool, changes: list[tuple[int, int]], cut: int) -> None:
    damaged = bytearray(request(inputs, typed, model_name="m").SerializeToString())
    for place, value in changes:
        damaged[place % len(damaged)] = value
    del damaged[max(0, len(damaged) - cut) :]
    refused_or_bounded(bytes(damaged))


def hostile(change: Callable[[Any], None]) -> bytes:
    """A request with the input ``x`` of two numbers as raw contents, after a change."""
    message = request({"x": np.ones(2, np.float32)}, model_name="m")
    change(message)
    return bytes(message.SerializeToString())


def on_tensor(typed: bool = False, **fields: Any) -> bytes:
    message = ModelInferRequest(raw_input_contents=[] if typed else [bytes(8)])
    message.inputs.add(**{"name": "x", "datatype": "FP32", "shape": [2]} | fields)
    return bytes(message.SerializeToString())


HUGE = 2**62
HOSTILE: dict[str, tuple[bytes, str]] = {
    "text": (b"GET / HTTP/1.1", "expected a message inference.ModelInferRequest, found other bytes"),
    "a length beyond the end": (b"\x3a\x7f" + bytes(8), "found other bytes"),
    "a length without an end": (b"\x3a\xff\xff", "found other bytes"),
    "a length of 10 bytes": (b"\x3a" + b"\xff" * 9 + b"\x01", "found other bytes"),
    "a number of 11 bytes": (b"\x08" + b"\xff" * 10 + b"\x01", "found other bytes"),
    "a group": (b"\x0b\x0c", "found other bytes"),
    "an unknown wire type": (b"\x0f", "found other bytes"),
    "a cut number": (b"\x0d\x00", "found other bytes"),
    "a name that is no UTF-8": (field(1, b"\xff"), "found other bytes"),
    "a tensor that is no message": (field(5, b"\xff\xff"), "found other bytes"),
    "a tensor that ends in another": (field(5, b"\x0a\x05x"), "found other bytes"),
    "many tensors": (b"\x2a\x00" * 10_001, "expected at most 10000 fields, found more: send numbers packed"),
    "many parameters": (field(5, b"\x22\x00" * 10_000), "expected at most 10000 fields"),
    "many values": (field(5, field(5, b"\x10\x01" * 10_000)), "expected at most 10000 fields"),
    "many raw contents": (b"\x3a\x00" * 10_001, "expected at most 10000 fields"),
    "much beside raw contents": (
        field(1, bytes(LIMIT + 1)),
        f"expected at most {LIMIT} bytes beside raw_input_contents (--max-json), found {LIMIT + 5}: send tensors in",
    ),
    "contents for nobody": (
        field(7, bytes(8)), "raw_input_contents: expected one for each of 0 inputs, or none, found 1"),
    "more contents": (
        hostile(lambda m: m.raw_input_contents.append(b"")), "expected one for each of 1 inputs, or none, found 2"),
    "fewer contents": (
        hostile(lambda m: m.inputs.add(name="y", datatype="FP32", shape=[1])), "each of 2 inputs, or none, found 1"),
    "too few bytes": (on_tensor(shape=[3]), "input 'x': expected 12 bytes for shape [3], found 8"),
    "too many bytes": (on_tensor(shape=[1]), "input 'x': expected 4 bytes for shape [1], found 8"),
    "bytes for a scalar": (on_tensor(shape=[]), "input 'x': expected 4 bytes for shape [], found 8"),
    "bytes of another type": (on_tensor(datatype="FP16"), "input 'x': expected 4 bytes for shape [2], found 8"),
    "a shape that overflows": (on_tensor(shape=[HUGE, 4]), "expected 73786976294838206464 bytes"),
    "a shape that overflows to its bytes": (on_tensor(shape=[2**33, 2**30, 2]), "bytes for shape"),
    "typed numbers for a shape that overflows": (on_tensor(True, shape=[HUGE, 4]), "expected 18446744073709551616 num"),
    "a shape of many": (on_tensor(shape=[1] * 33), "expected a shape of at most 32 whole numbers above 0, found a"),
    "a shape of very many": (on_tensor(shape=[1] * 100_000), "whole numbers above 0, found a list"),
    "a negative extent": (on_tensor(shape=[-2]), "whole numbers above 0, found [-2]"),
    "an extent of 0": (on_tensor(shape=[0]), "whole numbers above 0, found [0]"),
    "a large extent": (on_tensor(shape=[2**63 - 1]), "whole numbers above 0, found [9223372036854775807]"),
    "no name": (on_tensor(name=""), "an input: expected a name of 1 to 1024 characters, found a string of 0"),
    "a long name": (on_tensor(name="n" * 1025), "an input: expected a name"),
    "a type of words": (on_tensor(datatype="d" * 9999), "expected datatype FP32 or"),
    "BYTES": (on_tensor(datatype="BYTES"), "or BOOL, found 'BYTES'"),
    "BF16": (on_tensor(datatype="BF16"), "found 'BF16': send bfloat16 as FP32"),
    "UINT64": (on_tensor(datatype="UINT64"), "found 'UINT64'"),
    "one name twice": (
        hostile(lambda m: (m.inputs.append(m.inputs[0]), m.raw_input_contents.append(bytes(8)))),
        "input 'x': expected one tensor of this name, found two"),
    "both forms": (
        hostile(lambda m: m.inputs[0].contents.fp32_contents.append(1)),
        "input 'x': expected contents or raw_input_contents, found both"),
    "neither form": (on_tensor(True), "input 'x': expected 2 numbers for shape [2], found 0"),
    "too few numbers": (
        on_tensor(True, contents={"fp32_contents": [1]}), "input 'x': expected 2 numbers for shape [2], found 1"),
    "too many numbers": (
        on_tensor(True, contents={"fp32_contents": [1] * 3}), "input 'x': expected 2 numbers for shape [2], found 3"),
    "numbers of another type": (
        on_tensor(True, contents={"int_contents": [1, 2]}),
        "input 'x': expected fp32_contents for datatype FP32, found int_contents"),
    "numbers of two types": (
        on_tensor(True, contents={"fp32_contents": [1, 2], "bytes_contents": [b""]}), "FP32, found bytes_contents"),
    "a number beyond int8": (
        on_tensor(True, datatype="INT8", contents={"int_contents": [1, 128]}),
        "input 'x': expected whole numbers from -128 to 127, as int8 has"),
    "a number beyond uint16": (
        on_tensor(True, datatype="UINT16", contents={"uint_contents": [1, 2**16]}), "from 0 to 65535, as uint16 has"),
    "an id of 1025": (hostile(lambda m: setattr(m, "id", "i" * 1025)), "id: expected a string of at most 1024"),
    "a parameter without a value": (
        hostile(lambda m: m.parameters["a"].Clear()), "parameter 'a': expected a string, a number, true or false"),
    "a sequence": (
        hostile(lambda m: setattr(m.parameters["sequence_id"], "int64_param", 3)), "sequences are not supported"),
    "shared memory": (
        hostile(lambda m: setattr(m.inputs[0].parameters["shared_memory_region"], "string_param", "r")),
        "input 'x': shared memory is not supported"),
    "a classification": (
        hostile(lambda m: setattr(m.outputs.add(name="y").parameters["classification"], "int64_param", 3)),
        "output 'y': classification is not supported"),
    "one output twice": (
        hostile(lambda m: (m.outputs.add(name="y"), m.outputs.add(name="y"))),
        "output 'y': expected one request for this output, found two"),
    "an output without a name": (hostile(lambda m: m.outputs.add()), "an output: expected a name"),
    "an output in words": (
        hostile(lambda m: setattr(m.outputs.add(name="y").parameters["binary_data"], "string_param", "no")),
        "parameter 'binary_data': expected true or false, found a string of 2"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_requests_are_refused_before_anything_is_allocated(name: str) -> None:
    message, reason = HOSTILE[name]
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError) as refused:
            parse(message)
        # A field takes 1 KiB at most.
        assert tracemalloc.get_traced_memory()[1] < len(message) + ((10 << 20) if "many" in name else (1 << 20))
    finally:
        tracemalloc.stop()
    assert reason in str(refused.value)


def test_fields_up_to_the_limit_are_accepted() -> None:
    message = request({"x": np.ones(2, np.float32)})
    for index in range(2_400):  # a parameter has three fields beside its own
        message.inputs[0].parameters[f"p{index}"].bool_param = True
    assert parse(message.SerializeToString())[2].inputs["x"].shape == (2,)


def test_all_outputs_are_raw_contents() -> None:
    results = {"y": np.float32([[1.5, np.inf]]), "above": np.array([True, False]), "best": np.array(7)}
    request_ = InferRequest({}, (Output("best", True), Output("y", False)), "me")
    message = ModelInferResponse.FromString(codec.encode_infer("m", "1", request_, results))
    assert (message.model_name, message.model_version, message.id) == ("m", "1", "me")
    told = [(output.name, output.datatype, list(output.shape)) for output in message.outputs]
    assert told == [("best", "INT64", []), ("y", "FP32", [1, 2])]
    assert message.raw_output_contents == [results["best"].tobytes(), results["y"].tobytes()]
    everything = ModelInferResponse.FromString(codec.encode_infer("m", "1", InferRequest({}), results))
    assert [output.name for output in everything.outputs] == ["y", "above", "best"]
    assert everything.id == ""


def test_results_that_are_not_contiguous() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T
    message = ModelInferResponse.FromString(codec.encode_infer("m", "1", InferRequest({}), {"y": array}))
    assert message.raw_output_contents == [np.ascontiguousarray(array).tobytes()]


def test_results_too_large_for_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    results = {"y": np.zeros(1000, np.float32)}
    size = len(codec.encode_infer("m", "1", InferRequest({}), results))
    monkeypatch.setattr(codec, "_MAX_MESSAGE", size)
    assert len(codec.encode_infer("m", "1", InferRequest({}), results)) == size
    monkeypatch.setattr(codec, "_MAX_MESSAGE", size - 1)
    with pytest.raises(UnrepresentableError, match=f"the results take {size} bytes, and a message of gRPC has at most"):
        codec.encode_infer("m", "1", InferRequest({}), results)


#: Python that makes the part of a tensor that takes the most memory once parsed, from the number of its bytes.
LARGE = {
    "a shape": "field(5, field(3, b'\\1' * size))",
    "numbers of 64 bits": "field(5, tensor('INT64') + field(5, field(3, b'\\1' * size)))",
    "numbers of 32 bits": "field(5, tensor('INT8') + field(5, field(2, b'\\1' * size)))",
    "truth values": "field(5, tensor('BOOL') + field(5, field(1, b'\\1' * size)))",
    "a name": "field(1, b'a' * size)",
    "as many parameters as there may be": "b''.join(field(4, field(1, b'%x' % i)) for i in range(5000))",
    "as many tensors as there may be": "field(5, b'') * 9999",
    "as many contents as there may be": "field(7, b'') * 9999",
}


@pytest.mark.parametrize("name", LARGE)
def test_parsing_takes_no_more_memory_than_was_counted(
    run_python: Callable[..., subprocess.CompletedProcess[str]], name: str
) -> None:
    """protobuf's memory is not Python's, so the peak of the process is measured."""
    code = """
        import sys
        from streamrt.serve.refusal import ProtocolError
        from streamrt.serve.rpc import codec
        from streamrt.serve.rpc.wire import bytes_field

        def field(number, content):
            return bytes_field(number, len(content)) + content

        def tensor(datatype):
            return field(1, b"x") + field(2, datatype.encode()) + field(3, bytes_field(0, size)[1:])

        def memory(key):
            return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) << 10

        size = 1 << 10
        for size in (1 << 10, 8 << 20):  # the first run imports and allocates what later runs share
            message = eval(sys.argv[1])
            open("/proc/self/clear_refs", "w").write("5")
            before = memory("VmRSS")
            parts = codec.split(message, 16 << 20)
            try:
                codec.parse_infer(parts)
            except ProtocolError as error:
                reason = str(error)
            else:
                reason = ""
        print(len(parts.rest), parts.weight, memory("VmHWM") - before, reason)
    """
    done = run_python(code, LARGE[name])
    assert done.returncode == 0, done.stderr
    size, weight, peak, *reason = done.stdout.split()
    # `split` copies the rest, and the process has buffers of its own.
    assert int(peak) < int(weight) + int(size) + (4 << 20), reason
