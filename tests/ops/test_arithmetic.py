from __future__ import annotations

import numpy as np
import pytest

from ops.harness import assert_close, lowered_for, random, run
from streamrt.errors import FormatError

FUNCTIONS = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}
SHAPES = [
    ((2, 3, 4), (2, 3, 4)),
    ((2, 3, 4), (3, 1)),
    ((4,), (2, 3, 4)),
    ((2, 1, 4), (1, 3, 1)),
    ((2, 3, 4), ()),
    ((), ()),
]


@pytest.mark.parametrize("op", FUNCTIONS)
@pytest.mark.parametrize("params", [(), (0,), (1,)])
@pytest.mark.parametrize(("a", "b"), SHAPES)
def test_binary(op: str, a: tuple[int, ...], b: tuple[int, ...], params: tuple[int, ...]) -> None:
    x, y = random(*a), random(*b, seed=1)
    expected = np.asarray(FUNCTIONS[op](x.astype(np.float64), y))
    assert_close(run(op, [x, y], params)[0], expected)
    lowered = lowered_for(op, [a, b], params)
    assert set(lowered.inplace) == {i for i, shape in enumerate((a, b)) if shape == expected.shape} - set(params)
    for index in lowered.inplace:
        assert_close(run(op, [x, y], params, inplace=index)[0], expected)


@pytest.mark.parametrize("shapes", [[(2, 3)], [(2, 3), (3,)], [(3,), (2, 1), (2, 3), ()], [(2, 3)] * 5])
def test_sum(shapes: list[tuple[int, ...]]) -> None:
    inputs = [random(*shape, seed=i) for i, shape in enumerate(shapes)]
    expected = sum(x.astype(np.float64) for x in inputs)
    assert_close(run("Sum", inputs)[0], np.asarray(expected))
    for index in lowered_for("Sum", shapes).inplace:
        assert_close(run("Sum", inputs, inplace=index)[0], np.asarray(expected))


@pytest.mark.parametrize(
    ("op", "shapes"),
    [
        ("Add", [(2, 3), (2,)]),
        ("Sub", [(2, 3), (4, 3)]),
        ("Mul", [(2, 3)]),
        ("Div", [(2, 3), None]),
        ("Add", [(2, 3)] * 3),
        ("Sum", []),
        ("Sum", [(2, 3), (3,), (4,)]),
        ("Mul", [(2**20, 1), (1, 2**20)]),  # 2**40 elements
    ],
)
def test_shapes_that_do_not_fit(op: str, shapes: list[tuple[int, ...] | None]) -> None:
    with pytest.raises(FormatError, match="under_test"):
        lowered_for(op, shapes)
