from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from ops.harness import assert_close, lowered_for, random, run
from streamrt.errors import FormatError

# name: (shape of x, attributes, spatial extents of the output)
CASES: dict[str, tuple[tuple[int, ...], dict[str, Any], tuple[int, ...]]] = {
    "2x2": ((2, 3, 8, 6), {"kernel_shape": (2, 2), "strides": (2, 2)}, (4, 3)),
    "overlapping": ((1, 3, 9, 7), {"kernel_shape": (3, 3)}, (7, 5)),
    "padded": ((1, 3, 9, 7), {"kernel_shape": (3, 2), "strides": (2, 1), "pads": (1, 1, 2, 0)}, (5, 7)),
    "floor": ((1, 2, 7, 8), {"kernel_shape": (2, 3), "strides": (2, 2)}, (3, 3)),
    "ceil": ((1, 2, 7, 8), {"kernel_shape": (2, 3), "strides": (2, 2), "ceil_mode": 1}, (4, 4)),
    "ceil, padded": (
        (1, 2, 8, 9),
        {"kernel_shape": (3, 3), "strides": (2, 3), "pads": (1, 1, 1, 1), "ceil_mode": 1},
        (5, 4),
    ),
    "ceil, a last window would begin in the padding": (
        (1, 2, 6, 6),
        {"kernel_shape": (2, 2), "strides": (3, 3), "pads": (1, 1, 1, 1), "ceil_mode": 1},
        (3, 3),
    ),
    "ceil, the only window reaches beyond the input": (
        (1, 2, 1, 5),
        {"kernel_shape": (2, 2), "strides": (2, 2), "ceil_mode": 1},
        (1, 3),
    ),
    "dilated": ((1, 2, 9, 11), {"kernel_shape": (3, 2), "dilations": (2, 4), "pads": (1, 0, 0, 1)}, (6, 8)),
    "SAME_UPPER": ((1, 2, 9, 10), {"kernel_shape": (3, 4), "strides": (2, 3), "auto_pad": "SAME_UPPER"}, (5, 4)),
    "SAME_LOWER": ((1, 2, 9, 10), {"kernel_shape": (2, 4), "auto_pad": "SAME_LOWER"}, (9, 10)),
    "VALID": ((1, 2, 9, 10), {"kernel_shape": (2, 4), "strides": (2, 2), "auto_pad": "VALID"}, (4, 4)),
    "window is the input": ((2, 5, 7, 7), {"kernel_shape": (7, 7)}, (1, 1)),
    "1-D": ((2, 3, 17), {"kernel_shape": (4,), "strides": (3,), "pads": (2, 1)}, (6,)),
    "3-D": ((2, 3, 6, 4, 5), {"kernel_shape": (2, 2, 2), "strides": (2, 2, 2)}, (3, 2, 2)),
    "3-D, padded": (
        (1, 3, 5, 6, 7),
        {"kernel_shape": (3, 2, 3), "strides": (2, 1, 2), "pads": (1, 0, 2, 2, 1, 0)},
        (3, 6, 4),
    ),
    "3-D ceil": (
        (1, 2, 7, 4, 6),
        {"kernel_shape": (2, 3, 3), "strides": (3, 2, 2), "pads": (1, 1, 0, 1, 1, 0), "ceil_mode": 1},
        (3, 3, 3),
    ),
    "3-D dilated": ((1, 2, 7, 9, 11), {"kernel_shape": (2, 3, 2), "dilations": (3, 2, 4)}, (4, 5, 7)),
    "3-D SAME_UPPER": (
        (1, 2, 5, 6, 7),
        {"kernel_shape": (2, 3, 4), "strides": (1, 2, 3), "auto_pad": "SAME_UPPER"},
        (5, 3, 3),
    ),
    "3-D SAME_LOWER": ((1, 2, 5, 6, 7), {"kernel_shape": (4, 2, 3), "auto_pad": "SAME_LOWER"}, (5, 6, 7)),
    "3-D window is the input": ((2, 5, 2, 3, 4), {"kernel_shape": (2, 3, 4)}, (1, 1, 1)),
    "1-D SAME_LOWER": ((2, 3, 17), {"kernel_shape": (4,), "strides": (2,), "auto_pad": "SAME_LOWER"}, (9,)),
}


