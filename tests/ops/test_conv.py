from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
import pytest

from kernels.isas import NUMPY
from ops.harness import assert_close, lowered_for, random, run
from ops.reference import onnx_run
from streamrt import _core
from streamrt.errors import FormatError

# name: (shape of x, shape of w, attributes)
CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "3x3": ((1, 3, 9, 11), (8, 3, 3, 3), {"pads": (1, 1, 1, 1)}),
    "batch of 3": ((3, 3, 9, 11), (8, 3, 3, 3), {"pads": (1, 1, 1, 1)}),
    "asymmetric pads": ((2, 2, 7, 8), (5, 2, 3, 4), {"pads": (0, 2, 3, 1)}),
    "strides": ((2, 3, 13, 10), (4, 3, 3, 2), {"strides": (2, 3)}),
    "dilations": ((1, 3, 13, 15), (4, 3, 3, 2), {"dilations": (2, 4), "pads": (1, 0, 1, 0)}),
    "SAME_UPPER": ((1, 3, 10, 13), (4, 3, 3, 4), {"auto_pad": "SAME_UPPER", "strides": (2, 2)}),
    "SAME_LOWER": ((1, 3, 10, 13), (4, 3, 3, 4), {"auto_pad": "SAME_LOWER", "strides": (2, 2)}),
    "VALID": ((1, 3, 10, 13), (4, 3, 3, 4), {"auto_pad": "VALID", "strides": (1, 2)}),
    "1x1": ((2, 6, 5, 7), (9, 6, 1, 1), {}),
    "1x1 in groups": ((2, 6, 5, 7), (9, 2, 1, 1), {"group": 3}),
    "1x1 strided": ((2, 6, 5, 7), (9, 6, 1, 1), {"strides": (2, 2)}),
    "1x1 padded": ((2, 6, 5, 7), (9, 6, 1, 1), {"pads": (1, 0, 0, 1)}),
    "groups": ((2, 6, 8, 7), (9, 2, 3, 3), {"group": 3, "pads": (1, 1, 1, 1)}),
    "depthwise": ((2, 5, 9, 8), (5, 1, 3, 3), {"group": 5, "pads": (1, 1, 1, 1)}),
    "depthwise strided": ((2, 5, 9, 8), (5, 1, 5, 5), {"group": 5, "pads": (2, 2, 2, 2), "strides": (2, 2)}),
    "depthwise multiplied": ((2, 3, 9, 8), (6, 1, 3, 3), {"group": 3, "pads": (0, 1, 2, 1)}),
    "depthwise dilated": ((1, 4, 11, 12), (4, 1, 3, 3), {"group": 4, "dilations": (2, 3)}),
    "one input channel": ((2, 1, 8, 8), (7, 1, 3, 3), {}),
    "window is the input": ((3, 4, 5, 6), (9, 4, 5, 6), {}),
    "window is the input, one sample": ((1, 4, 5, 6), (9, 4, 5, 6), {}),
    "1x1 on 1x1": ((3, 10, 1, 1), (9, 10, 1, 1), {}),
    "1x1 on 1x1 in groups": ((3, 10, 1, 1), (4, 5, 1, 1), {"group": 2}),
    "one position": ((2, 3, 3, 3), (4, 3, 5, 5), {"pads": (1, 1, 1, 1)}),
    "1-D": ((2, 4, 19), (6, 4, 5), {"strides": (2,), "pads": (2, 1)}),
    "1-D SAME_UPPER": ((1, 4, 19), (6, 4, 4), {"auto_pad": "SAME_UPPER"}),
    "1-D depthwise": ((2, 4, 19), (4, 1, 5), {"group": 4, "pads": (2, 2)}),
    "1-D pointwise": ((2, 4, 19), (6, 4, 1), {}),
    "3-D": ((2, 3, 3, 4, 5), (8, 3, 3, 3, 3), {"pads": (1,) * 6}),
    "3-D asymmetric pads": ((1, 2, 3, 4, 5), (5, 2, 3, 3, 4), {"pads": (0, 2, 1, 2, 3, 1)}),
    "3-D strides": ((2, 3, 9, 13, 10), (4, 3, 3, 3, 2), {"strides": (2, 2, 3)}),
    "3-D dilations": ((1, 3, 5, 8, 10), (4, 3, 2, 3, 2), {"dilations": (3, 2, 4), "pads": (1, 1, 0, 0, 1, 0)}),
    "3-D SAME_UPPER": ((1, 3, 4, 6, 7), (4, 3, 2, 3, 4), {"auto_pad": "SAME_UPPER", "strides": (1, 2, 2)}),
    "3-D SAME_LOWER": ((1, 3, 4, 6, 7), (4, 3, 2, 3, 4), {"auto_pad": "SAME_LOWER", "strides": (2, 2, 2)}),
    "3-D VALID": ((1, 3, 4, 7, 9), (4, 3, 2, 3, 4), {"auto_pad": "VALID", "strides": (1, 1, 2)}),
    "3-D pointwise": ((2, 6, 3, 5, 7), (9, 6, 1, 1, 1), {}),
    "3-D pointwise strided": ((2, 6, 4, 5, 7), (9, 6, 1, 1, 1), {"strides": (2, 1, 2)}),
    "3-D along the depth": ((1, 6, 7, 5, 4), (9, 6, 3, 1, 1), {"pads": (1, 0, 0, 1, 0, 0)}),
    "3-D in planes": ((1, 6, 3, 5, 6), (9, 6, 1, 3, 3), {"pads": (0, 1, 1, 0, 1, 1)}),
    "3-D groups": ((1, 6, 3, 4, 5), (9, 2, 3, 3, 3), {"group": 3, "pads": (1,) * 6}),
    "3-D depthwise": ((1, 3, 3, 4, 5), (3, 1, 3, 3, 3), {"group": 3, "pads": (1,) * 6}),
    "3-D depthwise in planes": ((1, 3, 3, 5, 6), (3, 1, 1, 3, 3), {"group": 3, "pads": (0, 1, 1, 0, 1, 1)}),
    "3-D depthwise strided": ((1, 3, 4, 5, 6), (6, 1, 3, 3, 3), {"group": 3, "strides": (2, 2, 2), "pads": (1,) * 6}),
    "3-D window is the input": ((3, 4, 2, 3, 4), (9, 4, 2, 3, 4), {}),
    "3-D one plane": ((1, 16, 1, 32, 32), (16, 16, 1, 3, 3), {"pads": (0, 1, 1, 0, 1, 1)}),
    "3-D many blocks of columns": ((1, 24, 9, 20, 31), (6, 24, 3, 3, 3), {"pads": (1,) * 6}),
    "many blocks of columns": ((2, 64, 40, 31), (6, 64, 3, 3), {"pads": (1, 1, 1, 1)}),
    "many blocks of columns in groups": ((1, 96, 70, 64), (6, 48, 3, 3), {"pads": (1, 1, 1, 1), "group": 2}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_agrees_with_onnx(case: Any) -> None:
    x_shape, w_shape, attrs = case
    x, w, bias = random(*x_shape), random(*w_shape, seed=1), random(w_shape[0], seed=2)
    assert_close(run("Conv", [x, w, bias], [1, 2], attrs=attrs)[0], onnx_run("Conv", [x, w, bias], attrs)[0])
    assert_close(run("Conv", [x, w], [1], attrs=attrs)[0], onnx_run("Conv", [x, w], attrs)[0])


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_tiles_give_the_whole(case: Any) -> None:
    x_shape, w_shape, attrs = case
    x, w, bias = random(*x_shape), random(*w_shape, seed=1), random(w_shape[0], seed=2)
    activation = ("LeakyRelu", {"alpha": 0.25})
    plain = run("Conv", [x, w, bias], [1, 2], attrs=attrs)[0]
    expected = np.where(plain >= 0, plain, 0.25 * plain)
    for cuts in ((), (1,), (1, 2, w_shape[0] - 1), range(1, w_shape[0])):
        actual = run("Conv", [x, w, bias], [1, 2], attrs=attrs, activation=activation, cuts=cuts)[0]
        assert_close(actual, expected)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_fourth_input_is_added(case: Any) -> None:
    x_shape, w_shape, attrs = case
    x, w, bias = random(*x_shape), random(*w_shape, seed=1), random(w_shape[0], seed=2)
    plain = run("Conv", [x, w, bias], [1, 2], attrs=attrs)[0]
    residual = random(*plain.shape, seed=3)
    inputs = [x, w, None, residual]
    for cuts in ((), (1, w_shape[0] - 1)):
        actual = run("Conv", inputs, [1, 2], attrs=attrs, activation=("Relu", {}), cuts=cuts)[0]
        assert_close(actual, np.maximum(run("Conv", [x, w], [1], attrs=attrs)[0] + residual, 0))


def test_taps_as_far_apart_as_they_may_be() -> None:
    """Only the tap in the middle lies in the input."""
    x, w, far = random(2, 2, 2, 3, 4), random(3, 2, 3, 3, 3, seed=1), 2**30 - 1
    found = run("Conv", [x, w], [1], attrs={"pads": (far,) * 6, "dilations": (far,) * 3})[0]
    assert_close(found, np.einsum("ncdhw,oc->nodhw", x, w[:, :, 1, 1, 1]))


def test_a_fourth_input_may_be_left_out() -> None:
    x, w = random(2, 3, 5, 5), random(4, 3, 3, 3, seed=1)
    expected = run("Conv", [x, w], [1])[0]
    np.testing.assert_array_equal(run("Conv", [x, w, None, None], [1])[0], expected)


def test_a_fourth_input_has_the_shape_of_the_output() -> None:
    with pytest.raises(FormatError, match="input 3 has shape"):
        lowered_for("Conv", [(1, 3, 5, 5), (4, 3, 1, 1), None, (1, 4, 5, 1)], [1])
    with pytest.raises(FormatError, match="must be computed"):
        lowered_for("Conv", [(1, 3, 5, 5), (4, 3, 1, 1), None, (1, 4, 5, 5)], [1, 3])


def test_scratch_is_bounded() -> None:
    huge = lowered_for("Conv", [(1, 64, 2000, 2000), (64, 64, 3, 3), (64,)], [1, 2])
    assert huge.scratch < 3 << 20
    long = lowered_for("Conv", [(1, 2**16, 20, 20), (8, 2**16, 3, 3)], [1])
    assert long.scratch < 3 << 20
    volumes = lowered_for("Conv", [(1, 64, 200, 200, 200), (64, 64, 3, 3, 3), (64,)], [1, 2])
    assert volumes.scratch < 3 << 20


@pytest.fixture
def products(isa: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of NumPy's matrix products that are called. Only matmul may be."""
    called: list[str] = []
    matmul = np.matmul

    def counted(*args: Any, **kwargs: Any) -> Any:
        called.append("matmul")
        return matmul(*args, **kwargs)

    def refused(*args: Any, **kwargs: Any) -> NoReturn:
        raise AssertionError("a product by NumPy")

    for name in ("dot", "inner", "vdot", "tensordot", "einsum"):
        monkeypatch.setattr(np, name, refused)
    monkeypatch.setattr(np, "matmul", counted)
    return called


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_convolutions_do_not_use_blas(case: Any, isa: str, products: list[str]) -> None:
    """This holds for every set of kernels, because windows that are the whole input have few samples here."""
    x_shape, w_shape, attrs = case
    run("Conv", [random(*x_shape), random(*w_shape, seed=1), random(w_shape[0], seed=2)], [1, 2], attrs=attrs)
    assert bool(products) == (isa == NUMPY)


@pytest.mark.parametrize("batch", [1, 8, 70, 1500])
@pytest.mark.parametrize(
    ("op", "x", "w", "attrs"),
    [
        ("Gemm", (48,), (50, 48), {}),
        ("MatMul", (48,), (50, 48), {"transB": 1}),
        ("Conv", (3, 4, 4), (50, 3, 4, 4), {}),
    ],
)
def test_dense_layers_are_left_to_blas_by_plain_c_alone(
    op: str, x: tuple[int, ...], w: tuple[int, ...], attrs: dict[str, Any], batch: int, isa: str, products: list[str]
) -> None:
    """Scalar kernels are slower than BLAS, so BLAS computes their large batches. Kernels compute all others."""
    samples, weights, bias = random(batch, *x), random(*w, seed=1), random(w[0], seed=2)
    actual = run(op, [samples, weights, bias], [1, 2], attrs=attrs)[0]
    rows = samples.reshape(batch, -1).astype(np.float64) @ weights.reshape(len(weights), -1).T + bias
    assert_close(actual.reshape(batch, -1), rows)
    assert bool(products) == (isa == NUMPY or (isa == "scalar" and batch > 8))


def test_scratch_does_not_grow_with_the_processors() -> None:
    """The more threads, the fewer columns each has. Threads for which 2 MiB have no columns do not take part."""
    before, found = _core.threads(), {}
    try:
        for threads in (1, 2, 8, 28, 64, 256):
            _core.set_threads(threads)
            lowered = lowered_for("Conv", [(1, 64, 224, 224), (256, 64, 3, 3)], [1], attrs={"strides": (2, 2)})
            found[threads] = lowered.scratch
    finally:
        _core.set_threads(before)
    if _core.products_pay():
        assert found[1] < found[2] < found[8]
    else:
        assert len(set(found.values())) == 1
    assert max(found.values()) <= 2 << 20
