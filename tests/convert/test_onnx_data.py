"""ONNX weights in the file, beside it, or in memory, of every type; and files with wrong ranges."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streamrt
from convert.support import expected, integers, make_model, onnx, random, run_packed
from processes import descriptors
from streamrt.convert import packing
from streamrt.convert.onnx import data as onnx_data
from streamrt.format import read_header, values

node = onnx.helper.make_node
TensorProto = onnx.TensorProto
ROWS, COLUMNS = 6, 5
WEIGHT = random(ROWS, COLUMNS)


def external_model(**entries: str) -> Any:
    """A Gemm with a weight of 120 bytes as external data with these ``entries``."""
    model = make_model([node("Gemm", ["x", "w"], ["y"], transB=1)], inputs={"x": (2, COLUMNS)})
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=WEIGHT.shape, data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    model.graph.initializer.append(tensor)
    return model


def save(model: Any, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def stored(path: Path, name: str = "w") -> np.ndarray[Any, np.dtype[np.float32]]:
    """The values of a tensor of a weights file."""
    tensor = read_header(path).tensors[name]
    data = np.fromfile(path, np.uint8, tensor.nbytes, offset=tensor.offset)
    return np.concatenate(list(values(tensor.coding, tensor.shape, [data.data]))).reshape(tensor.shape)


@pytest.mark.parametrize("location", ["weights.bin", "sub/weights.bin", "./weights.bin"])
@pytest.mark.parametrize("offset", [0, 4096, 7])
def test_external_data(location: str, offset: int, tmp_path: Path) -> None:
    data = tmp_path / location
    data.parent.mkdir(exist_ok=True)
    data.write_bytes(bytes(offset) + WEIGHT.tobytes() + b"more")
    path = save(external_model(location=location, offset=str(offset), length=str(WEIGHT.nbytes)), tmp_path)
    np.testing.assert_array_equal(stored(streamrt.pack(path, tmp_path / "out")), WEIGHT)


def test_external_data_without_offset_and_length(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(WEIGHT.tobytes())
    path = save(external_model(location="weights.bin"), tmp_path)
    np.testing.assert_array_equal(stored(streamrt.pack(path, tmp_path / "out")), WEIGHT)


HOSTILE = {
    "outside": {"location": "../secret.bin"},
    "outside, hidden": {"location": "sub/../../secret.bin"},
    "outside, backslashes": {"location": "..\\secret.bin"},
    "absolute": {"location": "{root}/secret.bin"},
    "by a link": {"location": "link.bin"},
    "by a linked folder": {"location": "folder/secret.bin"},
    "empty": {"location": ""},
    "no location": {},
    "zero byte": {"location": "weights.bin\0"},
    "the folder itself": {"location": "."},
    "a pipe": {"location": "pipe"},
    "offset past the end": {"location": "weights.bin", "offset": "100"},
    "huge offset": {"location": "weights.bin", "offset": "9" * 19},
    "offset of 30 digits": {"location": "weights.bin", "offset": "9" * 30},
    "negative offset": {"location": "weights.bin", "offset": "-1"},
    "offset in words": {"location": "weights.bin", "offset": "one"},
    "short length": {"location": "weights.bin", "length": "100"},
    "long length": {"location": "weights.bin", "length": "124"},
    "negative length": {"location": "weights.bin", "length": "-120"},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_external_data(case: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(WEIGHT.tobytes())
    (folder / "weights.bin").write_bytes(WEIGHT.tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "folder").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    entries = {key: value.format(root=tmp_path) for key, value in HOSTILE[case].items()}
    path = save(external_model(**entries), folder)
    with pytest.raises(streamrt.FormatError, match="tensor 'w'"):
        streamrt.pack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def external(location: str, name: str = "secret") -> Any:
    """A tensor of one number that lies in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def in_attribute(location: str) -> Any:
    fill = node("ConstantOfShape", ["s"], ["c"], name="fill", value=external(location))
    return make_model([fill, node("Add", ["x", "c"], ["y"])], {"s": integers(4)})


def in_function(location: str) -> Any:
    inner = node("ConstantOfShape", ["b"], ["c"], name="fill", value=external(location))
    model = make_model([node("f", ["x", "s"], ["y"], domain="local")], {"s": integers(4)}, opset=21)
    model.opset_import.append(onnx.helper.make_opsetid("local", 1))
    body = [inner, node("Add", ["a", "c"], ["d"])]
    model.functions.append(onnx.helper.make_function("local", "f", ["a", "b"], ["d"], body, list(model.opset_import)))
    return model


