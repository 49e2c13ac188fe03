"""Hostile ``.pt2`` files are refused before torch sees them. Files of tests that need torch are in `test_exported`."""

from __future__ import annotations

import os
import pickle
import random
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

from convert.exported_files import ROOT, Archive, named, node, symbol, tensor
from streamrt.convert.exported.archive import is_exported
from streamrt.convert.exported.program import Extent
from streamrt.convert.exported.source import checked, graph_names
from streamrt.convert.limits import Limits
from streamrt.convert.onnx.data import SourceFiles
from streamrt.errors import FormatError, LimitError, StreamrtError, UnsupportedModelError

MIB = 1 << 20


def read(path: Path, limits: Limits | None = None) -> Any:
    files = SourceFiles()
    try:
        with (limits or Limits()).in_force():
            return checked(path, files)
    finally:
        files.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.pt2"


def test_the_file_that_attacks_start_from_is_good(path: Path) -> None:
    archive = Archive()
    program, tensors = read(archive.write(path))
    assert program.weights == ["l.weight", "l.bias"]
    assert [(spec.name, spec.dims) for spec in program.inputs] == [("x", (Extent("s77", 2), 4))]
    arguments = [("input", {"value": 2}), ("weight", {"value": 0}), ("bias", {"value": 1})]
    assert program.nodes == [("torch.ops.aten.linear.default", arguments, 3)]
    assert program.outputs == [3]
    files = SourceFiles()
    for stored, wanted in zip(tensors, (archive.weight, archive.bias), strict=True):
        np.testing.assert_array_equal(stored.weight(path, files).load(), wanted)
    files.close()


def test_names_of_weights_in_the_graph(path: Path) -> None:
    archive = Archive()
    for name in ("x", "x_", "y"):
        archive.weights[name] = archive.payload("weight_0", tensor(3, 4))
        archive.graph["inputs"].append(named(f"p_{name}"))
        archive.signature["input_specs"].append({"parameter": {"arg": {"name": f"p_{name}"}, "parameter_name": name}})
    archive.weights["x"]["tensor_meta"] = tensor(3, 3)
    archive.weights["x_"]["tensor_meta"] = tensor(2, 2)
    assert graph_names(*read(archive.write(path))) == ["l.weight", "l.bias", "x__", "x_", "l.weight"]


def test_files_are_recognised_by_their_content_or_their_name(tmp_path: Path) -> None:
    assert is_exported(Archive().write(tmp_path / "program"))
    for name, wanted in (("other.onnx", False), ("other.pt2", True)):
        (tmp_path / name).write_bytes(b"\x08\x07 another file")
        assert is_exported(tmp_path / name) is wanted
    with pytest.raises(FormatError, match=r"other\.pt2: not a zip archive: "):
        read(tmp_path / "other.pt2")
    (tmp_path / "folder.pt2").mkdir()
    os.mkfifo(tmp_path / "pipe.pt2")
    assert not any(is_exported(tmp_path / name) for name in ("folder.pt2", "pipe.pt2", "missing.pt2", "a\0.pt2"))


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def test_pickles_are_not_read(path: Path, tmp_path: Path) -> None:
    """torch.export.load reads the sample inputs, pickled weights and objects with pickle."""
    proof = tmp_path / "proof"
    evil = pickle.dumps(Evil(proof))
    archive = Archive()
    archive.members["data/sample_inputs/model.pt"] = evil
    archive.members["data/constants/opaque_obj_0"] = evil
    archive.constants["other"] = archive.payload("opaque_obj_0", None, pickled=True)
    program, _ = read(archive.write(path))
    assert program.weights == ["l.weight", "l.bias"]
    archive.weights["l.weight"]["use_pickle"] = True
    archive.members["data/weights/weight_0"] = evil
    with pytest.raises(FormatError, match=r"the weight 'l\.weight' is pickled, and reading a pickle can run code"):
        read(archive.write(path))
    assert not proof.exists()
    pickle.loads(evil)
    assert proof.exists()  # the pickle would have done it


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "os.system",
        "torch._utils._import_dotted_name",
        "torch.hub.load",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.set_.source_Storage",
        "torch.ops.aten.linear.default.__globals__",
        "torch.ops.aten.linear.__class__",
        "torch.ops.aten.__class__.default",
        "torch.ops.load_library",
        "torch.ops.mylib.op.default",
        "torch.ops.higher_order.cond",
        "torch.ops.inductor._reinterpret_tensor.default",
        "_operator.attrgetter",
        "_operator.call",
        "_operator.pow",
        "builtins.eval",
        "math.__loader__",
        "#namespace:op",
        "torch.ops.aten.linear.default\n",
        "",
    ],
)
def test_operators_that_are_not_listed(target: str, path: Path) -> None:
    archive = Archive()
    archive.graph["nodes"][0]["target"] = target
    with pytest.raises(UnsupportedModelError, match="this operator is not read from a file") as caught:
        read(archive.write(path))
    assert "if you trust the file, load it yourself" in str(caught.value)


