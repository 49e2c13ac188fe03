"""SpaceToDepth and DepthToSpace that a model spells out as Reshape, Transpose and Reshape become one node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.support import check, integers, make_model, onnx, ops

node = onnx.helper.make_node
#: extents of the input, of the blocks, and of the result, without samples; the permutation, and what it is.
CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], list[int], str]] = {
    "unshuffle": ((4, 6, 10), (4, 3, 2, 2, 5), (40, 3, 2), [0, 1, 3, 5, 2, 4], "SpaceToDepth"),
    "unshuffle, positions first": ((4, 6, 10), (4, 3, 2, 2, 5), (40, 3, 2), [0, 3, 5, 1, 2, 4], "SpaceToDepth"),
    "shuffle": ((24, 4, 5), (4, 3, 2, 4, 5), (4, 12, 10), [0, 1, 4, 2, 5, 3], "DepthToSpace"),
    "shuffle, positions first": ((24, 4, 5), (3, 2, 4, 4, 5), (4, 12, 10), [0, 3, 4, 1, 5, 2], "DepthToSpace"),
}


def spelled(apart: tuple[int, ...], result: tuple[int, ...], perm: list[int], **given: Any) -> Any:
    constants = {"apart": integers(-1, *apart), "result": integers(-1, *result)}
    nodes = [
        node("Reshape", ["x", "apart"], ["a"]),
        node("Transpose", ["a"], ["b"], perm=perm),
        node("Reshape", ["b", "result"], ["y"]),
    ]
    return make_model(nodes, constants, **given)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("samples", [2, "N"])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_blocks_that_are_spelled_out_become_one_node(tmp_path: Path, name: str, samples: int | str, dtype: str) -> None:
    extents, apart, result, perm, op = CASES[name]
    model = spelled(apart, result, perm, inputs={"x": (samples, *extents)}, types={"x": dtype})
    feeds = {"x": np.arange(2 * np.prod(extents)).reshape(2, *extents).astype(dtype)}
    assert ops(check(model, tmp_path, feeds)) == [op]


@pytest.mark.parametrize(
    ("extents", "apart", "result", "perm"),
    [
        ((4, 6, 10), (4, 3, 2, 2, 5), (40, 3, 2), [0, 1, 5, 3, 2, 4]),  # another order
        ((4, 6, 10), (4, 3, 2, 2, 5), (40, 2, 3), [0, 1, 3, 5, 2, 4]),  # another result
        ((4, 10, 6), (4, 3, 2, 2, 5), (40, 3, 2), [0, 1, 3, 5, 2, 4]),  # blocks over the ends of rows
        ((8, 6, 5), (4, 3, 2, 2, 5), (40, 3, 2), [0, 1, 3, 5, 2, 4]),  # blocks over channels
        (("C", 6, 10), (4, 3, 2, 2, 5), (40, 3, 2), [0, 1, 3, 5, 2, 4]),  # channels of several samples
    ],
)
def test_others_stay(
    tmp_path: Path, extents: tuple[Any, ...], apart: tuple[int, ...], result: tuple[int, ...], perm: list[int]
) -> None:
    model = spelled(apart, result, perm, inputs={"x": (2, *extents)})
    shape = (2, *(8 if extent == "C" else extent for extent in extents))
    feeds = {"x": np.arange(np.prod(shape)).reshape(shape).astype(np.float32)}
    assert ops(check(model, tmp_path, feeds)) == ["Reshape", "Transpose", "Reshape"]


def test_a_result_in_the_middle_stays(tmp_path: Path) -> None:
    extents, apart, result, perm, _ = CASES["shuffle"]
    model = spelled(apart, result, perm, inputs={"x": (2, *extents)}, outputs=("y", "b"))
    assert ops(check(model, tmp_path)) == ["Reshape", "Transpose", "Reshape"]