def in_graph(location: str) -> Any:
    inner = onnx.helper.make_graph(
        [node("ConstantOfShape", ["s"], ["c"], name="fill", value=external(location))],
        "inner",
        [],
        [onnx.helper.make_tensor_value_info("c", TensorProto.FLOAT, None)],
    )
    return make_model([node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)], {"s": integers(4)})


def in_sparse(location: str) -> Any:
    sparse = onnx.SparseTensorProto(values=external(location), dims=[4])
    sparse.indices.CopyFrom(onnx.numpy_helper.from_array(integers(0), "i"))
    fill = node("Constant", [], ["c"], name="fill", sparse_value=sparse)
    return make_model([fill, node("Add", ["x", "c"], ["y"])])


def in_list(location: str) -> Any:
    fill = node("Relu", ["x"], ["y"], name="fill")
    fill.attribute.append(onnx.helper.make_attribute("list", [external(location)]))
    return make_model([fill])


@pytest.mark.parametrize("build", [in_attribute, in_function, in_graph, in_sparse, in_list])
def test_external_data_of_attributes(
    build: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The onnx package would read it from the current folder, and not from the model's."""
    for folder in ("model", "current"):
        (tmp_path / folder).mkdir()
    (tmp_path / "current" / "secret.bin").write_bytes(np.float32(1234.5).tobytes())
    monkeypatch.chdir(tmp_path / "current")
    model = build("secret.bin")
    for source in (save(model, tmp_path / "model"), model):
        with pytest.raises(streamrt.FormatError, match=r"node 'fill' .* external data"):
            streamrt.pack(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_arrays_have_no_external_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("secret.bin").write_bytes(np.float32(1234.5).tobytes())
    with pytest.raises(streamrt.FormatError, match=r"tensor 'secret' has external data"):
        onnx_data.to_array(external("secret.bin"))


def test_external_data_of_constants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lies in the model's folder. The current folder does not matter."""
    (tmp_path / "value.bin").write_bytes(np.float32(1234.5).tobytes())
    fill = node("Constant", [], ["c"], value=external("value.bin", "c"))
    path = save(make_model([fill, node("Add", ["x", "c"], ["y"])]), tmp_path)
    monkeypatch.chdir("/")
    assert stored(streamrt.pack(path, tmp_path / "out"), "c") == 1234.5


def many_tensors(folder: Path, count: int) -> Path:
    """A model that adds ``count`` tensors of one file to its input."""
    size = 4 * 64
    (folder / "weights.bin").write_bytes(random(count, 64).tobytes())
    nodes = [
        node("Add", [f"x{i}" if i else "x", f"w{i}"], [f"x{i + 1}" if i < count - 1 else "y"]) for i in range(count)
    ]
    model = make_model(nodes, inputs={"x": (2, 64)})
    for i in range(count):
        tensor = model.graph.initializer.add(
            name=f"w{i}", data_type=TensorProto.FLOAT, dims=[64], data_location=TensorProto.EXTERNAL
        )
        for key, value in {"location": "weights.bin", "offset": i * size, "length": size}.items():
            tensor.external_data.add(key=key, value=str(value))
    return save(model, folder)


def test_a_file_is_mapped_once(tmp_path: Path) -> None:
    path = many_tensors(tmp_path, 100)
    before, (soft, hard) = descriptors(), resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = {number for number, _ in before}
    left = [number for number in range(1000) if number not in taken][:32]
    resource.setrlimit(resource.RLIMIT_NOFILE, (left[-1] + 1, hard))
    try:
        streamrt.pack(path, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert descriptors() <= before
    with Path("/proc/self/maps").open() as maps:
        assert not any(str(tmp_path) in line for line in maps)


def many_files(folder: Path, count: int, extent: int) -> Path:
    """A model that adds ``count`` tensors to its input, each from its own file."""
    nodes = [
        node("Add", [f"x{i}" if i else "x", f"w{i}"], [f"x{i + 1}" if i < count - 1 else "y"]) for i in range(count)
    ]
    model = make_model(nodes, inputs={"x": (2, extent)})
    for i in range(count):
        (folder / f"w{i}.bin").write_bytes(np.full(extent, i, np.float32).tobytes())
        tensor = model.graph.initializer.add(
            name=f"w{i}", data_type=TensorProto.FLOAT, dims=[extent], data_location=TensorProto.EXTERNAL
        )
        tensor.external_data.add(key="location", value=f"w{i}.bin")
    return save(model, folder)


@pytest.mark.parametrize(("count", "extent"), [(100, 4), (40, 1 << 18)])
def test_many_files(count: int, extent: int, tmp_path: Path) -> None:
    """Small tensors are copied when they are read, and large tensors are not."""
    path = many_files(tmp_path, count, extent)
    before, (soft, hard) = descriptors(), resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = {number for number, _ in before}
    left = [number for number in range(1000) if number not in taken][:32]
    resource.setrlimit(resource.RLIMIT_NOFILE, (left[-1] + 1, hard))
    try:
        packed = streamrt.pack(path, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert descriptors() <= before
    header = read_header(packed).tensors
    for index in range(count):
        value = np.fromfile(packed, "<f4", extent, offset=header[f"w{index}"].offset)
        assert np.all(value == index)


@pytest.mark.parametrize("change", ["cut", "modified", "replaced", "removed"])
def test_one_of_many_files_that_changes(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first file is no longer mapped when weights are written."""
    path = many_files(tmp_path, 40, 4)
    real = packing.write

    def changed(*args: Any, **options: Any) -> None:
        file = tmp_path / "w0.bin"
        match change:
            case "cut":
                os.truncate(file, 8)
            case "modified":
                file.write_bytes(b"0" * 16)
                os.utime(file, (1, 1))
            case "replaced":
                (tmp_path / "other").write_bytes(b"0" * 16)
                (tmp_path / "other").replace(file)
            case _:
                file.unlink()
        real(*args, **options)

    monkeypatch.setattr(packing, "write", changed)
    with pytest.raises(streamrt.WeightsIOError, match=r"w0\.bin"):
        streamrt.pack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["loop", "name that is too long"])
def test_external_data_at_an_impossible_path(place: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    path = save(external_model(location="loop" if place == "loop" else "a" * 5000), tmp_path)
    with pytest.raises(streamrt.WeightsIOError, match=r"tensor 'w': cannot open .*: (Too many|File name)"):
        streamrt.pack(path, tmp_path / "out")


def test_places_are_printable(tmp_path: Path) -> None:
    path = save(external_model(location="\x1b[31mred" + "x" * 400), tmp_path)
    with pytest.raises(streamrt.WeightsIOError) as caught:
        streamrt.pack(path, tmp_path / "out")
    assert str(caught.value).isprintable()
    assert "\\x1b[31mredxxx" in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_model_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(streamrt.FormatError) as caught:
        streamrt.pack(tmp_path / "pipe", tmp_path / "out")
    assert str(caught.value) == f"{tmp_path / 'pipe'} is not an ONNX file: {tmp_path / 'pipe'} is not a regular file"


def test_plain_safetensors_are_no_source(tmp_path: Path) -> None:
    path = tmp_path / "packed.safetensors"
    streamrt.pack([streamrt.Layer("Gemm", np.ones((2, 3), np.float32))], path)
    streamrt.unpack(path, path)
    with pytest.raises(streamrt.FormatError, match="not an ONNX file: it is a safetensors file"):
        streamrt.pack(path, tmp_path / "again.safetensors")


MEMORY = """
    import sys, threading, time
    import streamrt

    def figure():
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) >> 10

    import streamrt.convert.onnx.importer
    before = peak = figure()
    running = True

    def watch():
        global peak
        while running:
            peak = max(peak, figure())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    streamrt.pack("model.onnx", "out")
    running = False
    watcher.join()
    print(peak - before)
"""


def test_memory_while_packing(tmp_path: Path, run_python: Callable[..., CompletedProcess[str]]) -> None:
    """Two matrices of 64 MiB in one file: no whole matrix is ever in memory."""
    size = 4096
    with (tmp_path / "weights.bin").open("wb") as file:
        file.truncate(2 * 4 * size * size)  # takes no space on the disk
    nodes = [node("Gemm", ["x", "w0"], ["h"], transB=1), node("Gemm", ["h", "w1"], ["y"], transB=1)]
    model = make_model(nodes, inputs={"x": ("N", size)})
    for i in range(2):
        tensor = model.graph.initializer.add(
            name=f"w{i}", data_type=TensorProto.FLOAT, dims=[size, size], data_location=TensorProto.EXTERNAL
        )
        for key, value in {"location": "weights.bin", "offset": i * 4 * size * size}.items():
            tensor.external_data.add(key=key, value=str(value))
    save(model, tmp_path)
    done = run_python(MEMORY)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 64


@pytest.mark.parametrize("change", ["cut", "modified"])
@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_source_that_changes_while_it_is_packed(
    external: bool, change: str, transposed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It changes right before its weights are written. Reading bytes that were cut off would end the process."""
    weight = random(300, 200)
    model = make_model([node("Gemm", ["x", "w"], ["y"], transB=int(not transposed))], inputs={"x": ("N", 200)})
    if transposed:
        weight = np.ascontiguousarray(weight.T)
    if external:
        source = tmp_path / "weights.bin"
        source.write_bytes(weight.tobytes())
        tensor = TensorProto(
            name="w", data_type=TensorProto.FLOAT, dims=weight.shape, data_location=TensorProto.EXTERNAL
        )
        tensor.external_data.add(key="location", value="weights.bin")
    else:
        source = tmp_path / "model.onnx"
        tensor = onnx.numpy_helper.from_array(weight, "w")
    model.graph.initializer.append(tensor)
    path = save(model, tmp_path)
    real = packing.write

    def changed(*args: Any, **options: Any) -> None:
        if change == "cut":
            os.truncate(source, 4096)
        else:
            with source.open("r+b") as file:
                file.seek(-4, 2)
                file.write(b"\0\0\0\1")
            os.utime(source, (1, 1))
        real(*args, **options)

    monkeypatch.setattr(packing, "write", changed)
    dest = tmp_path / "out"
    dest.write_bytes(b"before")
    there = sorted(tmp_path.iterdir())
    with pytest.raises(streamrt.WeightsIOError, match=source.name):
        streamrt.pack(path, dest)
    assert dest.read_bytes() == b"before"
    assert sorted(tmp_path.iterdir()) == there


def test_missing_external_data(tmp_path: Path) -> None:
    path = save(external_model(location="missing.bin"), tmp_path)
    with pytest.raises(streamrt.WeightsIOError, match=r"missing\.bin"):
        streamrt.pack(path, tmp_path / "out")


def test_external_data_of_a_model_in_memory(tmp_path: Path) -> None:
    with pytest.raises(streamrt.FormatError, match="did not come from a file"):
        streamrt.pack(external_model(location="weights.bin"), tmp_path / "out")


def test_missing_model(tmp_path: Path) -> None:
    with pytest.raises(streamrt.WeightsIOError, match=r"missing\.onnx"):
        streamrt.pack(tmp_path / "missing.onnx", tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x3a\xff\xff\xff\xff\x0f", b"\x08" + b"\xff" * 20])
def test_files_that_are_not_models(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(streamrt.FormatError):
        streamrt.pack(path, tmp_path / "out")


@pytest.mark.parametrize("shape", [(-1, 5), (2**32, 2**32), (2**40, 5)])
def test_impossible_shapes(shape: tuple[int, ...], tmp_path: Path) -> None:
    model = external_model(location="weights.bin")
    model.graph.initializer[0].dims[:] = shape
    (tmp_path / "weights.bin").write_bytes(WEIGHT.tobytes())
    with pytest.raises(streamrt.FormatError, match="tensor 'w'"):
        streamrt.pack(save(model, tmp_path), tmp_path / "out")


TYPES = ["FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16"]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("large", [False, True])
def test_types_of_weights(kind: str, raw: bool, large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if large:
        monkeypatch.setattr(onnx_data, "_LARGE", 1)
    code = getattr(TensorProto, kind)
    exact = WEIGHT.astype(onnx.helper.tensor_dtype_to_np_dtype(code))
    values = exact.tobytes() if raw else exact.astype(np.float32).reshape(-1)
    tensor = onnx.helper.make_tensor("w", code, exact.shape, values, raw=raw)
    model = make_model([node("Gemm", ["x", "w"], ["y"], transB=1)], inputs={"x": (2, COLUMNS)})
    model.graph.initializer.append(tensor)
    for source in (model, save(model, tmp_path)):
        path = streamrt.pack(source, tmp_path / "out")
        np.testing.assert_array_equal(stored(path), exact.astype(np.float32))
        expected = {"FLOAT16": "F16", "BFLOAT16": "BF16"}.get(kind, "F32")
        assert read_header(path).tensors["w"].dtype == expected
        streamrt.pack(source, path, weights="float32")
        assert read_header(path).tensors["w"].dtype == "F32"
        np.testing.assert_array_equal(stored(path), exact.astype(np.float32))


@pytest.mark.parametrize("in_constant_node", [False, True])
def test_large_tensors_of_a_file_are_not_parsed(
    in_constant_node: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = random(200, 100)  # 80,000 bytes
    nodes = [node("Gemm", ["x", "w"], ["y"], transB=1)]
    if in_constant_node:
        first = node("Constant", [], ["w"], value=onnx.numpy_helper.from_array(weight))
        model = make_model([first, *nodes], inputs={"x": (2, 100)})
    else:
        model = make_model(nodes, {"small": random(3), "w": weight}, inputs={"x": (2, 100)})
    path = save(model, tmp_path)
    files = onnx_data.SourceFiles()
    skeleton = onnx_data.load_skeleton(path, files)
    files.close()
    assert skeleton.model.ByteSize() < 1000
    (span,) = [*skeleton.initializers.values(), *skeleton.attributes.values()]
    assert path.read_bytes()[span.offset : span.offset + span.length] == weight.tobytes()
    np.testing.assert_array_equal(stored(streamrt.pack(path, tmp_path / "out")), weight)


def test_a_large_tensor_of_the_wrong_length(tmp_path: Path) -> None:
    model = make_model([node("Mul", ["x", "w"], ["y"])], {"w": random(200, 100)}, inputs={"x": (1, 100)})
    model.graph.initializer[0].dims[:] = (100, 100)
    for source in (model, save(model, tmp_path)):
        with pytest.raises(streamrt.FormatError, match="tensor 'w'"):
            streamrt.pack(source, tmp_path / "out")


def test_names_that_are_not_text(tmp_path: Path) -> None:
    path = save(make_model([node("Relu", ["x"], ["yy"])], outputs=["yy"]), tmp_path)
    path.write_bytes(path.read_bytes().replace(b"yy", b"\xff\xfe"))
    with pytest.raises(streamrt.FormatError, match="not UTF-8"):
        streamrt.pack(path, tmp_path / "out")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_broken_files_never_crash(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    good = make_model([node("Gemm", ["x", "w"], ["y"], transB=1)], {"w": WEIGHT}, inputs={"x": ("N", COLUMNS)})
    wire = bytearray(good.SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("broken")
    path = folder / "model.onnx"
    path.write_bytes(wire[: data.draw(st.integers(1, len(wire)))])
    try:
        streamrt.pack(path, folder / "out")
    except streamrt.StreamrtError:
        assert not (folder / "out").exists()


def test_initializers_listed_as_inputs_are_weights(tmp_path: Path) -> None:
    model = make_model([node("Mul", ["x", "w"], ["y"])], {"w": random(5)}, inputs={"x": (2, 5), "w": (5,)})
    path = streamrt.pack(model, tmp_path / "out")
    feeds = {"x": random(2, 5)}
    np.testing.assert_array_equal(run_packed(path, feeds)[0], expected(model, feeds)[0])


@pytest.mark.parametrize("name", ["streamrt.pad.0", "__metadata__", "n" * 2000])
def test_names_that_a_weights_file_cannot_hold_are_changed(name: str, tmp_path: Path) -> None:
    model = make_model([node("Mul", ["x", name], ["y"], name=name)], {name: random(5)}, inputs={"x": (2, 5)})
    path = streamrt.pack(model, tmp_path / "out")
    feeds = {"x": random(2, 5)}
    np.testing.assert_array_equal(run_packed(path, feeds)[0], expected(model, feeds)[0])


def test_a_weight_that_several_nodes_read_is_stored_once(tmp_path: Path) -> None:
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "w"], ["y"])]
    model = make_model(nodes, {"w": random(5, 5)}, inputs={"x": (2, 5)})
    path = streamrt.pack(model, tmp_path / "out")
    file = read_header(path)
    assert list(file.tensors) == ["w"]
    assert [n.inputs[1] for n in file.graph.nodes] == ["w", "w"]


def test_packing_is_reproducible(tmp_path: Path) -> None:
    nodes = [node("Conv", ["x", "w"], ["c"]), node("BatchNormalization", ["c", "s", "s", "m", "v"], ["y"])]
    constants = {"w": random(4, 3, 3, 3), "s": random(4), "m": random(4, seed=1), "v": random(4) ** 2}
    model = make_model(nodes, constants)
    sources = [model, save(model, tmp_path), model]
    files = {streamrt.pack(source, tmp_path / "out").read_bytes() for source in sources}
    assert len(files) == 1
