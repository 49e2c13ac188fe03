"""crc32c against known values and a bit-by-bit reference."""

from __future__ import annotations

import numpy as np
import pytest

from streamrt import _core
from streamrt._core import crc32c


def reference(data: bytes, value: int = 0) -> int:
    crc = ~value & 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return ~crc & 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        # RFC 3720, B.4
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_known_values(data: bytes, value: int) -> None:
    assert crc32c(data) == value


@pytest.mark.parametrize("size", [*range(20), 1000, 12287, 12288, 24575, 24576, 4 * 12288 + 13])
def test_against_reference_and_in_two_parts(rng: np.random.Generator, size: int) -> None:
    data = rng.bytes(size)
    expected = reference(data)
    assert crc32c(data) == expected
    for cut in {0, 1, size // 2, size}:
        assert crc32c(data[cut:], crc32c(data[:cut])) == expected


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_large_buffers_in_chunks(rng: np.random.Generator, threads: int) -> None:
    chunk = 132 << 10
    data = rng.bytes(260 * chunk + 12345)  # more chunks than are joined at once
    steps = 12000  # bytes, too few for a chunk or a strip
    before = _core.threads()
    try:
        _core.set_threads(threads)
        for size in (2 * chunk - 1, 2 * chunk, 3 * chunk + 7, len(data)):
            expected = 0
            for begin in range(0, size, steps):
                expected = crc32c(data[begin : min(begin + steps, size)], expected)
            assert crc32c(data[:size]) == expected
            assert crc32c(data[1:size], crc32c(data[:1])) == expected
    finally:
        _core.set_threads(before)


def test_any_alignment_and_any_contiguous_buffer(rng: np.random.Generator) -> None:
    data = rng.bytes(3 * 4096 + 100)
    for offset in range(9):
        assert crc32c(memoryview(data)[offset:]) == reference(data[offset:])
    array = rng.normal(size=(3, 5)).astype(np.float32)
    assert crc32c(array) == reference(array.tobytes())
    with pytest.raises(ValueError, match="contiguous"):
        crc32c(array[:, ::2])