def test_every_problem_is_listed(path: Path) -> None:
    archive = Archive()
    archive.graph["nodes"] += [
        node("torch.ops.mylib.op.default", [named("z")], self=named("y")),
        node("torch.ops.aten.relu.default", [named("r")], self={"as_custom_obj": {"name": "o", "class_fqn": "C"}}),
        node("torch.ops.aten.relu.default", [named("q")], self={"as_graph": {"name": "g", "graph": {}}}),
    ]
    with pytest.raises(UnsupportedModelError, match="4 things") as caught:
        read(archive.write(path))
    assert "mylib" in str(caught.value)
    assert "'as_custom_obj' is not supported" in str(caught.value)


def change(archive: Archive, keys: str, value: Any) -> None:
    """Set a value in the program, the weights or the constants."""
    at: Any = vars(archive)
    *parents, last = keys.split(".")
    for key in parents:
        at = at[int(key) if key.isdigit() else key.replace("|", ".")]
    at[int(last) if last.isdigit() else last.replace("|", ".")] = value


META = "weights.l|weight.tensor_meta"
SPECS = "signature.input_specs"


@pytest.mark.parametrize(
    ("keys", "value", "reason"),
    [
        ("program.schema_version.major", 7, "version 7.20 of torch's schema, expected 8.x"),
        ("program.schema_version.major", 9, "version 9.20 of torch's schema, expected 8.x"),
        ("program.schema_version", {}, "major is None, expected an integer"),
        ("program.graph_module", [], "graph module is list, expected an object"),
        ("program.new", {"a": 1}, "the key 'new', which is not known: a newer torch wrote it"),
        ("graph.nodes.0.new", 1, "the key 'new', which is not known"),
        ("graph.nodes", 5, "nodes is 5, expected a list"),
        ("graph.nodes.0.target", 5, "target is 5, expected a text"),
        ("graph.nodes.0.target", "a" * 5000, "expected a text of at most 1024 characters"),
        ("graph.nodes.0.inputs.0.arg", named("z"), "'z' is read before it is computed"),
        ("graph.nodes.0.inputs.0.arg", named("y"), "'y' is read before it is computed"),
        ("graph.nodes.0.inputs.0.arg", {}, "expected an object with one key"),
        ("graph.nodes.0.inputs.0.arg", {"as_int": 2**63}, "expected an argument of type int"),
        ("graph.nodes.0.inputs.0.arg", {"as_int": True}, "expected an argument of type int"),
        ("graph.nodes.0.inputs.0.arg", {"as_int": "1"}, "expected an argument of type int"),
        ("graph.nodes.0.inputs.0.arg", {"as_float": "1"}, "expected an argument of type float"),
        ("graph.nodes.0.inputs.0.arg", {"as_bool": 1}, "expected an argument of type bool"),
        ("graph.nodes.0.inputs.0.arg", {"as_string": "__import__('os')"}, "expected an argument of type string"),
        ("graph.nodes.0.inputs.0.arg", {"as_string": "a" * 201}, "expected an argument of type string"),
        ("graph.nodes.0.inputs.0.arg", {"as_sym_int": {"as_expr": "exit()"}}, "expected an argument"),
        ("graph.nodes.0.outputs", [named("x")], "'x' is defined twice"),
        ("graph.nodes.0.outputs", [{"as_int": 1}], "expected a tensor or an extent"),
        ("graph.inputs", [], "the graph has 0 inputs, but its signature 3"),
        ("graph.tensor_values", {}, "is None, expected an object"),
        ("graph.tensor_values.x.sizes", [{"as_int": -1}, {"as_int": 4}], "expected an integer from 0"),
        ("graph.tensor_values.x.sizes", [{"as_int": 1}] * 99, "has 99 axes, expected no more"),
        ("graph.tensor_values.x.sizes.0.as_expr.hint", {"as_int": "2"}, "expected an integer from 0"),
        (f"{SPECS}.0.parameter.parameter_name", "l.bias", "a weight is an input of the graph twice"),
        (f"{SPECS}.0.parameter.parameter_name", "other", "the weight 'other' is not in the file"),
        ("signature.output_specs", [{"user_output": {"arg": named("z")}}], "'z' is read before"),
        ("weights", {}, "the weight 'l.weight' is not in the file"),
        ("weights.l|weight.path_name", "../../etc/passwd", "passwd' is missing"),
        ("weights.l|weight.path_name", "weight_9", "weight_9' is missing"),
        ("weights.l|weight.tensor_meta", None, "tensor is None, expected an object"),
        ("weights.l|weight.use_pickle", None, "is pickled"),
        (f"{META}.dtype", 11, "has type 11 and layout 7, expected a type of"),
        (f"{META}.layout", 2, "has type 7 and layout 2, expected"),
        (f"{META}.sizes.0", {"as_int": 4}, "reaches to byte 64 of its storage, which has only 48"),
        (f"{META}.sizes.0", {"as_int": 10**15}, "expected up to 2\\*\\*40 elements"),
        (f"{META}.sizes.0", {"as_int": 2**63}, "expected an integer from 0"),
        (f"{META}.sizes.0", {"as_expr": symbol()}, "expected a number"),
        (f"{META}.strides.0", {"as_int": -4}, "expected an integer from 0"),
        (f"{META}.strides.0", {"as_int": 5}, "reaches to byte 56 of its storage"),
        (f"{META}.strides.0", {"as_int": 2**62}, "of its storage, which has only 48"),
        (f"{META}.strides", [], "and strides \\(\\)"),
        (f"{META}.storage_offset", {"as_int": 1}, "reaches to byte 52 of its storage"),
        (f"{META}.storage_offset", {"as_int": 2**62}, "of its storage, which has only 48"),
        (f"{META}.sizes", [{"as_int": 1}] * 70, "has 70 axes"),
    ],
)
def test_a_malformed_program(keys: str, value: Any, reason: str, path: Path) -> None:
    archive = Archive()
    change(archive, keys, value)
    with pytest.raises(FormatError, match=reason):
        read(archive.write(path))


