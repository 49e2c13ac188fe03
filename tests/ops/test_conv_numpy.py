"""Convolutions that NumPy computes: the instruction set "numpy". `test_conv` has more of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from kernels.isas import NUMPY, using
from ops.harness import assert_close, lowered_for, random, run
from ops.reference import onnx_run
from ops.test_conv import CASES
from streamrt.ops import conv_numpy


@pytest.fixture(autouse=True)
def isa() -> Iterator[None]:
    with using(NUMPY):
        yield


@pytest.fixture(params=[None, 1, 40, 700])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of one window, of a part of a row, of some rows and groups, and as they are."""
    if request.param is not None:
        monkeypatch.setattr(conv_numpy, "_BLOCK", request.param)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_tiles_of_any_blocks_agree_with_onnx(case: Any, block: None, monkeypatch: pytest.MonkeyPatch) -> None:
    x_shape, w_shape, attrs = case
    x, w, bias = random(*x_shape), random(*w_shape, seed=1), random(w_shape[0], seed=2)
    expected = onnx_run("Conv", [x, w, bias], attrs)[0]
    if expected[0, 0].size > 1000:  # thousands of windows one by one would take minutes
        monkeypatch.setattr(conv_numpy, "_BLOCK", 2**17)
    for cuts in ((), (1,), (w_shape[0] // 2, w_shape[0] - 1)):
        actual = run("Conv", [x, w, bias], [1, 2], attrs=attrs, cuts=cuts, activation=("Relu", {}))[0]
        assert_close(actual, np.maximum(expected, 0))


@pytest.mark.parametrize("inplace", [None, 3])
@pytest.mark.parametrize("name", ["3x3", "groups", "depthwise", "1x1", "1x1 in groups", "1-D", "3-D", "3-D groups"])
def test_a_residual_is_added(name: str, inplace: int | None, block: None) -> None:
    x_shape, w_shape, attrs = CASES[name]
    x, w, bias = random(*x_shape), random(*w_shape, seed=1), random(w_shape[0], seed=2)
    plain = onnx_run("Conv", [x, w, bias], attrs)[0]
    added = random(*plain.shape, seed=3)
    actual = run("Conv", [x, w, bias, added], [1, 2], attrs=attrs, cuts=(2,), inplace=inplace)[0]
    assert_close(actual, plain + added)


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("shifted", [False, True])
def test_the_input_is_scaled(each: bool, shifted: bool, block: None) -> None:
    x, w = random(2, 6, 5, 7), random(9, 6, 1, 1, seed=1)
    scale, shift = random(*((2, 6, 1, 1) if each else (6,)), seed=2), random(6, seed=3) if shifted else None
    attrs = {"input_min": -0.5, "input_max": 1.0}
    params = [1, *([] if each else [4]), *([5] if shifted else [])]
    actual = run("Conv", [x, w, None, None, scale, shift], params, attrs=attrs, cuts=(4,))[0]
    scaled = x * scale.reshape(-1, 6, 1, 1) + (0 if shift is None else shift.reshape(6, 1, 1))
    assert_close(actual, np.einsum("oc,nchw->nohw", w[:, :, 0, 0], np.clip(scaled, -0.5, 1.0)))


def test_scratch_is_bounded() -> None:
    huge = lowered_for("Conv", [(1, 64, 2000, 2000), (64, 64, 3, 3), (64,), (1, 64, 1998, 1998)], [1, 2])
    assert huge.scratch < 3 << 20
    long = lowered_for("Conv", [(1, 2**16, 20, 20), (8, 2**16, 3, 3)], [1])
    assert long.scratch < 3 << 20
    volumes = lowered_for("Conv", [(1, 64, 200, 200, 200), (64, 64, 3, 3, 3), (64,)], [1, 2])
    assert volumes.scratch < 3 << 20
