from __future__ import annotations

import numpy as np
import pytest

from kernels.isas import NUMPY
from ops.harness import assert_close, lowered_for, random, run
from streamrt import _core
from streamrt.errors import FormatError
from streamrt.ops import Buffers

BATCHES = [1, 2, 3, 70]


def dense(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    product = x.astype(np.float64) @ w.astype(np.float64).T
    return product if bias is None else product + bias


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("inner", "rows"), [(1, 1), (1, 5), (17, 1), (33, 70), (64, 128)])
def test_gemm(batch: int, inner: int, rows: int) -> None:
    x, w, bias = random(batch, inner), random(rows, inner, seed=1), random(rows, seed=2)
    assert_close(run("Gemm", [x, w], [1])[0], dense(x, w, None))
    assert_close(run("Gemm", [x, w, bias], [1, 2])[0], dense(x, w, bias))
    assert_close(run("Gemm", [x, w, None], [1])[0], dense(x, w, None))


@pytest.mark.parametrize(
    ("batch", "inner", "rows"), [(2, 1030, 1030), (5, 1024, 1100), (8, 2000, 600), (13, 4100, 2100)]
)
@pytest.mark.parametrize("cuts", [(), (1,), (100, 101, 512)])
def test_few_samples_with_large_weights(batch: int, inner: int, rows: int, cuts: tuple[int, ...]) -> None:
    x, w, bias = random(batch, inner), random(rows, inner, seed=1), random(rows, seed=2)
    if batch <= _core.dense_most(inner * rows):
        samples = batch if batch <= _core.DENSE_BATCH else _core.DENSE_WIDE
        assert lowered_for("Gemm", [(batch, inner), (rows, inner)], [1]).scratch < 4 * samples * (inner + 16) + 64
    actual = run("Gemm", [x, w, bias], [1, 2], cuts=cuts, activation=("Relu", {}))[0]
    assert_close(actual, np.maximum(dense(x, w, bias), 0))


@pytest.mark.parametrize("batch", [*BATCHES, 1500])
@pytest.mark.parametrize("cuts", [(), (1,), (64,), (100, 101, 299)])
def test_tiles_and_blocks_give_the_whole(batch: int, cuts: tuple[int, ...]) -> None:
    x, w, bias = random(batch, 12), random(300, 12, seed=1), random(300, seed=2)
    actual = run("Gemm", [x, w, bias], [1, 2], cuts=cuts, activation=("Relu", {}))[0]
    assert_close(actual, np.maximum(dense(x, w, bias), 0))


@pytest.mark.parametrize("lead", [(), (1,), (5,), (2, 3), (2, 1, 3)])
def test_matmul_with_rows_of_weights(lead: tuple[int, ...]) -> None:
    x, w, bias = random(*lead, 9), random(20, 9, seed=1), random(20, seed=2)
    attrs = {"transB": 1}
    assert_close(run("MatMul", [x, w], [1], attrs=attrs, cuts=(7,))[0], dense(x, w, None))
    assert_close(run("MatMul", [x, w, bias], [1, 2], attrs=attrs, cuts=(7,))[0], dense(x, w, bias))


@pytest.mark.parametrize("params", [(), (0,), (1,)])
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((3, 4), (4, 5)),
        ((4,), (4,)),
        ((4,), (4, 5)),
        ((3, 4), (4,)),
        ((2, 3, 4), (4, 5)),
        ((3, 4), (2, 4, 5)),
        ((2, 3, 4), (2, 4, 5)),
        ((2, 1, 3, 4), (7, 4, 5)),
        ((2, 3, 4), (4,)),
        ((4,), (2, 4, 5)),
    ],
)
def test_matmul(a: tuple[int, ...], b: tuple[int, ...], params: tuple[int, ...]) -> None:
    x, w = random(*a), random(*b, seed=1)
    assert_close(run("MatMul", [x, w], params)[0], np.matmul(x.astype(np.float64), w))