@pytest.mark.parametrize(
    ("keys", "value", "reason"),
    [
        (f"{SPECS}.2", {"token": {"arg": {"name": "t"}}}, "an input of the program is a token"),
        (f"{SPECS}.2.user_input.arg", {"as_sym_int": {"as_name": "x"}}, "is sym_int, expected a tensor"),
        ("graph.tensor_values.x.dtype", 10, "input 'x' has type 10"),
        ("signature.output_specs.0", {"buffer_mutation": {"buffer_name": "b"}}, "call module.eval\\(\\) before"),
        ("signature.output_specs.0", {"user_output": {"arg": {"as_none": True}}}, "is none, expected a tensor"),
    ],
)
def test_a_program_of_another_kind(keys: str, value: Any, reason: str, path: Path) -> None:
    archive = Archive()
    change(archive, keys, value)
    with pytest.raises(UnsupportedModelError, match=reason):
        read(archive.write(path))


def test_empty_values_of_keys_that_are_not_known_mean_nothing(path: Path) -> None:
    archive = Archive()
    archive.program["new"] = archive.graph["nodes"][0]["new"] = None
    archive.graph["new"] = []
    assert len(read(archive.write(path))[0].nodes) == 1


def test_a_tensor_of_no_elements_needs_no_bytes(path: Path) -> None:
    archive = Archive()
    archive.weights["l.weight"]["tensor_meta"] = tensor(0, 10**12)
    archive.members["data/weights/weight_0"] = b""
    assert read(archive.write(path))[1][0].shape == (0, 10**12)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("archive_format", None, "a zip archive that torch.export.save did not write"),
        ("archive_format", b"pt", "a zip archive that torch.export.save did not write"),
        ("archive_version", b"1", "version b'1' of the archive, expected b'0'"),
        ("archive_version", None, "the member 'archive_version' is missing"),
        ("byteorder", b"big", "the weights are not little-endian"),
        ("models/other.json", b"{}", "expected one program, models/model.json"),
        ("models/model.json", None, "expected one program, models/model.json"),
        ("models/model.json", b"[" * 100_000, "nested too deeply"),
        ("models/model.json", b'{"a":' * 100_000, "nested too deeply"),
        ("models/model.json", b"{", "is not JSON"),
        ("models/model.json", b"\xff", "is not UTF-8"),
        ("models/model.json", b'{"a": 1, "a": 2}', "holds the key 'a' twice"),
        ("models/model.json", b"1" * 5000, "a number of 5000 digits"),
        ("data/weights/model_weights_config.json", b"[]", "has no object 'config'"),
        ("data/weights/model_weights_config.json", None, "is missing"),
        ("data/weights/weight_0", None, "is missing"),
        ("data/weights/weight_0", b"12", "of its storage, which has only 2"),
        ("serialized_exported_program.json", b"{}", "torch 2.7 or older wrote the file"),
    ],
)
def test_members_of_the_archive(name: str, data: bytes | None, reason: str, path: Path) -> None:
    archive = Archive()
    archive.members[name] = data
    with pytest.raises(FormatError, match=reason):
        read(archive.write(path))


