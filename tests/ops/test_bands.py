"""Operators with a window compute bands of rows, from the rows that are in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kernels.bands import Cut, by_bands
from kernels.geometry import Geometry
from kernels.isas import NUMPY
from ops.harness import lowered_for, random, run
from streamrt._core import Sliding
from streamrt.ops import Array, Buffers

PADS = {"pads": (1, 1, 1, 1)}
#: operator, shapes of the inputs, attributes, and the parameters
CASES: dict[str, tuple[str, tuple[tuple[int, ...] | None, ...], dict[str, Any], tuple[int, ...]]] = {
    "3x3": ("Conv", ((1, 3, 14, 11), (8, 3, 3, 3), (8,)), PADS, (1, 2)),
    "1x1": ("Conv", ((2, 6, 15, 7), (9, 6, 1, 1)), {}, (1,)),
    "scaled": ("Conv", ((1, 6, 15, 7), (9, 6, 1, 1), None, None, (6,)), {}, (1, 4)),
    "groups": ("Conv", ((2, 6, 8, 7), (9, 2, 3, 3)), {"group": 3, "strides": (2, 1), **PADS}, (1,)),
    "residual": ("Conv", ((1, 4, 9, 21), (6, 4, 3, 3), None, (1, 6, 9, 21)), PADS, (1,)),
    "Winograd": ("Conv", ((1, 64, 26, 29), (40, 64, 3, 3), (40,)), PADS, (1, 2)),
    "depthwise": ("Conv", ((2, 5, 19, 8), (5, 1, 3, 3), (5,)), {"group": 5, **PADS}, (1, 2)),
    "MaxPool": ("MaxPool", ((2, 3, 17, 20),), {"kernel_shape": (3, 3), "strides": (2, 2), **PADS}, ()),
    "AveragePool": ("AveragePool", ((2, 3, 17, 20),), {"kernel_shape": (2, 5), "ceil_mode": 1}, ()),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("layout", ["dense", "rows apart", "planes apart"])
def test_bands_give_the_whole(name: str, layout: str, isa: str) -> None:
    op, shapes, attrs, params = CASES[name]
    inputs = [None if shape is None else random(*shape, seed=index) for index, shape in enumerate(shapes)]
    activation = None if op != "Conv" else ("Relu", {})
    whole = run(op, inputs, params, attrs=attrs, activation=activation)[0]
    lowered = lowered_for(op, shapes, params, attrs=attrs, activation=activation)
    if isa == NUMPY and op == "Conv":
        assert lowered.window is None
        return
    assert lowered.window is not None
    kernel = shapes[1][2:] if op == "Conv" and shapes[1] is not None else attrs["kernel_shape"]
    strides, pads = attrs.get("strides", (1, 1)), attrs.get("pads", (0,) * 4)
    x = inputs[0]
    assert x is not None
    geometry = Geometry(x.shape[2:], kernel, strides, pads=pads, ceil=bool(attrs.get("ceil_mode")))
    assert geometry.output == whole.shape[2:]
    scratch = np.full(lowered.scratch, 0xFF, np.uint8)

    def bind(x: Array, residual: Array | None, y: Array) -> Sliding:
        given = (x, *inputs[1:3], residual, *inputs[4:])
        compute = lowered.bind(Buffers(given, (y,), scratch))
        assert isinstance(compute, Sliding)
        return compute

    residual = inputs[3] if len(inputs) > 3 else None
    found = by_bands(bind, geometry, Cut((4, 8), (layout, layout, layout), 1, 1), x, residual, whole.shape[1])
    assert found.tobytes() == whole.tobytes()


def test_operators_without_bands() -> None:
    """Volumes, signals, one window that is the whole input, and activations that the kernel does not apply."""
    for shapes in (((1, 2, 3, 4, 5), (6, 2, 3, 3, 3)), ((1, 2, 9), (6, 2, 3)), ((1, 2, 5, 5), (6, 2, 5, 5))):
        assert lowered_for("Conv", shapes, (1,)).window is None
    pool: dict[str, Any] = {"attrs": {"kernel_shape": (3, 3)}}
    assert lowered_for("MaxPool", ((1, 2, 9, 9),), **pool).window is not None
    assert lowered_for("MaxPool", ((1, 2, 9, 9),), **pool, activation=("Relu", {})).window is None
    assert lowered_for("LpPool", ((1, 2, 9, 9),), **pool).window is None
    assert lowered_for("Relu", ((1, 2, 9, 9),)).window is None