@pytest.mark.parametrize("batch", [2, 64, 10_000])
def test_scratch_is_bounded(batch: int) -> None:
    least = 4 * _core.CONV_DEPTH * _core.CONV_COLUMNS
    columns = _core.threads() * max(least, min(256 << 10, (2 << 20) // _core.threads()))
    bound = (1 << 20) + (columns if batch > _core.dense_most(4096 * 100_000) else 0)
    assert lowered_for("Gemm", [(batch, 4096), (100_000, 4096)], [1]).scratch <= bound


def way(batch: int, inner: int, rows: int) -> str:
    """The way in which ``batch`` samples are multiplied: the kernel for few samples, the kernel for many, or BLAS.

    The size of the scratch memory shows it. The kernels for few samples need room for the samples, in whole chunks or
    filled up to DENSE_WIDE samples.
    BLAS needs room for a number for each sample and row of weights. So ``rows`` must differ from ``inner``.
    """
    lowered = lowered_for("Gemm", [(batch, inner), (rows, inner)], [1])
    x, w, y = (np.empty(shape, np.float32) for shape in ((batch, inner), (rows, inner), (batch, rows)))
    bound = lowered.bind(Buffers((x, w), (y,), np.empty(lowered.scratch, np.uint8)))
    if isinstance(bound, _core.Gemm):
        return "many"
    if batch > _core.DENSE_BATCH:
        return "few" if lowered.scratch == 4 * inner * _core.DENSE_WIDE else "BLAS"
    chunk = _core.DENSE_CHUNK
    return "few" if lowered.scratch == 4 * batch * -(-inner // chunk) * chunk else "BLAS"


def ways(isa: str) -> tuple[str, str]:
    """The ways of few and of many samples."""
    return "BLAS" if isa == NUMPY else "few", "BLAS" if isa in (NUMPY, "scalar") else "many"


@pytest.mark.parametrize(("inner", "rows"), [(16, 24), (1000, 512), (4096, 2047)])
def test_more_than_eight_samples_are_many(isa: str, inner: int, rows: int) -> None:
    few, many = ways(isa)
    assert [way(batch, inner, rows) for batch in (1, 7, 8, 9, 16, 17, 64)] == [few] * 3 + [many] * 4


@pytest.mark.parametrize(("inner", "rows"), [(4096, 2048), (8192, 4096)])
def test_with_weights_that_lie_in_no_cache_the_border_may_be_higher(isa: str, inner: int, rows: int) -> None:
    few, many = ways(isa)
    border = _core.dense_most(inner * rows)
    assert border >= _core.dense_most(inner) == (0 if isa == NUMPY else 8)
    for batch in (1, 7, 8, 9, 15, 16, 17, 64, max(border, 1), border + 1):
        assert way(batch, inner, rows) == (few if batch <= border else many)


@pytest.mark.parametrize("batch", [7, 8, 9, 16, 17])
def test_on_both_sides_of_a_border_the_product_is_the_same(isa: str, batch: int) -> None:
    x, w, bias = random(batch, 90), random(70, 90, seed=1), random(70, seed=2)
    assert_close(run("Gemm", [x, w, bias], [1, 2], cuts=(33,))[0], dense(x, w, bias))


@pytest.mark.parametrize("batch", [8, 9, 16, 17])
def test_with_weights_beyond_the_caches_the_product_is_the_same(batch: int) -> None:
    x, w, bias = random(batch, 4096), random(2048, 4096, seed=1), random(2048, seed=2)
    assert_close(run("Gemm", [x, w, bias], [1, 2], cuts=(1000,))[0], dense(x, w, bias))


@pytest.mark.parametrize("batch", [20, 1500])
def test_with_plain_c_the_product_is_left_to_blas(batch: int) -> None:
    x, w, bias = random(batch, 70), random(300, 70, seed=1), random(300, seed=2)
    before = _core.isa()
    _core._use_isa("scalar")
    try:
        actual = run("Gemm", [x, w, bias], [1, 2], cuts=(100,), activation=("Relu", {}))[0]
    finally:
        _core._use_isa(before)
    assert_close(actual, np.maximum(dense(x, w, bias), 0))


@pytest.mark.parametrize(
    ("op", "shapes", "params", "attrs"),
    [
        ("Gemm", [(2, 3), (4, 5)], [1], {}),
        ("Gemm", [(2, 3, 3), (4, 3)], [1], {}),
        ("Gemm", [(2, 3), (4, 3), (3,)], [1, 2], {}),
        ("Gemm", [(2, 3), (4, 3), (1, 4)], [1, 2], {}),
        ("Gemm", [(2, 3), (4, 3)], [], {}),  # computed weights
        ("Gemm", [(2, 3), (4, 3)], [0, 1], {}),  # nothing computed
        ("Gemm", [(2, 3), (4, 3), (4,)], [1], {}),  # a computed bias
        ("Gemm", [(2, 3)], [], {}),
        ("Gemm", [(2, 3), (4, 3)], [1], {"transB": 1}),
        ("MatMul", [(2, 3), (4, 3)], [1], {"transB": 2}),
        ("MatMul", [(2, 3), (4, 4)], [1], {"transB": 1}),
        ("MatMul", [(2, 3), (3,)], [1], {"transB": 1}),
        ("MatMul", [(), (4, 4)], [1], {"transB": 1}),
        ("MatMul", [(2, 3), (4, 3)], [], {}),
        ("MatMul", [(2, 2, 3), (3, 3, 4)], [], {}),
        ("MatMul", [(), (3,)], [], {}),
        ("MatMul", [(2, 3), (3, 4), (4,)], [2], {}),
        ("MatMul", [(2**20, 1), (1, 2**20)], [], {}),  # 2**40 elements
    ],
)
def test_shapes_that_do_not_fit(op: str, shapes: list, params: list[int], attrs: dict) -> None:
    with pytest.raises(FormatError, match="under_test"):
        lowered_for(op, shapes, params, attrs=attrs)
