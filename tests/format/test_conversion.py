"""Weights files into other files: the present version, and plain safetensors."""

from __future__ import annotations

import errno
import os
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors
import safetensors.numpy

import streamrt
from format import version1
from format.models import Array, chain, constant, dense
from format.resident import resident_bytes
from streamrt.errors import FormatError, WeightsIOError
from streamrt.format import Segment, Source, conversion, is_weights_file, read_header, repack, unpack, verify, write
from streamrt.format.files import Replacement

MIB = 1 << 20
METADATA = {"labels": "zéro\none", "format": "pt"}
#: Bits that arithmetic would change, no element, one element, and a tensor over several checksum blocks.
ODD = {
    "nans": np.array([0x7FC00001, 0xFFBADBAD, 0x7F800001], np.uint32).view(np.float32),
    "nothing": np.empty((0, 3), np.float32),
    "scalar": np.array(-0.0, np.float32),
    "large": np.random.default_rng(0).standard_normal((3, MIB), np.float32),
    "kernel": np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "old.safetensors"


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return tmp_path / "new" / "new.safetensors"


@pytest.fixture(autouse=True)
def folder(dest: Path) -> Path:
    dest.parent.mkdir()
    return dest.parent


def model(*names: str) -> tuple[object, list[Segment]]:
    """A graph of one node for each two of the odd tensors, and its segments."""
    pairs = [names[i : i + 2] for i in range(0, len(names), 2)]
    return chain(*pairs), [Segment([Source.of(name, ODD[name]) for name in pair]) for pair in pairs]


WRITERS = pytest.mark.parametrize("writer", [version1.write, write], ids=["version 1", "version 2"])


@WRITERS
@pytest.mark.parametrize("in_place", [False, True])
def test_a_file_is_written_anew(path: Path, dest: Path, writer: object, in_place: bool) -> None:
    graph, segments = model(*ODD)
    writer(path, graph, segments, metadata=METADATA)
    write(fresh := dest.parent / "fresh", graph, segments, metadata=METADATA)
    before, dest = read_header(path), path if in_place else dest
    repack(path, dest)
    file = verify(dest)
    assert (file.version, file.graph, file.metadata) == ("2", before.graph, METADATA)
    assert [(t.name, t.shape) for t in file.tensors.values()] == [(t.name, t.shape) for t in before.tensors.values()]
    assert dest.read_bytes() == fresh.read_bytes()  # so every value is there, bit for bit


@WRITERS
@pytest.mark.parametrize("in_place", [False, True])
def test_plain_safetensors_have_the_same_tensors(path: Path, dest: Path, writer: object, in_place: bool) -> None:
    graph, segments = model(*ODD)
    writer(path, graph, segments, metadata=METADATA)
    with safetensors.safe_open(path, "numpy") as file:  # any reader opens the weights file, too
        before = {name: file.get_tensor(name) for name in ODD}
    dest = path if in_place else dest
    unpack(path, dest)
    with safetensors.safe_open(dest, "numpy") as file:
        assert file.metadata() == METADATA
        assert set(file.keys()) == set(ODD)
        assert list(file.offset_keys()) == list(ODD)
        for name, array in ODD.items():
            found = file.get_tensor(name)
            assert (found.dtype, found.shape) == (array.dtype, array.shape)
            assert found.tobytes() == array.tobytes() == before[name].tobytes()
    size = sum(array.nbytes for array in ODD.values())
    head = 8 + int.from_bytes(dest.read_bytes()[:8], "little")
    assert dest.stat().st_size == head + size
    assert head % 8 == 0
    assert safetensors.numpy.load_file(dest).keys() == ODD.keys()


def test_no_metadata_and_no_tensors(path: Path, dest: Path) -> None:
    write(path, chain(("w",)), [Segment([Source.of("w", ODD["scalar"])])])
    unpack(path, dest)
    with safetensors.safe_open(dest, "numpy") as file:
        assert file.metadata() is None
        assert list(file.keys()) == ["w"]
    write(path, chain(()), [])
    for convert in (unpack, repack):
        convert(path, dest)
        with safetensors.safe_open(dest, "numpy") as file:
            assert not list(file.keys())


def test_the_order_is_that_of_the_file(path: Path, dest: Path) -> None:
    names = ["z", "y", "x", "a"]
    segments = [Segment([constant(n, 5) for n in names[:2]]), Segment([constant(n, 7) for n in names[2:]])]
    write(path, chain(names[:2][::-1], names[2:]), segments)
    repack(path, dest)
    assert list(read_header(dest).tensors) == names
    assert dest.read_bytes() == path.read_bytes()
    unpack(path, dest)
    with safetensors.safe_open(dest, "numpy") as file:
        assert list(file.offset_keys()) == names


@WRITERS
@pytest.mark.parametrize("convert", [repack, unpack])
@pytest.mark.parametrize("exists", [False, True])
def test_a_damaged_source_is_refused(path: Path, dest: Path, writer: object, convert: object, exists: bool) -> None:
    graph, segments, _ = dense(1200, 1200, 1200, 1200)
    writer(path, graph, segments)
    file = read_header(path)
    data = bytearray(path.read_bytes())
    data[file.tensors["w2"].offset + 4_000_000] ^= 1
    path.write_bytes(data)
    if exists:
        dest.write_bytes(b"before")
    with pytest.raises(FormatError, match=r"the data is damaged \(CRC-32C\): bytes \d+ to \d+ \(.*'w2'"):
        convert(path, dest)
    assert [entry.name for entry in dest.parent.iterdir()] == [dest.name] * exists
    assert not exists or dest.read_bytes() == b"before"


@pytest.mark.parametrize("convert", [repack, unpack])
def test_every_block_of_a_tensor_is_checked(path: Path, dest: Path, convert: object) -> None:
    write(path, chain(("w",)), [Segment([constant("w", 5 * MIB)])])
    good = path.read_bytes()
    file = read_header(path)
    for at in range(file.data_offset + 10, len(good), file.block_size):
        path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        with pytest.raises(FormatError, match=f"bytes {at - 10} to .*'w'"):
            convert(path, dest)


@pytest.mark.parametrize("convert", [repack, unpack])
def test_a_source_that_is_cut_short_or_missing(
    path: Path, dest: Path, convert: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WeightsIOError, match="No such file"):
        convert(path, dest)
    path.write_text("no model")
    with pytest.raises(FormatError, match=str(path)):
        convert(path, dest)
    write(path, *dense(1200, 1200, 1200)[:2])
    cut = path.read_bytes()[:9000]
    monkeypatch.setattr(conversion, "expect_sequential", lambda fd: path.write_bytes(cut))
    with pytest.raises(WeightsIOError, match="ends at 9000"):
        convert(path, dest)
    assert not list(dest.parent.iterdir())


def test_a_disk_that_is_full(path: Path, dest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, *dense(1200, 1200)[:2])
    monkeypatch.setattr(os, "fstatvfs", lambda fd: SimpleNamespace(f_blocks=10**6, f_bavail=10, f_frsize=4096))
    with pytest.raises(WeightsIOError, match="do not fit in the 40960 that are free") as caught:
        unpack(path, dest)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("convert", [repack, unpack])
def test_an_interruption_leaves_nothing_behind(
    path: Path, dest: Path, convert: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(path, *dense(1200, 1200)[:2])

    def interrupt(self: Replacement) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Replacement, "_open_nameless", lambda self: -1)
    monkeypatch.setattr(Replacement, "commit", interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert(path, dest)
    assert not list(dest.parent.iterdir())


@pytest.mark.parametrize("convert", [repack, unpack])
def test_memory_does_not_grow_with_the_tensor(path: Path, dest: Path, convert: object) -> None:
    write(path, chain(("w",)), [Segment([constant("w", 24 * MIB)])])  # 96 MiB
    tracemalloc.start()
    try:
        convert(path, dest)
        assert tracemalloc.get_traced_memory()[1] < 12 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("convert", [repack, unpack])
def test_the_source_leaves_the_page_cache(path: Path, dest: Path, convert: object) -> None:
    write(path, chain(("w",)), [Segment([constant("w", 6 << 20)])])  # 24 MiB: several checksum blocks
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    convert(path, dest)
    assert resident_bytes(path) == 0


def test_progress_is_shown_on_request_only(path: Path, dest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(path, *dense(5, 4)[:2])
    repack(path, dest)
    unpack(path, dest)
    assert capsys.readouterr() == ("", "")
    repack(path, dest, progress=True)
    unpack(path, dest, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "writing: 100%" in err
    assert "unpacking: 100%" in err


@WRITERS
def test_pack_takes_a_weights_file(path: Path, dest: Path, writer: object) -> None:
    graph, segments, arrays = dense(8, 30, 8)
    writer(path, graph, segments, metadata=METADATA)
    assert is_weights_file(path)
    assert streamrt.pack(path, dest) == dest
    assert read_header(dest).metadata == METADATA
    x = np.ones((3, 8), np.float32)
    with streamrt.Model(path) as old, streamrt.Model(dest) as new:
        np.testing.assert_array_equal(old(x), new(x))
    streamrt.unpack(dest, dest)
    assert not is_weights_file(dest)
    loaded: dict[str, Array] = safetensors.numpy.load_file(dest)
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array)
    with pytest.raises(TypeError, match="is for a"):
        streamrt.pack(path, dest, example=x)


def test_other_files_are_no_weights_files(tmp_path: Path) -> None:
    for name, data in {"empty": b"", "text": b"no model", "plain": b'\x08\0\0\0\0\0\0\0{"a": 1}'}.items():
        (tmp_path / name).write_bytes(data)
        assert not is_weights_file(tmp_path / name)
    os.mkfifo(tmp_path / "fifo")
    for name in ("missing", "fifo", "new"):
        assert not is_weights_file(tmp_path / name)
    write(tmp_path / "of 3", chain(("w",)), [Segment([constant("w", 5)])])
    data = (tmp_path / "of 3").read_bytes()
    (tmp_path / "of 3").write_bytes(data.replace(b'"streamrt.format":"2"', b'"streamrt.format":"3"'))
    with pytest.raises(FormatError, match="format version 3; this streamrt reads only versions 1 and 2"):
        streamrt.pack(tmp_path / "of 3", tmp_path / "out")
