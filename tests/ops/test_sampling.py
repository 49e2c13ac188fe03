"""GridSample: maps at computed positions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ops.harness import lowered_for, random, run
from ops.reference import onnx_run
from streamrt.errors import FormatError

PADDINGS = ["zeros", "border", "reflection"]


@pytest.mark.parametrize("align", [0, 1])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 2, 1, 3), (1, 1, 6, 1)])
def test_maps(shape: tuple[int, ...], mode: str, padding: str, align: int) -> None:
    """Positions within the map and far beyond it, more of them than are computed at once."""
    x, grid = random(*shape), 1.3 * random(shape[0], 20, 17, 2, seed=1)
    grid[:, 0, :5] = [[-1, -1], [1, 1], [0, 0], [-1, 1], [3, -3]]
    if 1 in shape[2:] and padding == "reflection" and align:
        return  # there is nothing to mirror at
    attrs: dict[str, Any] = {"mode": mode, "padding_mode": padding, "align_corners": align}
    wanted = onnx_run("GridSample", [x, grid], attrs, opset=20)[0]
    found = run("GridSample", [x, grid], attrs=attrs)[0]
    assert found.shape == wanted.shape
    # A position may be rounded to another value where it lies in the middle between two.
    differs = ~np.isclose(found, wanted, rtol=1e-4, atol=1e-4)
    assert differs.mean() <= (0.01 if mode == "nearest" else 0)


@pytest.mark.parametrize("align", [0, 1])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_volumes(mode: str, padding: str, align: int) -> None:
    x, grid = random(2, 2, 3, 4, 5), 1.3 * random(2, 3, 2, 4, 3, seed=1)
    attrs: dict[str, Any] = {"mode": mode, "padding_mode": padding, "align_corners": align}
    wanted = onnx_run("GridSample", [x, grid], attrs, opset=20)[0]
    np.testing.assert_allclose(run("GridSample", [x, grid], attrs=attrs)[0], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
def test_positions_that_are_no_numbers_read_nothing_beyond_the_map(mode: str, padding: str) -> None:
    grid = np.array([np.nan, 0, 0, np.inf, -np.inf, 3e38, -3e38, 0, np.nan, np.inf], np.float32).reshape(1, 5, 1, 2)
    found = run("GridSample", [np.ones((1, 2, 3, 3), np.float32), grid], attrs={"mode": mode, "padding_mode": padding})
    assert np.all(np.isnan(found[0]) | (np.abs(found[0]) <= 1 + 1e-6))


@pytest.mark.parametrize(
    ("shapes", "attrs"),
    [
        ([(1, 2, 3), (1, 3, 1)], {}),
        ([(1, 2, 3, 3), (2, 3, 3, 2)], {}),
        ([(1, 2, 3, 3), (1, 3, 3, 3)], {}),
        ([(1, 2, 3, 3), (1, 3, 2)], {}),
        ([(1, 2, 3, 3, 3), (1, 3, 3, 3, 3)], {"mode": "cubic"}),
        ([(1, 2, 3, 3), (1, 3, 3, 2)], {"mode": "bilinear"}),
        ([(1, 2, 3, 3), (1, 3, 3, 2)], {"padding_mode": "wrap"}),
        ([(1, 2, 3, 3), (1, 3, 3, 2)], {"align_corners": 2}),
    ],
)
def test_nodes_that_do_not_fit(shapes: list[tuple[int, ...]], attrs: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="under_test"):
        lowered_for("GridSample", shapes, attrs=attrs)
