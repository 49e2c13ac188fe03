"""Good files, mutated at random: opening one raises a typed error, or gives a file that keeps all promises."""

import copy
import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from format.attacks.make import Draft, compact, join
from streamrt.errors import FormatError, WeightsIOError
from streamrt.format import WeightsFile, read_header

GOOD = Draft().build()
TEXT = Draft().text()

Opener = Callable[[bytes], WeightsFile | None]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opener:
    """Opens a file of these bytes, and checks the result and the memory that it took; None if it is refused."""
    path: Path = tmp_path_factory.mktemp("mutations") / "model.safetensors"

    def opened(data: bytes) -> WeightsFile | None:
        path.write_bytes(data)
        tracemalloc.start()
        try:
            file = checked(read_header(path), len(data))
        except (FormatError, WeightsIOError):
            return None
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 1 << 20, "opening a file of a few KiB took more than a MiB"
        with safetensors.safe_open(path, "numpy") as other:  # an accepted file is a valid safetensors file
            for tensor in file.tensors.values():
                assert tuple(other.get_slice(tensor.name).get_shape()) == tensor.shape
        return file

    return opened


def checked(file: WeightsFile, size: int) -> WeightsFile:
    assert file.size == size
    assert file.data_offset % 4096 == 0
    end = file.data_offset
    for tensor in file.tensors.values():
        assert tensor.offset % 64 == 0
        assert end <= tensor.offset
        assert tensor.nbytes == 4 * math.prod(tensor.shape)
        end = tensor.offset + tensor.nbytes
    assert end <= size
    file.graph.check(file.tensors)
    assert len(file.block_crcs) == -(-(size - file.data_offset) // file.block_size)
    return file


def test_the_file_to_mutate_is_good(opened: Opener) -> None:
    # Otherwise every mutation below would fail at the first check, and reach none of the others.
    assert opened(GOOD) is not None
    assert opened(join(TEXT)) is not None


@settings(max_examples=300)
@given(st.data())
def test_bytes(opened: Opener, data: st.DataObject) -> None:
    spoilt = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.one_of(st.integers(0, 7), st.integers(0, 8 + len(TEXT)), st.integers(0, len(spoilt) - 1)))
        spoilt[at] = data.draw(st.integers(0, 255))
    file = opened(bytes(spoilt))
    assert (file is not None) == (spoilt[:4096] == GOOD[:4096])


@given(st.integers(0, len(GOOD) - 1))
def test_truncation(opened: Opener, size: int) -> None:
    assert opened(GOOD[:size]) is None


@given(st.integers(0, 2**64 - 1), st.binary(max_size=200))
def test_length_field(opened: Opener, length: int, rest: bytes) -> None:
    assert opened(length.to_bytes(8, "little") + rest) is None
    if length != 4088:
        assert opened(length.to_bytes(8, "little") + GOOD[8:]) is None


@given(st.data())
def test_bytes_of_a_sealed_header(opened: Opener, data: st.DataObject) -> None:
    text = bytearray(TEXT)
    for _ in range(data.draw(st.integers(1, 3))):
        first = data.draw(st.integers(0, len(text)))
        last = data.draw(st.integers(first, min(first + 12, len(text))))
        text[first:last] = data.draw(
            st.one_of(st.binary(max_size=4), st.sampled_from([b"[", b"{", b"-", b"e9", b'"', b"0"]))
        )
    opened(join(bytes(text)))


#: Values that are hard for a reader, and any other JSON.
HOSTILE = st.one_of(
    st.sampled_from(
        [None, True, -1, 0, 1, 48, 4096, 2**31, 2**53 + 1, 2**62, 2**63, 2**64, 1e308, -0.0, "", "w", "F32"]
    ),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)),
        max_leaves=8,
    ),
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container inside of ``value``, with each of its keys."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


def mutate(data: st.DataObject, value: Any) -> None:
    """Replace, remove, double or rename one item inside ``value``."""
    container, key = data.draw(st.sampled_from(places(value)))
    action = data.draw(st.sampled_from(["replace", "replace", "add", "remove", "copy", "rename"]))
    if action == "replace":
        container[key] = data.draw(HOSTILE)
    elif action == "add" and type(container[key]) is int:
        container[key] += data.draw(st.sampled_from([-64, -16, -4, -1, 1, 4, 16, 64, 4096]))
    elif action == "remove":
        del container[key]
    elif action == "copy":
        other, from_key = data.draw(st.sampled_from(places(value)))
        container[key] = copy.deepcopy(other[from_key])
    elif action == "rename" and isinstance(container, dict):
        container[data.draw(st.one_of(st.text(max_size=5), st.sampled_from(["w", "b", "x", "streamrt.pad.9"])))] = (
            container.pop(key)
        )


@settings(max_examples=500)
@given(st.data())
def test_structure_of_a_sealed_header(opened: Opener, data: st.DataObject) -> None:
    draft = Draft()
    for _ in range(data.draw(st.integers(1, 3))):
        mutate(data, draft.tensors if data.draw(st.booleans()) and draft.tensors else draft.graph)
        if not isinstance(draft.graph, dict) or not draft.graph:
            break
    opened(join(draft.text()))


@given(st.sampled_from(sorted(Draft().header()["__metadata__"])), st.one_of(st.text(), HOSTILE))
def test_metadata_of_a_sealed_header(opened: Opener, key: str, value: Any) -> None:
    header = Draft().header()
    header["__metadata__"][key] = value
    opened(join(compact(header)))
