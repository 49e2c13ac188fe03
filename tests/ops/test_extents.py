"""The attribute ``extents``: Reshape, Expand and Resize take extents from a tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ops.harness import lowered_for, random, run
from streamrt.errors import FormatError


def test_reshape_by_its_own_extents() -> None:
    x = random(2, 6, 3, 4)
    attrs = {"shape": (0, 2, -1, 0, 0), "extents": (-1, -1, -1, 2, 3)}
    np.testing.assert_array_equal(run("Reshape", [x], attrs=attrs)[0], x.reshape(2, 2, 3, 3, 4))


@pytest.mark.parametrize("extents", [(-1, -1, 2, 3), (0, -1, 2, 3), (0, 1, 2, -1)])
def test_reshape_by_anothers_extents(extents: tuple[int, ...]) -> None:
    x, other = random(2, 60), random(2, 5, 3, 4)
    shape = tuple(-1 if source == -1 and axis else 0 for axis, source in enumerate(extents))
    attrs = {"shape": shape, "extents": extents}
    np.testing.assert_array_equal(run("Reshape", [x, other], attrs=attrs)[0], x.reshape(2, 5, 3, 4))
    assert lowered_for("Reshape", [x.shape, other.shape], attrs=attrs).view_of == 0


def test_expand() -> None:
    x, other = random(2, 5, 1, 1), random(2, 7, 3, 4)
    attrs = {"shape": (1, 1, 1, 1), "extents": (-1, -1, 2, 3)}
    np.testing.assert_array_equal(run("Expand", [x, other], attrs=attrs)[0], np.broadcast_to(x, (2, 5, 3, 4)))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resize(mode: str) -> None:
    x, other = random(2, 5, 3, 4), random(2, 7, 8)
    attrs = {"mode": mode, "sizes": (0, 0, 0, 0)}
    found = run("Resize", [x, other], attrs=attrs | {"extents": (-1, -1, 1, 2)})[0]
    np.testing.assert_array_equal(found, run("Resize", [x], attrs=attrs | {"sizes": (0, 0, 7, 8)})[0])


@pytest.mark.parametrize(
    ("op", "shapes", "params", "attrs"),
    [
        ("Reshape", [(2, 6), (2, 3)], [], {"shape": (0, 3, -1)}),  # input 1 is not used
        ("Reshape", [(2, 6), (2, 3)], [], {"shape": (0, -1), "extents": (0,)}),
        ("Reshape", [(2, 6), (2, 3)], [], {"shape": (0, -1), "extents": (0, 2)}),
        ("Reshape", [(2, 6), (2, 3)], [], {"shape": (0, -1), "extents": (0, -2)}),
        ("Reshape", [(2, 6), (2, 4)], [], {"shape": (0, 0, -1), "extents": (0, 1, -1)}),
        ("Reshape", [(2, 6), (2, 3)], [1], {"shape": (0, 0, -1), "extents": (0, 1, -1)}),
        ("Reshape", [(2, 6), None], [], {"shape": (0, -1), "extents": (0, -1)}),
        ("Reshape", [(2, 6)] * 3, [], {"shape": (0, -1), "extents": (0, -1)}),
        ("Reshape", [(2, 6)], [], {"shape": (0, -1), "extents": 0}),
        ("Expand", [(2, 1), (2, 3)], [1], {"shape": (1, 1), "extents": (-1, 1)}),
        ("Expand", [(2, 4), (2, 3)], [], {"shape": (1, 1), "extents": (-1, 1)}),
        ("Resize", [(2, 1), (2, 3)], [], {"scales": (1.0, 3.0), "extents": (-1, 1)}),
        ("Resize", [(2, 1), (2, 3)], [], {"sizes": (0, 0), "extents": (-1, 1, 1)}),
        ("Resize", [(2, 1), ()], [], {"sizes": (0, 0), "extents": (-1, 0)}),
        ("Identity", [(2, 3)], [], {"extents": (0, 1)}),
    ],
)
def test_nodes_that_do_not_fit(op: str, shapes: list[Any], params: list[int], attrs: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="under_test"):
        lowered_for(op, shapes, params, attrs=attrs)
