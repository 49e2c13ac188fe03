"""Every file of the attacks folder is refused, each for its own reason."""

import os
import tracemalloc
from pathlib import Path

import pytest

from format.attacks.make import ATTACKS, FOLDER, SUFFIX, Draft, join
from streamrt.errors import FormatError, WeightsIOError
from streamrt.format import read_header, verify
from streamrt.format.header import MAX_HEADER


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def test_the_file_that_attacks_start_from_is_good(path: Path) -> None:
    path.write_bytes(Draft(metadata={"note": "ok"}).build())
    file = verify(path)
    assert list(file.tensors) == ["w", "b"]
    assert file.metadata == {"note": "ok"}


def test_the_folder_holds_the_files_that_the_script_writes() -> None:
    assert {file.name for file in FOLDER.glob(f"*{SUFFIX}")} == {name + SUFFIX for name in ATTACKS}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused(name: str) -> None:
    make, reason = ATTACKS[name]
    path = FOLDER / f"{name}{SUFFIX}"
    assert path.read_bytes() == make()
    with pytest.raises(FormatError, match=reason) as caught:
        read_header(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_header_over_the_cap_is_refused_unread(path: Path) -> None:
    path.write_bytes((MAX_HEADER - 7).to_bytes(8, "little"))
    os.truncate(path, 10 * MAX_HEADER)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="more than the 8388608 allowed"):
            read_header(path)
        assert tracemalloc.get_traced_memory()[1] < MAX_HEADER // 8
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("atom", ["[]", "{}", '{"a":{}}', '"ab"', "999"])
def test_parsing_takes_memory_in_proportion_to_the_header(path: Path, atom: str) -> None:
    text = Draft().text().replace(b'"shape":[4,3]', b'"shape":[%b]' % ",".join([atom] * 40_000).encode())
    path.write_bytes(join(text))
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="40000 dimensions"):
            read_header(path)
        assert tracemalloc.get_traced_memory()[1] < 40 * len(text)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("data_offset", "reason"),
    [(4096, "begin at 4096 of the file, expected a multiple of 2097152"), (2 << 20, "")],
)
def test_large_segment_off_its_boundary(path: Path, data_offset: int, reason: str) -> None:
    size = 1 << 20
    draft = Draft(data=bytes(size))
    draft.graph["nodes"][0]["inputs"] = ["x", "w"]
    draft.tensors = {"w": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}
    path.write_bytes(join(draft.text(), draft.data, align=data_offset))
    if reason:
        with pytest.raises(FormatError, match=reason):
            read_header(path)
    else:
        assert read_header(path).tensors["w"].offset == data_offset


def test_large_segment_behind_padding(path: Path) -> None:
    # The segment begins on a boundary of the file; the data section need not.
    size, begin = 1 << 20, (2 << 20) - 4096
    draft = Draft(data=bytes(begin + size))
    draft.graph["nodes"][0]["inputs"] = ["x", "w"]
    draft.tensors = {
        "streamrt.pad.0": {"dtype": "U8", "shape": [begin], "data_offsets": [0, begin]},
        "w": {"dtype": "F32", "shape": [size // 4], "data_offsets": [begin, begin + size]},
    }
    # 767 block checksums of 8 digits need more than a page: take larger blocks.
    draft.metadata = {"streamrt.block_size": str(1 << 22), "streamrt.block_crc32c": "0" * 8}
    path.write_bytes(join(draft.text(), draft.data))
    file = read_header(path)
    assert (file.data_offset, file.tensors["w"].offset, file.large_segments) == (4096, 2 << 20, True)


def test_a_missing_file(path: Path) -> None:
    with pytest.raises(WeightsIOError, match="No such file") as caught:
        read_header(path)
    assert (caught.value.errno, caught.value.filename) == (2, str(path))


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(WeightsIOError, match="a directory, expected a file"):
        read_header(tmp_path)


def test_a_fifo_that_nobody_writes_to(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(WeightsIOError, match="not a regular file"):
        read_header(path)


def test_a_device() -> None:
    with pytest.raises(WeightsIOError, match="not a regular file"):
        read_header("/dev/zero")


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_no_descriptor_stays_open(path: Path) -> None:
    before = open_descriptors()
    for name in ATTACKS:
        with pytest.raises(FormatError):
            verify(FOLDER / f"{name}{SUFFIX}")
    path.write_bytes(Draft().build())
    verify(path)
    assert open_descriptors() == before
