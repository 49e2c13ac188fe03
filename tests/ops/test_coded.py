"""Operators give the same bits with weights in fewer bytes as with the float32 weights that they mean."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from coded import Example, examples
from ops.harness import node, random, rows_read, run
from streamrt._core import Coded
from streamrt.ops import Array, Buffers, Operand, lower


def run_coded(
    op: str, inputs: Sequence[Array | Example | None], params: Sequence[int], cuts: Sequence[int] = (), **kwargs: Any
) -> list[Array]:
    """As `run`. Rows of coded weights that a tile may not read are damaged."""
    operands = [
        None
        if x is None
        else Operand(x.values.shape, x.dtype, is_param=True)
        if isinstance(x, Example)
        else Operand(x.shape, is_param=index in params)
        for index, x in enumerate(inputs)
    ]
    lowered = lower(node(op, len(inputs), **kwargs), operands)
    stored = [x.data.copy() if isinstance(x, Example) else x for x in inputs]
    buffers = Buffers(
        inputs=tuple(
            Coded(data, x.dtype, x.values.shape, x.block, x.zeros) if isinstance(x, Example) else data
            for x, data in zip(inputs, stored, strict=True)
        ),
        outputs=tuple(np.full(shape, np.nan, np.float32) for shape in lowered.outputs),
        scratch=np.full(lowered.scratch + 64, 0xFF, np.uint8)[: lowered.scratch],
    )
    run_tile = lowered.bind(buffers)
    for first, last in itertools.pairwise((0, *cuts, lowered.rows)):
        for index, (x, data) in enumerate(zip(inputs, stored, strict=True)):
            if isinstance(x, Example):
                data.fill(0xFF)
                tile = rows_read(lowered, first, last)
                rows = tile if index in lowered.tiled else slice(None) if first == 0 else slice(0)
                data[rows] = x.data[rows]
        run_tile(first, last)
    return list(buffers.outputs)


def check(
    op: str, inputs: Sequence[Array | Example | None], params: Sequence[int], cuts: Sequence[int] = (), **kwargs: Any
) -> None:
    plain = [x.values if isinstance(x, Example) else x for x in inputs]
    actual, expected = run_coded(op, inputs, params, cuts, **kwargs), run(op, plain, params, cuts=cuts, **kwargs)
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("batch", [1, 3, 20, 1100])
def test_gemm(isa: str, batch: int) -> None:
    x, bias = random(batch, 75), random(90, seed=2)
    for weights in examples(np.random.default_rng(1), (90, 75)):
        check("Gemm", [x, weights, bias], [1, 2], (7, 40), activation=("Relu", {}))
        check("MatMul", [x[:, None], weights], [1], attrs={"transB": 1})


@pytest.mark.parametrize(
    ("x", "w", "attrs"),
    [
        ((2, 9, 12, 13), (20, 9, 3, 3), {"pads": (1, 1, 1, 1)}),
        ((1, 64, 20, 20), (40, 64, 3, 3), {"pads": (1, 1, 1, 1)}),  # Winograd's algorithm
        ((2, 20, 9, 7), (33, 20, 1, 1), {}),
        ((1, 12, 9, 9), (24, 4, 3, 3), {"group": 3, "strides": (2, 2)}),
        ((2, 8, 9, 9), (16, 1, 3, 3), {"group": 8}),  # depthwise
        ((3, 6, 4, 4), (10, 6, 4, 4), {}),  # the window is the whole input
        ((2, 5, 30), (12, 5, 7), {"dilations": (2,)}),
        ((1, 7, 4, 6, 7), (20, 7, 3, 3, 3), {"pads": (1,) * 6}),
        ((1, 8, 4, 6, 7), (8, 1, 3, 3, 3), {"group": 8}),
        ((2, 5, 2, 3, 4), (9, 5, 2, 3, 4), {}),
    ],
    ids=str,
)
def test_conv(isa: str, x: tuple[int, ...], w: tuple[int, ...], attrs: dict[str, Any]) -> None:
    data, bias = random(*x), random(w[0], seed=2)
    for weights in examples(np.random.default_rng(1), w):
        check("Conv", [data, weights, bias], [1, 2], (1, w[0] // 2), attrs=attrs, activation=("Relu", {}))


def test_other_operators_decode_a_parameter_as_a_whole() -> None:
    for weights in examples(np.random.default_rng(1), (6, 40)):
        check("Add", [random(5, 6, 40), weights], [1])
        check("Mul", [weights, random(6, 40)], [0], activation=("Relu", {}))
        check("MatMul", [random(3, 6), weights], [1])
        check("MatMul", [weights, random(40, 3)], [0])
        check("Reshape", [weights], [0], attrs={"shape": (40, 6)})
        check("Concat", [random(6, 40), weights], [1], attrs={"axis": 0})
        check("Gather", [weights], [0], attrs={"indices": (3, 0, -1), "axis": 1})
        check("Where", [random(6, 40), weights, weights], [1, 2])


def test_gather_decodes_the_rows_that_it_reads() -> None:
    indices = (3, 4, 5, 0, -1, 0, 5, 4)
    attrs = {"indices": indices, "indices_shape": (2, 1, 4), "axis": 0}
    for shape in ((9, 40), (9, 2, 3)):
        for weights in examples(np.random.default_rng(1), shape):
            check("Gather", [weights], [0], attrs=attrs, activation=("Relu", {}))
            damaged = weights.data.copy()
            damaged[[1, 2, 6, 7]] = 0xFF
            check("Gather", [weights._replace(data=damaged)], [0], attrs=attrs)
            operand = Operand(shape, weights.dtype, is_param=True)
            assert lower(node("Gather", 1, attrs=attrs), [operand]).scratch == 0


def test_a_bias_and_a_scale_in_halves() -> None:
    bias, scale = (next(iter(examples(np.random.default_rng(seed), (12,)))) for seed in (1, 2))
    assert bias.dtype == scale.dtype == "F16"
    check("Gemm", [random(4, 30), random(12, 30), bias], [1, 2], (5,))
    check("Conv", [random(1, 12, 5, 5), random(9, 12, 1, 1), None, None, scale, bias], [1, 4, 5], (5,))
