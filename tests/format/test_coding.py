"""Numbers into the bytes of every coding and back: rounding, scales, pieces of any size, numbers that do not fit."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from streamrt.errors import FormatError
from streamrt.format import Coding, encoded, values

Floats = NDArray[np.float32]

CODINGS = [
    Coding("F16"),
    Coding("BF16"),
    *(Coding(dtype, block) for dtype in ("int8", "int4") for block in (None, 16, 32, 48)),
]


def there(coding: Coding, array: Floats, cuts: Iterable[int] = ()) -> bytes:
    """The bytes of an array, which is given in parts that end at ``cuts``."""
    parts = np.split(array.reshape(-1), list(cuts))
    return b"".join(piece.tobytes() for piece in encoded(coding, "w", array.shape, parts))


def back(coding: Coding, shape: tuple[int, ...], data: bytes, cuts: Iterable[int] = ()) -> Floats:
    edges = [0, *cuts, len(data)]
    pieces = (memoryview(data)[begin:end] for begin, end in itertools.pairwise(edges))
    return np.concatenate([np.empty(0, np.float32), *values(coding, shape, pieces)]).reshape(shape)


def both(coding: Coding, array: Floats) -> Floats:
    return back(coding, array.shape, there(coding, array))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(30)


@pytest.mark.parametrize("coding", CODINGS, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (3, 15), (4, 32), (2, 100), (7, 3, 5, 5), (1, 1000), (0, 7), (3, 0)])
def test_arrays_cut_anywhere_give_the_same(rng: np.random.Generator, coding: Coding, shape: tuple[int, ...]) -> None:
    array = rng.normal(size=shape).astype(np.float32)
    data = there(coding, array)
    dtype, stored = coding.stored(shape)
    assert len(data) == int(np.prod(stored)) * {"U8": 1, "F16": 2, "BF16": 2}[dtype]
    found = back(coding, shape, data)
    for _ in range(5):
        cuts = np.sort(rng.integers(0, array.size + 1, size=4))
        assert there(coding, array, cuts) == data
        np.testing.assert_array_equal(back(coding, shape, data, np.sort(rng.integers(0, len(data) + 1, 4))), found)


def test_float16_and_bfloat16_are_the_nearest(rng: np.random.Generator) -> None:
    bits = np.concatenate([rng.integers(0, 2**32, 200_000, np.uint32), np.arange(2**16, dtype=np.uint32) << 15])
    array = bits.view(np.float32)
    small = array[~np.isfinite(array) | (np.abs(array) <= 65504)]
    with np.errstate(invalid="ignore"):  # some processors raise the flag for a NaN
        expected = small.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(both(Coding("F16"), small), expected)
    most = np.uint32(0x7F7F0000).view(np.float32)
    array = array[~np.isfinite(array) | (np.abs(array) <= most)]
    found = both(Coding("BF16"), array)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(array))
    infinite = np.isinf(array)
    np.testing.assert_array_equal(found[infinite], array[infinite])
    x, y = array[np.isfinite(array)], found[np.isfinite(array)]
    low = (x.view(np.uint32) & 0xFFFF0000).view(np.float32)  # the two neighbours, towards 0 and away from it
    high = ((x.view(np.uint32) & 0xFFFF0000) + 0x10000).view(np.float32)
    below, above = np.abs(x.astype(float) - low), np.abs(high.astype(float) - x)
    even = (low.view(np.uint32) >> 16) % 2 == 0
    with np.errstate(invalid="ignore"):
        expected = np.where((below < above) | ((below == above) & even), low, high)
    np.testing.assert_array_equal(y, expected)


def steps(array: Floats, found: Floats, block: int) -> NDArray[np.float64]:
    """The errors (rows, inner) of int8, in steps of the codes of their block."""
    errors = np.zeros(array.shape)
    for first in range(0, array.shape[1], block):
        part = array[:, first : first + block].astype(float)
        scale = np.abs(part).max(axis=1, keepdims=True) / 127
        errors[:, first : first + block] = (found[:, first : first + block] - part) / np.where(scale == 0, 1, scale)
    return errors


@pytest.mark.parametrize("block", [None, 16, 48])
def test_int8_is_within_a_step_and_mostly_the_nearest(rng: np.random.Generator, block: int | None) -> None:
    array = (rng.normal(size=(200, 100)) * 10.0 ** rng.integers(-30, 30, size=(200, 1))).astype(np.float32)
    array[3] = 0
    array[4] = -np.abs(array[4])
    found = both(Coding("int8", block), array)
    errors = steps(array, found, block or 100)
    assert np.abs(errors).max() < 1
    assert (np.abs(errors) < 0.5001).mean() > (0.92 if block == 16 else 0.96)
    assert np.sqrt((errors**2).mean()) < 0.3  # 0.289 if all are the nearest
    for first in range(0, 100, block or 100):
        part = array[:, first : first + (block or 100)]
        rows, largest = np.arange(200), np.abs(part).argmax(axis=1)
        np.testing.assert_allclose(found[:, first:][rows, largest], part[rows, largest], rtol=1e-6)
    assert (found[3] == 0).all()


@pytest.mark.parametrize(
    ("shape", "block", "group"),
    [
        ((50, 300), None, 300),
        ((50, 96), 48, 48),
        ((20, 64, 1, 1), None, 64),
        ((20, 16, 6, 6), None, 36),
        ((20, 32, 3, 3), 48, 48),  # windows do not fit into the blocks
    ],
)
def test_errors_of_int8_add_up_to_nothing(
    rng: np.random.Generator, shape: tuple[int, ...], block: int | None, group: int
) -> None:
    array = rng.normal(size=shape).astype(np.float32)
    flat, found = array.reshape(shape[0], -1), both(Coding("int8", block), array).reshape(shape[0], -1)
    sums = steps(flat, found, block or flat.shape[1]).reshape(-1, group).sum(axis=1)
    assert np.abs(sums).max() < 0.51


@pytest.mark.parametrize(
    ("shape", "block", "group"),
    [((50, 16), None, 16), ((50, 1), None, 1), ((20, 30, 3, 3), None, 9), ((20, 30, 2, 4), 48, 8)],
)
def test_errors_of_windows_of_int8_are_a_step_nearer_to_nothing(
    rng: np.random.Generator, shape: tuple[int, ...], block: int | None, group: int
) -> None:
    array = rng.normal(size=shape).astype(np.float32)
    flat, found = array.reshape(shape[0], -1), both(Coding("int8", block), array).reshape(shape[0], -1)
    sums = steps(flat, found, block or flat.shape[1]).reshape(-1, group).sum(axis=1)
    nearest = np.concatenate(
        [
            np.rint(part / np.abs(part).max(axis=1, keepdims=True) * 127)
            - part / np.abs(part).max(1, keepdims=True) * 127
            for part in np.split(flat.astype(float), flat.shape[1] // (block or flat.shape[1]), axis=1)
        ],
        axis=1,
    )
    plain = np.abs(nearest.reshape(-1, group).sum(axis=1))
    np.testing.assert_allclose(np.abs(sums), np.where(plain > 0.5, np.abs(plain - 1), plain), atol=2e-3)


def test_errors_of_long_rows_of_int8_nearly_add_up_to_nothing(rng: np.random.Generator) -> None:
    array = rng.normal(size=(50, 20_000)).astype(np.float32)
    found = both(Coding("int8"), array)
    scale = np.abs(array).max(axis=1, keepdims=True) / np.float32(127)
    nearest = np.rint(array / scale) * scale
    sums, plain = steps(array, found, 20_000).sum(axis=1), steps(array, nearest, 20_000).sum(axis=1)
    assert np.sqrt((plain**2).mean()) > 25
    assert np.sqrt((sums**2).mean()) < 10


def test_equal_weights_of_int8_have_equal_codes() -> None:
    """Of several numbers that are equally near to a half none is rounded to the other side."""
    array = np.float32(
        [[127, *[10.3] * 20], [127, *[-10.3] * 20], [127, 1.4, *[10.3] * 19], [127, 127, 127, *[0] * 18]]
    )
    found = both(Coding("int8"), array)
    np.testing.assert_allclose(found[0], [127, *[10] * 20], rtol=1e-6)
    np.testing.assert_allclose(found[1], [127, *[-10] * 20], rtol=1e-6)
    np.testing.assert_allclose(found[2], [127, 2, *[10] * 19], rtol=1e-6)
    np.testing.assert_allclose(found[3], array[3], rtol=1e-6)


@pytest.mark.parametrize("block", [None, 16, 32])
def test_int4_is_no_worse_than_the_plain_scale(rng: np.random.Generator, block: int | None) -> None:
    unit = rng.normal(size=(50, 96))
    array = (unit * 10.0 ** rng.integers(-30, 30, size=(50, 1))).astype(np.float32)
    found = both(Coding("int4", block), array).astype(float)
    for first in range(0, 96, block or 96):
        part = array[:, first : first + (block or 96)].astype(float)
        largest = part[np.arange(50), np.abs(part).argmax(axis=1)][:, None]
        plain = np.clip(np.rint(part / (largest / -8)), -8, 7) * (largest / -8)
        before = ((plain - part) ** 2).sum(axis=1)
        assert (((found[:, first : first + part.shape[1]] - part) ** 2).sum(axis=1) <= before * 1.0001).all()
    relative = (found - array) / np.sqrt((array.astype(float) ** 2).mean(axis=1, keepdims=True))
    assert np.sqrt((relative**2).mean()) < (0.15 if block is None else 0.12)


def test_a_long_row_that_comes_in_small_pieces(rng: np.random.Generator) -> None:
    array = rng.normal(size=(2, 100_000)).astype(np.float32)
    for coding in (Coding("int8"), Coding("int4", 32)):
        data = there(coding, array)
        assert there(coding, array, range(0, array.size, 1000)) == data
        np.testing.assert_array_equal(back(coding, array.shape, data, range(0, len(data), 777)), both(coding, array))


@pytest.mark.parametrize("coding", CODINGS, ids=str)
def test_numbers_so_small_that_a_scale_is_rounded(coding: Coding) -> None:
    least = np.float32(1e-45)
    array = np.full((4, 20), least, np.float32)
    array[1, 3] = -7 * least
    array[2] = np.arange(20) * 10 * least
    array[3, 5] = -190 * least
    found = both(coding, array)
    assert np.abs(found - array).max() <= {"int8": 64, "int4": 80}.get(coding.dtype, 200) * least
    assert (found * array >= 0).all()


@pytest.mark.parametrize(
    ("dtype", "value", "reason"),
    [
        ("F16", 65505.0, "65505, which is beyond float16: expected at most 65504"),
        ("F16", -1e30, "-1e.30, which is beyond float16"),
        ("BF16", 3.4e38, "3.4e.38, which is beyond bfloat16"),
        ("int8", np.inf, "inf, expected finite numbers for int8"),
        ("int4", np.nan, "nan, expected finite numbers for int4"),
    ],
)
def test_numbers_beyond_a_type(dtype: str, value: float, reason: str) -> None:
    array = np.ones((3, 40), np.float32)
    array[2, 7] = value
    with pytest.raises(FormatError, match=f"weight 'w' has the value {reason}"):
        there(Coding(dtype), array)


def test_infinite_floats_stay(rng: np.random.Generator) -> None:
    array = np.array([[np.inf, -np.inf, np.nan, 0.0, -0.0]], np.float32)
    for dtype in ("F16", "BF16"):
        found = both(Coding(dtype), array)
        np.testing.assert_array_equal(found, array)
        np.testing.assert_array_equal(np.signbit(found[0, 3:]), [False, True])


def test_memory_does_not_grow_with_the_tensor() -> None:
    def arrays(count: int) -> Iterator[Floats]:
        for _ in range(count):
            yield np.ones(1 << 18, np.float32)

    for coding in CODINGS:
        peaks = []
        for count in (8, 64):
            tracemalloc.start()
            for _ in encoded(coding, "w", (count << 10, 1 << 8), arrays(count)):
                pass
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert peaks[1] < 1.1 * peaks[0] + 2**16
