"""Every file of the attacks folder is refused, each for its own reason."""

import json
import os
import tracemalloc
from pathlib import Path

import pytest

from format.attacks.make import ATTACKS, FOLDER, SUFFIX, Draft, join
from format.version1 import as_version_1
from processes import descriptors
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


@pytest.mark.parametrize("name", ATTACKS)
def test_is_refused_as_version_1(path: Path, name: str) -> None:
    make, reason = ATTACKS[name]
    path.write_bytes(as_version_1(make()))
    if name == "padding_of_two_pages_at_the_end":  # padding of version 1 has no limit
        read_header(path)
        return
    if name.startswith("layout") and name != "layouts_as_an_object":
        reason = "unknown key 'streamrt.layouts' in __metadata__: version 1 of the format has no such key"
    with pytest.raises(FormatError, match=reason):
        read_header(path)


def test_a_plain_layout_may_be_named(path: Path) -> None:
    layouts = {"w": {"layout": "plain", "shape": [4, 3]}, "b": {"layout": "plain", "shape": [4]}}
    path.write_bytes(Draft(metadata={"streamrt.layouts": json.dumps(layouts)}).build())
    file = verify(path)
    assert file.tensors["w"].shape == (4, 3)
    assert file.metadata == {}


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
    draft = Draft(data=bytes(size), version="1")
    draft.graph["nodes"][0]["inputs"] = ["x", "w"]
    draft.tensors = {"w": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}
    path.write_bytes(join(draft.text(), draft.data, align=data_offset))
    if reason:
        with pytest.raises(FormatError, match=reason):
            read_header(path)
    else:
        assert read_header(path).tensors["w"].offset == data_offset


def behind_padding(version: str, begin: int, size: int) -> bytes:
    """A file whose only segment begins at ``begin`` of the data section."""
    draft = Draft(data=bytes(begin + size), version=version)
    draft.graph["nodes"][0]["inputs"] = ["x", "w"]
    draft.tensors = {
        "streamrt.pad.0": {"dtype": "U8", "shape": [begin], "data_offsets": [0, begin]},
        "w": {"dtype": "F32", "shape": [size // 4], "data_offsets": [begin, begin + size]},
    }
    # 767 block checksums of 8 digits need more than a page: take larger blocks.
    draft.metadata = {"streamrt.block_size": str(1 << 26), "streamrt.block_crc32c": "0" * 8}
    return join(draft.text(), draft.data)


@pytest.mark.parametrize("version", ["1", "2"])
def test_large_segment_behind_padding(path: Path, version: str) -> None:
    # The segment begins on a boundary of the file; the data section need not.
    path.write_bytes(behind_padding(version, (2 << 20) - 4096, 1 << 20))
    file = read_header(path)
    assert (file.version, file.data_offset, file.tensors["w"].offset, file.huge) == (version, 4096, 2 << 20, True)


@pytest.mark.parametrize(("version", "begin"), [("2", 2 << 20), ("2", (2 << 20) + 64), ("1", (4 << 20) - 4096)])
def test_padding_of_a_block_before_a_segment(path: Path, version: str, begin: int) -> None:
    path.write_bytes(behind_padding(version, begin, (1 << 20) - begin % 4096))
    if version == "1":
        assert read_header(path).tensors["w"].offset == 4 << 20
    else:
        with pytest.raises(FormatError, match=f"{begin} bytes of padding lie before the parameters of node 'dense'"):
            read_header(path)


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


def test_no_descriptor_stays_open(path: Path) -> None:
    before = descriptors()
    for name in ATTACKS:
        with pytest.raises(FormatError):
            verify(FOLDER / f"{name}{SUFFIX}")
    path.write_bytes(Draft().build())
    verify(path)
    assert descriptors() <= before
