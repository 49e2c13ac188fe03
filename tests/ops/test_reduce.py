from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ops.harness import assert_close, lowered_for, random, run
from streamrt.errors import FormatError


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd"])
@pytest.mark.parametrize("axes", [None, (), (0,), (1,), (3,), (-1, -2), (0, 2), (1, 3), (2, 0, 1), (3, 2, 1, 0)])
@pytest.mark.parametrize("keepdims", [None, 0, 1])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 3, 1, 5), (1, 1, 7, 1)])
def test_reduction(op: str, shape: tuple[int, ...], axes: tuple[int, ...] | None, keepdims: int | None) -> None:
    x = random(*shape)
    attrs: dict[str, Any] = {} if axes is None else {"axes": axes}
    attrs |= {} if keepdims is None else {"keepdims": keepdims}
    functions = {"ReduceMean": np.mean, "ReduceSum": np.sum, "ReduceMax": np.max, "ReduceMin": np.min}
    reduce = (functions | {"ReduceProd": np.prod})[op]
    expected = reduce(x.astype(np.float64), axis=axes or None, keepdims=keepdims != 0)
    assert_close(run(op, [x], attrs=attrs)[0], np.asarray(expected))


def test_a_scalar_is_its_own_mean() -> None:
    assert_close(run("ReduceMean", [random()])[0], random())


@pytest.mark.parametrize(
    "attrs", [{"axes": (2,)}, {"axes": (-3,)}, {"axes": (0, -2)}, {"axes": 1}, {"keepdims": 2}, {"noop": 1}]
)
def test_attributes_that_do_not_fit(attrs: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="under_test"):
        lowered_for("ReduceMean", [(2, 3)], attrs=attrs)
