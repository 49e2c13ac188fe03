"""A part of a Concat with the same values at all positions: when it leaves the convolution, and the same answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.support import check, make_model, onnx, ops, random

node = onnx.helper.make_node

#: Extents of x are (2, 3, 7, 5).
INPUTS = {"x": (2, 3, 7, 5)}
PARAMS = {
    "w": random(4, 9, 1, 1),
    "b": random(4, seed=1),
    "s": random(3, 3, 3, 3, seed=2),
    "sizes": np.array([2, 3, 7, 5]),
    "shape": np.array([1, 1, 7, 5]),
}
PLANES = [
    node("Conv", ["x", "s"], ["one"], pads=[1, 1, 1, 1]),
    node("Relu", ["x"], ["two"]),
]
MEAN = node("GlobalAveragePool", ["x"], ["m"])
POINT = [MEAN, node("Sigmoid", ["m"], ["p"])]


def resize(source: str = "p", target: str = "r", **attributes: Any) -> Any:
    attributes.setdefault("mode", "linear")
    return node("Resize", [source, "", "", "sizes"], [target], **attributes)


def joined(*parts: str, axis: int = 1) -> Any:
    return node("Concat", list(parts), ["c"], axis=axis)


def conv(*inputs: str, **attributes: Any) -> Any:
    return node("Conv", ["c", *(inputs or ("w", "b"))], ["y"], **attributes)


@pytest.mark.parametrize(
    "spread",
    [
        resize(),
        resize(mode="nearest"),
        resize(coordinate_transformation_mode="align_corners"),
        node("Expand", ["p", "shape"], ["r"]),
    ],
)
@pytest.mark.parametrize("parts", [("one", "two", "r"), ("r", "one", "two"), ("one", "r", "two")])
@pytest.mark.parametrize("weights", [("w", "b"), ("w",)])
def test_a_mean_beside_planes(spread: Any, parts: tuple[str, ...], weights: tuple[str, ...], tmp_path: Path) -> None:
    nodes = [*PLANES, *POINT, spread, joined(*parts), conv(*weights), node("Relu", ["y"], ["z"])]
    graph = check(make_model(nodes, PARAMS, inputs=INPUTS, outputs=["z"]), tmp_path)
    pooled = "GlobalAveragePool+Sigmoid"
    assert ops(graph) == ["Conv", "Relu", "Concat", "Conv", pooled, "Conv", "Add+Relu"]
    assert graph.nodes[2].inputs == ("one", "two")


def test_two_points_and_one_plane(tmp_path: Path) -> None:
    other = node("GlobalMaxPool", ["x"], ["q"])
    nodes = [PLANES[0], *POINT, other, resize(), resize("q", "t"), joined("t", "one", "r"), conv()]
    graph = check(make_model(nodes, PARAMS, inputs=INPUTS), tmp_path)
    assert ops(graph).count("Conv") == 3
    assert next(each for each in graph.nodes if each.op == "Concat").inputs == ("q", "p")


KEPT = {
    "cubic": [*PLANES, *POINT, resize(mode="cubic"), joined("one", "two", "r"), conv()],
    "another reader of the plane": [
        *PLANES,
        *POINT,
        resize(),
        joined("one", "two", "r"),
        conv(),
        node("Add", ["y", "v"], ["k"]),
        node("Conv", ["r", "u"], ["o"]),
        node("Add", ["k", "o"], ["z"]),
    ],
    "another reader of the Concat": [
        *PLANES,
        *POINT,
        resize(),
        joined("one", "two", "r"),
        conv(),
        node("ReduceMean", ["c"], ["o"], keepdims=1),
        node("Add", ["y", "o"], ["z"]),
    ],
    "a window": [*PLANES, *POINT, resize(), joined("one", "two", "r"), conv("e", pads=[1, 1, 1, 1])],
    "groups": [*PLANES, *POINT, resize(), joined("one", "two", "r"), conv("g", group=3)],
    "strides": [*PLANES, *POINT, resize(), joined("one", "two", "r"), conv(strides=[2, 2])],
    "along columns": [*PLANES, *POINT, resize(), joined("one", "two", "r", axis=3), conv("n")],
    "two rows": [
        *PLANES,
        node("MaxPool", ["x"], ["p"], kernel_shape=[4, 5], strides=[3, 1]),
        resize(),
        joined("one", "two", "r"),
        conv(),
    ],
    "no plane": [*POINT, resize(), node("GlobalMaxPool", ["x"], ["q"]), resize("q", "t"), joined("t", "r"), conv("h")],
}


@pytest.mark.parametrize("name", KEPT)
def test_other_parts_stay(name: str, tmp_path: Path) -> None:
    more = {
        "e": random(4, 9, 3, 3),
        "g": random(6, 3, 1, 1),
        "n": random(4, 3, 1, 1),
        "h": random(4, 6, 1, 1),
        "u": random(4, 3, 1, 1),
        "v": random(4, 1, 1),
    }
    last = KEPT[name][-1].output[0]
    graph = check(make_model(KEPT[name], PARAMS | more, inputs=INPUTS, outputs=[last]), tmp_path)
    assert "Resize" in ops(graph)
    assert not any("planes" in each.name for each in graph.nodes)


def test_an_output_stays(tmp_path: Path) -> None:
    nodes = [*PLANES, *POINT, resize(), joined("one", "two", "r"), conv()]
    graph = check(make_model(nodes, PARAMS, inputs=INPUTS, outputs=["y", "r"]), tmp_path)
    assert "Resize" in ops(graph)
