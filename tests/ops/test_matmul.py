"""MatMul of computed tensors in any rank, against float64, with every instruction set."""

from __future__ import annotations

import numpy as np
import pytest

from ops.harness import assert_close, lowered_for, random, run
from streamrt.errors import FormatError
from streamrt.ops.matmul import _cut

#: Shapes of the two inputs.
SHAPES = [
    ((3, 4), (4, 5)),
    ((4,), (4,)),
    ((4,), (4, 5)),
    ((3, 4), (4,)),
    ((2, 3, 4), (4,)),
    ((4,), (2, 4, 5)),
    ((2, 3, 4), (2, 4, 5)),
    ((2, 3, 4), (4, 5)),
    ((3, 4), (2, 4, 5)),
    ((6, 2, 7, 33), (6, 2, 33, 50)),
    ((6, 1, 7, 33), (1, 2, 33, 50)),
    ((1, 2, 7, 33), (6, 1, 33, 50)),
    ((2, 1, 3, 1, 4, 5), (1, 4, 3, 2, 5, 6)),
    ((2, 1, 2, 1, 3, 4, 5), (1, 2, 2, 3, 1, 5, 6)),
    ((3, 197, 64), (3, 64, 197)),
    ((2, 5, 1200), (2, 1200, 3)),
]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("transposed", [False, True], ids=["plain", "transposed"])
def test_any_rank(isa: str, shapes: tuple[tuple[int, ...], tuple[int, ...]], transposed: bool) -> None:
    a, b = (random(*shape, seed=i) for i, shape in enumerate(shapes))
    exact = a.astype(np.float64) @ b.astype(np.float64)
    if transposed and b.ndim == 1:
        with pytest.raises(FormatError, match="two to transpose"):
            run("MatMul", [a, b], attrs={"transB": 1})
        return
    if transposed:
        b = np.ascontiguousarray(b.swapaxes(-1, -2))
    (y,) = run("MatMul", [a, b], attrs={"transB": int(transposed)})
    assert_close(y, exact)


@pytest.mark.parametrize("shapes", SHAPES[4:10], ids=str)
def test_an_activation_is_applied_to_every_product(isa: str, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    a, b = (random(*shape, seed=i) for i, shape in enumerate(shapes))
    (y,) = run("MatMul", [a, b], activation=("LeakyRelu", {"alpha": 0.5}))
    exact = a.astype(np.float64) @ b.astype(np.float64)
    assert_close(y, np.where(exact < 0, exact / 2, exact))


def test_a_parameter_may_be_on_either_side(isa: str) -> None:
    a, b = random(4, 3), random(2, 3, 5)
    assert_close(run("MatMul", [a, b], [0])[0], a.astype(np.float64) @ b)
    assert_close(
        run("MatMul", [b.swapaxes(1, 2).copy(), a.T.copy()], [1])[0], b.swapaxes(1, 2).astype(np.float64) @ a.T
    )


def test_pairs_in_memory_are_one_call_of_the_kernel() -> None:
    """Each result is (outer, samples, groups, factor of the rows)."""
    assert _cut((), ()) == ([], 1, 1, 1)
    assert _cut((6, 2), (6, 2)) == ([], 1, 12, 1)
    assert _cut((6, 1), (6, 1)) == ([], 1, 6, 1)
    assert _cut((1, 1), (6, 2)) == ([], 12, 1, 1)
    assert _cut((6, 2), (1, 1)) == ([], 1, 1, 12)
    assert _cut((1, 3, 4), (5, 3, 1)) == ([], 5, 3, 4)
    assert _cut((2, 1, 3), (1, 5, 1)) == ([(2, 1)], 5, 1, 3)
    assert _cut((2, 1, 3, 1), (1, 5, 3, 4)) == ([(2, 1), (1, 5), (3, 3)], 4, 1, 1)


@pytest.mark.parametrize(
    "shapes", [((3, 4), (5, 6)), ((2, 3, 4), (3, 4, 5)), ((), (3,)), ((3,), ()), ((3, 4), (2, 5, 6))], ids=str
)
def test_shapes_that_do_not_fit(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(FormatError):
        lowered_for("MatMul", shapes)