def pool(x: np.ndarray, attrs: dict[str, Any], out: tuple[int, ...], op: str) -> np.ndarray:
    """Pooling by its definition, a window at a time."""
    rank = x.ndim - 2
    kernel = attrs["kernel_shape"]
    strides, dilations = attrs.get("strides", (1,) * rank), attrs.get("dilations", (1,) * rank)
    pads = attrs.get("pads", (0,) * 2 * rank)
    if attrs.get("auto_pad", "NOTSET").startswith("SAME"):
        total = [max(0, (o - 1) * s + k - e) for o, s, k, e in zip(out, strides, kernel, x.shape[2:], strict=True)]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = (*small, *large) if attrs["auto_pad"] == "SAME_UPPER" else (*large, *small)
    y = np.empty((*x.shape[:2], *out))
    for position in np.ndindex(*out):
        inside, padded = [], []
        for axis, at in enumerate(position):
            taps = [at * strides[axis] - pads[axis] + k * dilations[axis] for k in range(kernel[axis])]
            extent = x.shape[2 + axis]
            inside.append([t for t in taps if 0 <= t < extent])
            padded.append([t for t in taps if -pads[axis] <= t < extent + pads[rank + axis]])
        values = np.stack([x[(..., *at)] for at in itertools.product(*inside)]).astype(np.float64)
        if op == "MaxPool":
            y[(..., *position)] = values.max(axis=0)
        elif op == "LpPool":
            y[(..., *position)] = (np.abs(values) ** attrs["p"]).sum(axis=0) ** (1 / attrs["p"])
        else:
            count = np.prod([len(p) for p in (padded if attrs.get("count_include_pad") else inside)])
            y[(..., *position)] = values.sum(axis=0) / count
    return y


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "AveragePool with padding"])
def test_pool(case: Any, op: str) -> None:
    shape, attrs, out = case
    op, _, padding = op.partition(" ")
    if padding:
        attrs = {**attrs, "count_include_pad": 1}
    x = random(*shape) - 3  # all negative: a padding of 0 would win
    assert_close(run(op, [x], attrs=attrs)[0], pool(x, attrs, out, op))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("p", [1, 2, 3])
def test_lp_pool(case: Any, p: int) -> None:
    shape, attrs, out = case
    x = random(*shape)
    assert_close(run("LpPool", [x], attrs={**attrs, "p": p})[0], pool(x, {**attrs, "p": p}, out, "LpPool"))


@pytest.mark.parametrize("p", [1, 2, 3])
def test_global_lp_pool(p: int) -> None:
    x = random(2, 3, 5, 7)
    expected = (np.abs(x.astype(np.float64)) ** p).sum(axis=(2, 3), keepdims=True) ** (1 / p)
    assert_close(run("GlobalLpPool", [x], attrs={"p": p})[0], expected)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 7), (2, 5, 7, 9), (3, 2, 3, 2, 5)])
def test_global(shape: tuple[int, ...]) -> None:
    x = random(*shape)
    axes = tuple(range(2, len(shape)))
    assert_close(run("GlobalAveragePool", [x])[0], x.mean(axis=axes, keepdims=True, dtype=np.float64))
    assert_close(run("GlobalMaxPool", [x])[0], x.max(axis=axes, keepdims=True))


@pytest.mark.parametrize(
    ("op", "shape", "attrs"),
    [
        ("MaxPool", (1, 2, 4, 4), {}),
        ("MaxPool", (1, 2, 4, 4), {"kernel_shape": (2,)}),
        ("MaxPool", (1, 2, 4, 4), {"kernel_shape": (0, 2)}),
        ("MaxPool", (1, 2, 4, 4), {"kernel_shape": (5, 2)}),
        ("MaxPool", (1, 2, 4, 4), {"kernel_shape": (2, 2), "strides": (0, 1)}),
        ("MaxPool", (1, 2, 4, 4), {"kernel_shape": (2, 2), "pads": (2, 0, 0, 0)}),
        ("MaxPool", (1, 2, 4, 4), {"kernel_shape": (2, 2), "pads": (2**31 - 1,) * 4}),
        ("MaxPool", (1, 2, 4, 4), {"kernel_shape": (2, 2), "count_include_pad": 1}),
        ("MaxPool", (1, 2, 4, 4), {"kernel_shape": (2, 2), "dilations": (2**31 - 1, 1)}),
        ("MaxPool", (1, 2, 4, 4, 4), {"kernel_shape": (2, 2)}),
        ("MaxPool", (1, 2, 4, 4, 4), {"kernel_shape": (5, 2, 2)}),
        ("MaxPool", (1, 2, 4, 4, 4), {"kernel_shape": (2, 2, 2), "pads": (2, 0, 0, 0, 0, 0)}),
        ("AveragePool", (1, 2, 4, 4, 4), {"kernel_shape": (2, 2, 2), "strides": (2, 2)}),
        ("LpPool", (1, 2, 4, 4, 4), {"kernel_shape": (2**30 - 1,) * 3, "pads": (2**30 - 2,) * 6}),
        ("MaxPool", (1, 2, 4, 4, 4, 4), {"kernel_shape": (2, 2, 2, 2)}),
        ("AveragePool", (2, 4), {"kernel_shape": ()}),
        ("AveragePool", (1, 2, 4, 4), {"kernel_shape": (2, 2), "ceil_mode": 2}),
        ("LpPool", (1, 2, 4, 4), {"kernel_shape": (2, 2), "p": 0}),
        ("LpPool", (1, 2, 4, 4), {"kernel_shape": (2,)}),
        ("GlobalLpPool", (1, 2, 4, 4), {"p": 0.5}),
        ("GlobalAveragePool", (2, 4), {}),
        ("GlobalMaxPool", (2, 4, 4), {"axes": (1,)}),
    ],
)
def test_attributes_that_do_not_fit(op: str, shape: tuple[int, ...], attrs: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="under_test"):
        lowered_for(op, [shape], attrs=attrs)
