"""A kernel checks its arguments before it runs: wrong arrays give ValueError, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kernels.calls import average_pool, conv, dense, dense_wide, depthwise, max_pool, row_max, row_mean
from kernels.geometry import Geometry
from streamrt import _core
from streamrt._core import ACTIVATIONS

ACT = (ACTIVATIONS["Relu"], 0.0, 0.0)
WINDOW = Geometry((4, 5), (3, 3), pads=(1, 1, 1, 1)).window()
VOLUME = Geometry((3, 4, 5), (2, 3, 3), pads=(0, 1, 1, 0, 1, 1)).window()


@pytest.fixture(autouse=True)
def isa() -> None:
    """Run each test once: arguments are checked before the instruction set matters."""


def scratch() -> np.ndarray:
    """The least scratch memory that `conv` accepts for weights of two channels."""
    return np.ones((1, _core.CONV_COLUMNS * 2 * 9), np.float32)


def columns() -> np.ndarray:
    """The least scratch memory that `Gemm` accepts for sums of 20 terms."""
    return np.ones((1, _core.CONV_COLUMNS * 20), np.float32)


def attention(*args: np.ndarray, room: int = 14, scale: float = 0.5, offset: int = 0) -> _core.Attention:
    """Bind an `Attention` to arrays, and to the least memory for blocks of two rows."""
    memory = [np.ones(size, np.float32) for size in (room, 2 * 20, 2)]
    options = {
        "scale": scale,
        "cap": 0.0,
        "truth": False,
        "causal": True,
        "offset": offset,
        "left": -1,
        "right": -1,
        "zeros": True,
    }
    return _core.Attention(*args, *memory, columns(), **options)


#: A call of each kernel: the shapes of its array arguments, by position, and how to call it with them.
CALLS: dict[str, tuple[list[tuple[int, ...]], Callable[..., Any]]] = {
    "unary": ([(6,), (6,)], lambda x, y: _core.unary(x, y, *ACT)),
    "bias_act": ([(3, 4), (3,)], lambda y, b: _core.bias_act(y, b, *ACT)),
    "transpose_bias_act": ([(3, 4), (4, 3), (3,)], lambda t, y, b: _core.transpose_bias_act(t, y, b, *ACT)),
    "dense": ([(5, 20), (3, 32), (3, 5), (5,)], lambda w, x, y, b: dense(w, x, y, b, *ACT)),
    "dense_wide": ([(5, 20), (20, 16), (3, 5), (5,)], lambda w, x, y, b: dense_wide(w, x, y, b, *ACT)),
    "samples": (
        [(40, 20), (5, 20), (5,), (40, 5)],
        lambda *a: _core.Gemm(*a, np.ones(64, np.float32), columns(), *ACT)(0, 5),
    ),
    "scale_shift_act": ([(2, 3, 4), (3,), (3,), (2, 3, 4)], lambda *a: _core.scale_shift_act(*a, *ACT)),
    "prelu": ([(2, 3, 4), (3,), (2, 3, 4)], _core.prelu),
    "conv": (
        [(2, 4, 4, 5), (6, 2, 3, 3), (6,), (2, 6, 4, 5), (2, 6, 4, 5)],
        lambda *a: conv(*a, WINDOW, 2, 0, 6, scratch(), *ACT),
    ),
    "depthwise": (
        [(2, 3, 4, 5), (6, 3, 3), (6,), (2, 6, 4, 5)],
        lambda x, w, b, y: depthwise(x, w, b, y, WINDOW, 0, 6, *ACT),
    ),
    "conv of volumes": (
        [(2, 4, 3, 4, 5), (6, 2, 2, 3, 3), (6,), (2, 6, 2, 4, 5), (2, 6, 2, 4, 5)],
        lambda *a: conv(*a, VOLUME, 2, 0, 6, np.ones((1, _core.CONV_COLUMNS * 2 * 18), np.float32), *ACT),
    ),
    "depthwise of volumes": (
        [(2, 3, 3, 4, 5), (6, 2, 3, 3), (6,), (2, 6, 2, 4, 5)],
        lambda x, w, b, y: depthwise(x, w, b, y, VOLUME, 0, 6, *ACT),
    ),
    "max_pool of volumes": ([(3, 3, 4, 5), (3, 2, 4, 5)], lambda x, y: max_pool(x, y, VOLUME)),
    "average_pool of volumes": ([(3, 3, 4, 5), (3, 2, 4, 5)], lambda x, y: average_pool(x, y, VOLUME, True)),
    "max_pool": ([(3, 4, 5), (3, 4, 5)], lambda x, y: max_pool(x, y, WINDOW)),
    "average_pool": ([(3, 4, 5), (3, 4, 5)], lambda x, y: average_pool(x, y, WINDOW, True)),
    "row_mean": ([(3, 4), (3,)], row_mean),
    "mean of planes": ([(3, 2, 4), (3,)], row_mean),
    "row_max": ([(3, 4), (3,)], row_max),
    "matmul": (
        [(2, 3, 20), (4, 2, 20, 5), (4, 2, 3, 5)],
        lambda a, b, y: _core.Matrices(a, b, y, False, columns(), *ACT)(0, 1),
    ),
    "matmul transposed": (
        [(2, 3, 20), (4, 2, 5, 20), (4, 2, 3, 5)],
        lambda a, b, y: _core.Matrices(a, b, y, True, columns(), *ACT)(0, 1),
    ),
    "attention": (
        [(3, 3, 4, 5, 20), (3, 3, 7, 20), (3, 3, 7, 6), (3, 12, 5, 7), (3, 3, 4, 5, 6)],
        lambda *a: attention(*a)(0, 1),
    ),
    "softmax": ([(2, 3, 4), (2, 3, 4)], lambda x, y: _core.softmax(x, y, False)),
    "lrn": ([(2, 3, 4), (2, 3, 4)], lambda x, y: _core.lrn(x, y, 5, 1e-4, 0.75, 1.0)),
}
#: Position of the output.
OUTPUT = {"bias_act": 0, "transpose_bias_act": 1, "dense": 2, "dense_wide": 2}
SLOTS = [(name, i) for name, (shapes, _) in CALLS.items() for i in range(len(shapes))]
INPUTS = [(name, i) for name, i in SLOTS if i != OUTPUT.get(name, len(CALLS[name][0]) - 1)]


def arrays(name: str) -> list[np.ndarray]:
    return [np.ones(shape, np.float32) for shape in CALLS[name][0]]


def refused(name: str, args: list[Any], error: type[Exception] = ValueError) -> None:
    before = [np.array(a, copy=True) for a in args]
    with pytest.raises(error):
        CALLS[name][1](*args)
    for a, b in zip(args, before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", CALLS)
def test_the_calls_are_right(name: str) -> None:
    CALLS[name][1](*arrays(name))


#: Lengths (kernel, argument, axis) of which other values are right, too: columns, terms, and channels of `depthwise`.
FREE = {
    ("bias_act", 0, 1),
    ("row_mean", 0, 1),
    ("mean of planes", 0, 1),
    ("mean of planes", 0, 2),
    ("row_max", 0, 1),
    ("depthwise", 0, 1),
    ("dense", 0, 1),
}
FREE |= {("dense_wide", 2, 0), ("depthwise of volumes", 0, 1)}  # samples, channels


@pytest.mark.parametrize(("name", "slot"), SLOTS)
def test_wrong_lengths(name: str, slot: int) -> None:
    for axis, length in enumerate(CALLS[name][0][slot]):
        for wrong in (length + 1, length - 1, 0):
            args = arrays(name)
            shape = list(args[slot].shape)
            shape[axis] = wrong
            args[slot] = np.ones(shape, np.float32)
            if (name, slot, axis) == ("attention", 3, 3) and wrong == length - 1:
                continue  # later keys are not used
            if (name, slot, axis) in FREE or (name, slot, wrong) == ("prelu", 1, 1):
                continue
            refused(name, args)


@pytest.mark.parametrize(("name", "slot"), SLOTS)
def test_wrong_number_of_axes(name: str, slot: int) -> None:
    args = arrays(name)
    args[slot] = args[slot][None].repeat(2, axis=0)
    refused(name, args)


@pytest.mark.parametrize(("name", "slot"), SLOTS)
@pytest.mark.parametrize("dtype", ["float64", "int32", ">f4", "float16", "complex64"])
def test_wrong_dtype(name: str, slot: int, dtype: str) -> None:
    args = arrays(name)
    args[slot] = args[slot].astype(dtype)
    refused(name, args)


@pytest.mark.parametrize(("name", "slot"), SLOTS)
def test_not_contiguous_and_not_aligned(name: str, slot: int) -> None:
    args = arrays(name)
    shape = args[slot].shape
    args[slot] = np.ones((*shape[:-1], 2 * shape[-1]), np.float32)[..., ::2]
    refused(name, args)
    args[slot] = np.frombuffer(bytearray(args[slot].size * 4 + 1), np.float32, args[slot].size, 1).reshape(shape)
    refused(name, args)


@pytest.mark.parametrize(("name", "slot"), SLOTS)
def test_not_an_array(name: str, slot: int) -> None:
    args: list[Any] = arrays(name)
    args[slot] = 1.0
    with pytest.raises(TypeError):
        CALLS[name][1](*args)


@pytest.mark.parametrize("name", CALLS)
def test_inputs_may_be_read_only_and_outputs_not(name: str) -> None:
    args = arrays(name)
    output = OUTPUT.get(name, len(args) - 1)
    for slot, array in enumerate(args):
        array.flags.writeable = slot == output
    CALLS[name][1](*args)
    args[output].flags.writeable = False
    refused(name, args)


@pytest.mark.parametrize(("name", "slot"), INPUTS)
def test_overlap(name: str, slot: int) -> None:
    args = arrays(name)
    output = OUTPUT.get(name, len(args) - 1)
    size, out = args[slot].size, args[output].size
    memory = np.ones(size + out, np.float32)
    args[output] = memory[:out].reshape(args[output].shape)
    args[slot] = memory[out - 1 : out - 1 + size].reshape(args[slot].shape)
    refused(name, args)
    args[slot] = memory[out : out + size].reshape(args[slot].shape)
    CALLS[name][1](*args)


@pytest.mark.parametrize("name", ["max_pool", "average_pool", "lrn"])
def test_not_in_place(name: str) -> None:
    args = arrays(name)
    memory = np.ones(max(a.size for a in args), np.float32)
    refused(name, [memory[: a.size].reshape(a.shape) for a in args])


@pytest.mark.parametrize("strides", [(-16, 4), (12, 4), (18, 4), (4, 16), (0, 4)])
def test_rows_that_overlap_or_lie_backwards(strides: tuple[int, int]) -> None:
    memory = np.ones(64, np.float32)
    y = np.ndarray((3, 4), np.float32, memory, 128, strides)
    with pytest.raises(ValueError, match="rows"):
        _core.bias_act(y, None, *ACT)
    with pytest.raises(ValueError, match="rows"):
        _core.transpose_bias_act(np.ones((4, 3), np.float32), y, None, *ACT)
    with pytest.raises(ValueError, match="rows"):
        dense(np.ones((4, 9), np.float32), np.ones((3, 16), np.float32), y, None, *ACT)
    assert (memory == 1).all()


@pytest.mark.parametrize(("first", "last"), [(-1, 2), (3, 2), (0, 21), (21, 21), (-(2**62), 2**62)])
def test_wrong_ranges(first: int, last: int) -> None:
    with pytest.raises(ValueError, match="range"):
        conv(*arrays("conv"), WINDOW, 2, first, last, scratch(), *ACT)
    with pytest.raises(ValueError, match="range"):
        depthwise(*arrays("depthwise"), WINDOW, first, last, *ACT)
    with pytest.raises(ValueError, match="range"):
        _core.Gemm(*arrays("samples"), np.ones(64, np.float32), columns(), *ACT)(first, last)


def test_channels_of_depthwise_must_divide() -> None:
    _, w, bias, y = arrays("depthwise")
    for channels in (0, 4):
        wrong = np.ones((2, channels, 4, 5), np.float32)
        with pytest.raises(ValueError, match="multiple"):
            depthwise(wrong, w, bias, y, WINDOW, 0, 6, *ACT)


def test_window_is_checked_against_the_planes() -> None:
    other = Geometry((5, 4), (3, 3), pads=(1, 1, 1, 1)).window()
    with pytest.raises(ValueError, match="planes"):
        max_pool(*arrays("max_pool"), other)
    with pytest.raises(TypeError):
        max_pool(*arrays("max_pool"), None)


@pytest.mark.parametrize("groups", [-1, 0, 3, 4, 2**31 - 1])
def test_groups_that_do_not_divide(groups: int) -> None:
    with pytest.raises(ValueError, match="groups"):
        conv(*arrays("conv"), WINDOW, groups, 0, 6, scratch(), *ACT)


def test_scratch_that_is_too_small_or_overlaps() -> None:
    for wrong in (scratch()[:, :-1].copy(), scratch()[:0]):
        with pytest.raises(ValueError, match="scratch has shape"):
            conv(*arrays("conv"), WINDOW, 2, 0, 6, wrong, *ACT)
    for shared in range(5):
        args = arrays("conv")
        memory = np.ones(32 * 18 + args[shared].size, np.float32)
        args[shared] = memory[: args[shared].size].reshape(args[shared].shape)
        with pytest.raises(ValueError, match="overlaps"):
            conv(*args, WINDOW, 2, 0, 6, memory[: 32 * 18].reshape(1, -1), *ACT)


def test_memory_of_gemm_that_is_too_small_or_overlaps() -> None:
    block = np.ones(64, np.float32)
    for wrong in (np.ones(39, np.float32), np.ones((8, 8), np.float32)):
        with pytest.raises(ValueError, match="block"):
            _core.Gemm(*arrays("samples"), wrong, columns(), *ACT)
    with pytest.raises(ValueError, match="scratch has shape"):
        _core.Gemm(*arrays("samples"), block, columns()[:, :-1].copy(), *ACT)
    for shared in range(4):
        args = arrays("samples")
        memory = np.ones(64 + args[shared].size, np.float32)
        args[shared] = memory[: args[shared].size].reshape(args[shared].shape)
        with pytest.raises(ValueError, match="overlaps"):
            _core.Gemm(*args, memory[:64], columns(), *ACT)


def test_a_kernel_copies_the_arrays_that_it_keeps() -> None:
    kernel = _core.Gemm(*arrays("samples"), np.ones(64, np.float32), columns(), *ACT)
    source, target = np.arange(5, dtype=np.float32), np.zeros(5, np.float32)
    kernel.keep(source, target)
    for wrong in (np.ones(4, np.float32), np.ones(5), target[::-1], np.ones((5, 1), np.float32)):
        with pytest.raises(ValueError, match=r"shape|format|contiguous|axes"):
            kernel.keep(source, wrong)
    with pytest.raises(ValueError, match="overlaps"):
        kernel.keep(source, source)
    kernel(1, 5)
    assert (target == 0).all()
    kernel(0, 2)
    assert (target == source).all()
    for _ in range(3):
        kernel.keep(source, np.zeros(5, np.float32))
    with pytest.raises(ValueError, match="at most 4 arrays"):
        kernel.keep(source, target)


@pytest.mark.parametrize("code", [-1, len(ACTIVATIONS), 2**31 - 1])
def test_unknown_activation(code: int) -> None:
    x = np.ones(3, np.float32)
    with pytest.raises(ValueError, match="activation code"):
        _core.unary(x, x, code, 0, 0)


def test_size_of_lrn_and_maximum_of_nothing() -> None:
    x = np.ones((1, 2, 3), np.float32)
    with pytest.raises(ValueError, match="size 0"):
        _core.lrn(x, x.copy(), 0, 1, 1, 1)
    with pytest.raises(ValueError, match="rows that are not empty"):
        row_max(np.empty((2, 0), np.float32), np.empty(2, np.float32))


def test_attention_refuses_memory_and_numbers_that_do_not_fit() -> None:
    args = arrays("attention")
    enough = {"scores": 14, "scaled": 40, "unused": 2}
    options = {
        "scale": 0.5,
        "cap": 0.0,
        "truth": False,
        "causal": False,
        "offset": 0,
        "left": -1,
        "right": -1,
        "zeros": True,
    }
    for name, size in {"scores": 6, "scaled": 39, "unused": 1}.items():
        memory = [np.ones(size if other == name else right, np.float32) for other, right in enough.items()]
        with pytest.raises(ValueError, match=rf"{name} has {size} elements"):
            _core.Attention(*args, *memory, columns(), **options)
    memory = [np.ones(right, np.float32) for right in enough.values()]
    with pytest.raises(ValueError, match="scaled is None"):
        _core.Attention(*args, memory[0], None, memory[2], columns(), **options)
    with pytest.raises(ValueError, match="scratch has shape"):
        _core.Attention(*args, *memory, columns()[:, :-1].copy(), **options)
    for wrong in (-1, 2**30):
        with pytest.raises(ValueError, match="offset"):
            attention(*args, offset=wrong)
    for side in ("left", "right"):
        with pytest.raises(ValueError, match="windows"):
            _core.Attention(*args, *memory, columns(), **options | {side: 2**30})
    for index in range(len(memory)):
        shared = memory.copy()
        shared[index] = args[0].reshape(-1)
        with pytest.raises(ValueError, match="overlaps"):
            _core.Attention(*args, *shared, columns(), **options)
    for numbers in ((0, 1, 1, 1), (1, 0, 1, 1), (1, 1, 0, 1), (1, 1, 1, 0)):
        with pytest.raises(ValueError, match="positive"):
            _core.attention_rows(*numbers)
