"""Einsum of one and two tensors, against NumPy's in float64."""

from __future__ import annotations

import numpy as np
import pytest

from ops.harness import assert_close, lowered_for, random, run
from streamrt.errors import FormatError

#: Equations with the shapes of their inputs.
CASES: list[tuple[str, list[tuple[int, ...]]]] = [
    ("ij->ji", [(3, 4)]),
    ("ij->i", [(3, 4)]),
    ("ij->", [(3, 4)]),
    ("ij", [(3, 4)]),
    ("ba", [(3, 4)]),
    ("ii", [(4, 4)]),
    ("ii->i", [(4, 4)]),
    ("...ii->...i", [(2, 3, 4, 4)]),
    ("...->...", [(2, 3)]),
    ("i...->...", [(2, 3, 4)]),
    ("abcd->dbca", [(2, 3, 4, 5)]),
    ("iji->j", [(3, 4, 3)]),
    ("ij,jk", [(3, 4), (4, 5)]),
    ("ij,jk->ki", [(3, 4), (4, 5)]),
    ("ij,kj->ik", [(3, 4), (5, 4)]),
    ("ij,kl->ijkl", [(3, 4), (5, 2)]),
    ("i,i", [(5,), (5,)]),
    ("i,i->i", [(5,), (5,)]),
    ("i,j->ij", [(5,), (4,)]),
    ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]),
    ("bhid,bhjd->bhij", [(2, 3, 6, 4), (2, 3, 5, 4)]),
    ("bhij,bhjd->bihd", [(2, 3, 5, 6), (2, 3, 6, 4)]),
    ("bihd,bjhd->bhij", [(2, 5, 3, 4), (2, 6, 3, 4)]),
    ("bhwc,hkc->bhwk", [(2, 3, 4, 5), (3, 6, 5)]),
    ("b h w c, w k c -> b h w k", [(2, 3, 4, 5), (4, 6, 5)]),
    ("nctkv,kvw->nctw", [(2, 3, 4, 5, 6), (5, 6, 7)]),
    ("...ij,...jk->...ik", [(2, 3, 4, 5), (3, 5, 6)]),
    ("...ij,jk", [(2, 3, 4, 5), (5, 6)]),
    ("ij...,j...->i...", [(3, 4, 2), (4, 2)]),
    ("ij,jk->", [(3, 4), (4, 5)]),
    ("ijk,jl->l", [(3, 4, 2), (4, 5)]),
    ("iij,jk->ik", [(3, 3, 4), (4, 5)]),
    ("ij,jj->ij", [(3, 4), (4, 4)]),
    ("bij,bjk->bik", [(1, 3, 4), (2, 4, 5)]),
    ("ij,jk->ik", [(3, 1), (4, 5)]),
    ("ij,ij->ij", [(3, 1), (1, 4)]),
    (",ij->ji", [(), (3, 4)]),
    ("->", [()]),
    ("ji,kj->ki", [(40, 50), (60, 40)]),
]


@pytest.mark.parametrize(("equation", "shapes"), CASES, ids=[f"{equation} {shapes}" for equation, shapes in CASES])
def test_einsum(isa: str, equation: str, shapes: list[tuple[int, ...]]) -> None:
    inputs = [random(*shape, seed=i) for i, shape in enumerate(shapes)]
    (y,) = run("Einsum", inputs, attrs={"equation": equation})
    assert_close(y, np.einsum(equation, *(x.astype(np.float64) for x in inputs)))


def test_a_parameter(isa: str) -> None:
    x, w = random(2, 3, 4, 5), random(3, 6, 5)
    exact = np.einsum("bhwc,hkc->bhwk", x.astype(np.float64), w.astype(np.float64))
    assert_close(run("Einsum", [x, w], [1], attrs={"equation": "bhwc,hkc->bhwk"})[0], exact)


@pytest.mark.parametrize(
    ("equation", "shapes", "reason"),
    [
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)], "3 inputs"),
        ("ij", [(2, 3), (3, 4)], "1 terms for 2 inputs"),
        ("ij,jk", [(2, 3), (4, 5)], "have extents 3 and 4"),
        ("ii", [(2, 3)], "have extents 2 and 3"),
        ("ii", [(1, 3)], "repeated has extent 1"),
        ("ijk", [(2, 3)], "does not fit an input"),
        ("i", [(2, 3)], "does not fit an input"),
        ("ijk...", [(2, 3)], "does not fit an input"),
        ("i......", [(2, 3)], "does not fit an input"),
        ("i1", [(2, 3)], "does not fit an input"),
        ("ij->ik", [(2, 3)], "each label once, and of an operand"),
        ("ij->ii", [(2, 3)], "each label once, and of an operand"),
        ("ij->i->j", [(2, 3)], "each label once, and of an operand"),
        ("i" + " " * 200, [(2,)], "at most 128 characters"),
        ("abcdef,ghijkl->abcdefghijkl", [(1,) * 6, (1,) * 6], "12 axes"),
        ("abcdef,ghijkl", [(1,) * 6, (1,) * 6], "12 axes"),
        ("a,b->ab", [(2**30,), (2**30,)], r"1 to 2\*\*40"),
    ],
)
def test_equations_that_do_not_fit(equation: str, shapes: list[tuple[int, ...]], reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        lowered_for("Einsum", shapes, attrs={"equation": equation})
