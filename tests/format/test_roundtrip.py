"""A written file is read back bit for bit, by streamrt and by the safetensors package."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors

from format import version1
from format.models import chain, constant, dense
from streamrt.errors import FormatError, WeightsIOError
from streamrt.format import Segment, Source, read_header, verify, write
from streamrt.graph import Graph, Node, TensorSpec

BLOCK = 4 << 20
#: Parameters of all ranks, of no element and of one, with bits that arithmetic would change: NaN payloads, -0.
ODD = {
    "scalar": np.array(-0.0, np.float32),
    "nans": np.array([0x7FC00001, 0xFFBADBAD, 0x7F800001], np.uint32).view(np.float32),
    "nothing": np.empty((0, 3), np.float32),
    "kernel": np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("widths", [(4, 3), (300, 200, 10, 7), (700, 600, 500, 300, 5), (1100, 1100, 1100)])
def test_streamrt_reads_it_back(path: Path, widths: tuple[int, ...]) -> None:
    graph, segments, arrays = dense(*widths)
    write(path, graph, segments, metadata={"labels": "zéro\none"})
    file = verify(path)
    assert file == read_header(path)
    assert (file.graph, file.metadata, file.path) == (graph, {"labels": "zéro\none"}, str(path))
    assert list(file.tensors) == list(arrays)
    data = path.read_bytes()
    assert file.size == len(data)
    assert file.size % 4096 == 0
    for name, tensor in file.tensors.items():
        assert (tensor.name, tensor.dtype, tensor.shape) == (name, "F32", arrays[name].shape)
        assert tensor.offset % 64 == 0
        assert data[tensor.offset : tensor.offset + tensor.nbytes] == arrays[name].tobytes()
    assert (file.version, file.huge) == ("2", True)
    for i in range(len(widths) - 1):
        assert file.tensors[f"w{i}"].offset % 4096 == 0  # so few segments may all begin on pages
    assert len(file.block_crcs) == -(-(file.size - file.data_offset) // BLOCK)


@pytest.mark.parametrize("widths", [(4, 3), (300, 200, 10, 7), (700, 600, 500, 300, 5), (1100, 1100, 1100)])
def test_a_file_of_version_1_is_read_too(path: Path, widths: tuple[int, ...]) -> None:
    graph, segments, arrays = dense(*widths)
    version1.write(path, graph, segments, metadata={"labels": "zéro\none"})
    file = verify(path)
    assert (file.version, file.graph, file.metadata) == ("1", graph, {"labels": "zéro\none"})
    data = path.read_bytes()
    for name, tensor in file.tensors.items():
        assert data[tensor.offset : tensor.offset + tensor.nbytes] == arrays[name].tobytes()
    large = []
    for i in range(len(widths) - 1):
        weight, bias = file.tensors[f"w{i}"], file.tensors[f"b{i}"]
        large.append(bias.offset + bias.nbytes - weight.offset >= 1 << 20)
        assert weight.offset % ((2 << 20) if large[-1] else 4096) == 0
    assert file.huge == any(large)


def test_the_header_of_a_large_model_takes_a_page(path: Path) -> None:
    # Every opening reads the header.
    for widths, first in (((700, 600), 16384), ((600, 400), 4096)):  # 12 KiB are less than 1/128 of 1.6 MiB
        write(path, *dense(*widths)[:2])
        file = read_header(path)
        assert (file.data_offset, file.tensors["w0"].offset) == (4096, first)


@pytest.mark.parametrize(("more", "data_offset"), [(0, 4096), (1, 8192)])
def test_a_header_that_fills_its_page(path: Path, more: int, data_offset: int) -> None:
    # Where segments begin depends on where the data section begins: the padding before w is 12 or 8 KiB.
    graph = chain(("w",))
    segments = [Segment([constant("w", 400_000)])]
    write(path, graph, segments, metadata={"note": ""})
    missing = 4096 - len(path.read_bytes()[:4096].rstrip(b" "))
    write(path, graph, segments, metadata={"note": "x" * (missing + more)})
    file = verify(path)
    assert (file.data_offset, file.tensors["w"].offset) == (data_offset, 16384)


@pytest.mark.parametrize("widths", [(4, 3), (700, 600, 500, 300, 5)])
def test_safetensors_reads_it(path: Path, widths: tuple[int, ...]) -> None:
    graph, segments, arrays = dense(*widths)
    write(path, graph, segments, metadata={"labels": "zéro\none"})
    with safetensors.safe_open(path, "numpy") as file:
        assert {name for name in file.keys() if not name.startswith("streamrt.pad.")} == arrays.keys()  # noqa: SIM118
        for name, array in arrays.items():
            np.testing.assert_array_equal(file.get_tensor(name), array, strict=True)
        metadata = file.metadata()
    assert metadata["labels"] == "zéro\none"
    assert Graph.from_json(json.loads(metadata["streamrt.graph"])) == graph


def test_odd_tensors(path: Path) -> None:
    write(path, chain(tuple(ODD)), [Segment([Source.of(name, array) for name, array in ODD.items()])])
    file = verify(path)
    data = path.read_bytes()
    with safetensors.safe_open(path, "numpy") as other:
        for name, array in ODD.items():
            tensor = file.tensors[name]
            assert data[tensor.offset : tensor.offset + tensor.nbytes] == array.tobytes()
            assert other.get_tensor(name).tobytes() == array.tobytes()
            assert other.get_tensor(name).shape == tensor.shape == array.shape


def test_a_model_without_parameters(path: Path) -> None:
    graph = Graph((TensorSpec("x", ("N", 2)),), (TensorSpec("y", ("N", 2)),), (Node("n", "Relu", ("x",), ("y",)),))
    write(path, graph, [Segment([])])
    assert (verify(path).graph, path.stat().st_size) == (graph, 4096)
    with safetensors.safe_open(path, "numpy") as file:
        assert not list(file.keys())


def test_every_kind_of_attribute(path: Path) -> None:
    attrs = {
        "axis": -1,
        "value": float("-inf"),
        "mode": "reflect",
        "pads": (1, 0, -1),
        "scales": (0.1, 1e-45),
        "none": (),
    }
    graph = Graph(
        (TensorSpec("x", ("N", 2)),), (TensorSpec("yé", ()),), (Node("😀", "Pad", ("x", ""), ("yé",), attrs),)
    )
    write(path, graph, [])
    assert read_header(path).graph == graph


def test_the_same_model_gives_the_same_bytes(path: Path, tmp_path: Path) -> None:
    graph, segments, arrays = dense(700, 600, 5)
    write(path, graph, segments, metadata={"a": "1", "b": "2"})
    other = tmp_path / "other.safetensors"

    # In other chunks, and with the metadata in another order.
    def in_rows(name: str) -> Source:
        array = arrays[name]
        return Source(name, array.shape, lambda: (array[i : i + 1] for i in range(len(array))))

    rows = [Segment([in_rows(source.name) for source in segment.tensors]) for segment in segments]
    write(other, graph, rows, metadata={"b": "2", "a": "1"})
    assert path.read_bytes() == other.read_bytes()


def test_other_contents_have_another_checksum(path: Path, tmp_path: Path) -> None:
    graph, segments, arrays = dense(300, 200, 10)
    write(path, graph, segments)
    write(tmp_path / "same", graph, segments)
    arrays["w1"][3, 5] += 1  # the segments are views of it
    write(tmp_path / "other", graph, segments)
    checksums = [read_header(file).checksum for file in (path, tmp_path / "same", tmp_path / "other")]
    assert checksums[0] == checksums[1] != checksums[2]
    assert path.read_bytes().count(checksums[0].encode()) == 1


def test_verify_names_damaged_blocks_and_their_tensors(path: Path) -> None:
    graph, segments, _ = dense(1200, 1200, 1200, 1200, 3)
    write(path, graph, segments)
    file = read_header(path)
    data = bytearray(path.read_bytes())
    begin = file.data_offset
    w0, w2 = file.tensors["w0"], file.tensors["w2"]
    data[w0.offset] ^= 1
    data[w2.offset + 100] ^= 0x80
    path.write_bytes(data)
    assert read_header(path).tensors == file.tensors
    with pytest.raises(FormatError, match="the data is damaged") as caught:
        verify(path)
    second = begin + (w2.offset - begin) // BLOCK * BLOCK
    phrases = str(caught.value).split("(CRC-32C): ")[1].split("; ")
    assert phrases[0] == f"bytes {begin} to {begin + BLOCK} ('w0')"
    assert phrases[1].startswith(f"bytes {second} to {second + BLOCK} (")
    assert "'w2'" in phrases[1]
    assert len(phrases) == 2


def test_verify_joins_neighbouring_blocks_and_finds_damaged_padding(path: Path) -> None:
    graph, segments, _ = dense(1200, 1200, 1200)
    write(path, graph, segments)
    file = read_header(path)
    data = bytearray(path.read_bytes())
    for end in range(file.data_offset + BLOCK, file.size, BLOCK):
        data[end - 1] ^= 1
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(FormatError, match=rf"bytes {file.data_offset} to {file.size} \('w0', 'b0', 'w1', 'b1'\)$"):
        verify(path)


@pytest.mark.parametrize("bit", range(8))
def test_verify_finds_any_bit(path: Path, bit: int) -> None:
    graph, segments, _ = dense(5, 4)
    write(path, graph, segments)
    good = path.read_bytes()
    file = verify(path)
    for at in range(file.data_offset, file.size, 97):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :])
        with pytest.raises(FormatError, match="'w0', 'b0'"):
            verify(path)


def test_verify_of_a_file_cut_while_it_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from streamrt.format import reader

    write(path, *dense(1200, 1200, 1200)[:2])
    header = reader.read_header(path)
    monkeypatch.setattr(
        reader, "expect_sequential", lambda fd: path.write_bytes(path.read_bytes()[: header.data_offset + 9])
    )
    with pytest.raises(WeightsIOError, match=f"ends at {header.data_offset + 9}"):
        verify(path)


def test_progress_is_shown_on_request_only(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph, segments, _ = dense(5, 4)
    write(path, graph, segments)
    verify(path)
    assert capsys.readouterr() == ("", "")
    write(path, graph, segments, progress=True)
    verify(path, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "writing: 100%" in err
    assert "verifying: 100%" in err