def test_a_large_text_is_refused_before_it_is_parsed(path: Path) -> None:
    archive = Archive()
    archive.members["models/model.json"] = b"[" + b"[]," * (2 * MIB) + b"[]]"
    archive.write(path)
    tracemalloc.start()
    try:
        with pytest.raises(LimitError, match=r"the member 'models/model.json': packing would hold"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 40 * MIB
        with pytest.raises(LimitError, match=r"the member 'models/model.json': packing would hold"):
            read(path, Limits(MIB))
    finally:
        tracemalloc.stop()


def zipped(path: Path, change: Callable[[zipfile.ZipFile], None], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in Archive().all_members().items():
            archive.writestr(f"{ROOT}/{name}", data)
        change(archive)
    return path


def nothing(_: zipfile.ZipFile) -> None:
    pass


def test_compressed_members(path: Path) -> None:
    with pytest.raises(FormatError, match="is compressed, expected stored bytes"):
        read(zipped(path, nothing, zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (f"{ROOT}/byteorder", "the member 'byteorder' is there twice"),
        ("other/byteorder", "is not in the folder of the first member"),
        ("/etc/passwd", "expected a name in a folder"),
        (f"{ROOT}/../byteorder", "expected a name in a folder"),
        ("byteorder", "expected a name in a folder"),
        (f"{ROOT}/", "expected a name in a folder"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_of_members(name: str, reason: str, path: Path) -> None:
    def add(archive: zipfile.ZipFile) -> None:
        archive.writestr(name, b"little")

    with pytest.raises(FormatError, match=reason):
        read(zipped(path, add))


def directory(data: bytes) -> int:
    """Where the directory of an archive begins."""
    return int(struct.unpack_from("<I", data, len(data) - 6)[0])


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (8, b"\1", "is encrypted"),
        (10, b"\x08", "is compressed"),
        (20, b"\0", "is compressed"),
        (24, b"\xff", "is compressed"),
        (42, b"\1", "which are not in the file|has another name"),
        (45, b"\x7f", "which is not in the file"),
        (46, b"q", "is not in the folder|expected a name|has another name"),
        (16, b"\0\0\0\0", "is damaged: its checksum is"),
    ],
)
def test_entries_of_the_directory(offset: int, value: bytes, reason: str, path: Path) -> None:
    data = bytearray(Archive().write(path).read_bytes())
    at = directory(data) + data[directory(data) :].index(f"{ROOT}/models/model.json".encode()) - 46 + offset
    data[at : at + len(value)] = value
    path.write_bytes(data)
    with pytest.raises(FormatError, match=reason):
        read(path)


def test_sizes_beyond_the_file(path: Path) -> None:
    data = bytearray(Archive().write(path).read_bytes())
    at = directory(data) + 20
    data[at : at + 8] = struct.pack("<II", 2**31, 2**31)
    path.write_bytes(data)
    with pytest.raises(FormatError, match="has 2147483648 bytes, which are not in the file"):
        read(path)


def test_a_directory_that_is_too_large_is_not_read(path: Path) -> None:
    data = bytes(46) * 200_000
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 65535, 65535, len(data), 0, 0)
    path.write_bytes(data + end)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="the directory of the zip archive is larger than 4194304 bytes"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 2 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("data", [b"PK\3\4", b"PK\5\6" + bytes(18), b"not a zip archive at all", b"PK\5\6"])
def test_no_archive(data: bytes, path: Path) -> None:
    path.write_bytes(data)
    with pytest.raises(FormatError):
        read(path)


def test_truncated_archives(path: Path) -> None:
    data = Archive().write(path).read_bytes()
    for length in range(1, len(data), len(data) // 40):
        path.write_bytes(data[:length])
        with pytest.raises(FormatError):
            read(path)


def test_flipped_bytes_give_a_typed_error_or_the_same_program(path: Path) -> None:
    data = Archive().write(path).read_bytes()
    wanted = read(path)
    found = {"same": 0, "error": 0}
    for seed in range(600):
        choose = random.Random(seed)
        changed = bytearray(data)
        # Half of the bytes are in the directory, which has no checksum.
        begin = choose.choice([0, directory(data)])
        for _ in range(choose.choice([1, 1, 3])):
            changed[choose.randrange(begin, len(data))] ^= 1 << choose.randrange(8)
        path.write_bytes(changed)
        try:
            assert read(path) == wanted, seed
            found["same"] += 1
        except StreamrtError:
            found["error"] += 1
    assert min(found.values()) > 20


def walk(value: Any) -> list[tuple[Any, Any]]:
    """All places of a JSON document: containers with their keys."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [place for key in keys for place in [(value, key), *walk(value[key])]]


JUNK = (None, True, 0, -1, 2**63 - 1, 1.5, "x", "__import__('os')", [], {}, [[]], {"as_int": 10**15}, "s77", [{}])


def test_changed_values_give_a_typed_error_or_a_program_of_listed_operators(path: Path) -> None:
    for seed in range(600):
        choose = random.Random(seed)
        archive = Archive()
        document = choose.choice([archive.program, archive.graph, archive.weights, archive.constants])
        container, key = choose.choice(walk(document))
        if choose.random() < 0.2:
            del container[key]
        else:
            container[key] = choose.choice(JUNK)
        try:
            program, tensors = read(archive.write(path))
        except StreamrtError:
            continue
        assert [target for target, _, _ in program.nodes] in ([], ["torch.ops.aten.linear.default"]), seed
        assert all(stored.offset < path.stat().st_size for stored in tensors)


def test_the_text_of_a_hostile_name_is_printable(path: Path) -> None:
    archive = Archive()
    archive.graph["nodes"][0]["target"] = "\x1b[31m\n" + "x" * 500
    with pytest.raises(UnsupportedModelError) as caught:
        read(archive.write(path))
    assert all(line.isprintable() and len(line) <= 500 for line in str(caught.value).split("\n"))
