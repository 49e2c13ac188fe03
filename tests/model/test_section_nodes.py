"""Kinds of nodes that sections have: networks with them run in bands and strips, with the bits of the whole."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import streamrt
from kernels.isas import NUMPY, using
from model import zoo
from model.test_bands import Builder, planned
from streamrt import _core
from streamrt.format import read_header


@pytest.fixture(scope="module", autouse=True)
def compiled_kernels() -> Iterator[None]:
    """Convolutions of NumPy compute no bands."""
    with using("scalar" if _core.isa() == NUMPY else _core.isa()):
        yield


def _activated_mean(build: Builder, x: str) -> str:
    return build.node("HardSigmoid", [build.node("GlobalAveragePool", [x])])


def _activated_reduction(build: Builder, x: str) -> str:
    return build.node("Relu", [build.node("ReduceMean", [x, build.constant([2, 3], np.int64)], keepdims=0)])


def _padded(mode: str, height: int, width: int) -> Callable[[Builder, str], str]:
    """Windows over pictures with some rows and columns around them."""

    def network(build: Builder, x: str) -> str:
        for rows, columns in ((height, width), (1, 1)):
            pads = build.constant([0, 0, rows, columns, 0, 0, rows + 1, columns], np.int64)
            x = build.conv(build.node("Pad", [x, pads], mode=mode), 8, 8, pads=[0, 0, 0, 0])
        return x

    return network


def _resized(scale: float, **attrs: int) -> Callable[[Builder, str], str]:
    """A resized picture beside features that are enlarged by cubic interpolation, as in super-resolution."""

    def network(build: Builder, x: str) -> str:
        x = build.node("Resize", [x, "", build.constant([1, 1, scale, scale])], mode="cubic", **attrs)
        near = build.node("Resize", ["x", "", build.constant([1, 1, scale, scale])], mode="linear", **attrs)
        return build.node("Concat", [build.conv(x, 8, 3), near], axis=1)

    return network


def _two_thirds(build: Builder, x: str) -> str:
    """The scale is rounded to float32, as in files of ONNX."""
    return build.conv(build.node("Resize", [x, "", build.constant([1, 1, 2 / 3, 2 / 3])], mode="nearest"), 8, 8)


def _gate_of_channels(build: Builder, x: str) -> str:
    """Attention to positions (CBAM): mean and largest value of all channels, and a norm."""
    axis = build.constant([1], np.int64)
    both = build.node("Concat", [build.node("ReduceMean", [x, axis]), build.node("ReduceMax", [x, axis])], axis=1)
    gate = build.node("Sigmoid", [build.node("Conv", [both, build.weight(1, 2, 7, 7)], pads=[3] * 4)])
    x = build.node("Mul", [x, gate])
    return build.conv(build.node("Div", [x, build.node("ReduceL2", [x, axis])]), 8, 8)


def _repeated(build: Builder, x: str) -> str:
    """Gates of one channel and of two, which are repeated for each channel."""
    one, two = (build.node("Conv", [x, build.weight(count, 8, 1, 1)]) for count in (1, 2))
    one = build.node("Expand", [one, build.constant([1, 8, 1, 1], np.int64)])
    two = build.node("Tile", [two, build.constant([1, 4, 1, 1], np.int64)])
    return build.conv(build.node("Mul", [x, build.node("Add", [one, two])]), 8, 8)


def _shuffle(build: Builder, x: str, groups: int, each: int) -> str:
    """As torch's exporters write a shuffle of channels in groups."""
    shape = build.node("Shape", [x])
    samples, *positions = (
        build.node("Slice", [shape, *(build.constant([end], np.int64) for end in (axis, axis + 1))])
        for axis in (0, 2, 3)
    )
    apart, whole = (build.constant(extents, np.int64) for extents in ([groups, each], [groups * each]))
    x = build.node("Reshape", [x, build.node("Concat", [samples, apart, *positions], axis=0)])
    x = build.node("Transpose", [x], perm=[0, 2, 1, 3, 4])
    return build.node("Reshape", [x, build.node("Concat", [samples, whole, *positions], axis=0)])


def _shuffled(groups: int, each: int) -> Callable[[Builder, str], str]:
    """Two units of ShuffleNetV2: some channels stay, others are computed from, and all are shuffled."""

    def network(build: Builder, x: str) -> str:
        inner, channels = 8, groups * each
        for _ in range(2):
            x = build.conv(x, inner, channels, 1)
            ends = [build.constant([end], np.int64) for end in (0, each, channels)]
            axis = build.constant([1], np.int64)
            first, second = (build.node("Slice", [x, *pair, axis]) for pair in itertools.pairwise(ends))
            second = build.conv(second, channels - each, channels - each)
            x = _shuffle(build, build.node("Concat", [first, second], axis=1), groups, each)
            inner = channels
        return build.conv(x, inner, 8)

    return network


def _gathered(build: Builder, x: str) -> str:
    """Channels at any distances, some of them twice."""
    indices = build.constant([7, 0, 1, 1, 5, 2, 7], np.int64)
    return build.conv(build.node("Gather", [x, indices], axis=1), 7, 8)


def _channels_last(build: Builder, x: str) -> str:
    """A block of ConvNeXt: a normalisation of channels and two dense layers of each position, with channels last."""
    y = build.node("Conv", [x, build.weight(8, 1, 7, 7)], pads=[3] * 4, group=8)
    y = build.node("Transpose", [y], perm=[0, 2, 3, 1])
    y = build.node("LayerNormalization", [y, build.weight(8), build.weight(8)])
    y = build.node("Gelu", [build.node("MatMul", [y, build.weight(8, 16)])])
    y = build.node("Add", [build.node("MatMul", [y, build.weight(16, 8)]), build.weight(8)])
    y = build.node("Transpose", [y], perm=[0, 3, 1, 2])
    return build.node("Add", [build.node("Mul", [y, build.weight(8, 1, 1)]), x])


#: Networks from ``x``, which has 8 channels and no activation; each is one section.
NETWORKS: dict[str, Callable[[Builder, str], str]] = {
    "a mean with its activation": _activated_mean,
    "a reduction with its activation": _activated_reduction,
    "a border": _padded("edge", 3, 2),
    "a mirrored border": _padded("reflect", 3, 2),
    "cubic": _resized(2),
    "two thirds": _two_thirds,
    "expanded and tiled": _repeated,
    "shuffled, 2 groups": _shuffled(2, 8),
    "shuffled, 3 groups": _shuffled(3, 5),
    "shuffled, groups of one channel": _shuffled(7, 1),
    "some channels": _gathered,
    "channels last": _channels_last,
    "reductions of channels": _gate_of_channels,
    "cubic and antialiased": _resized(0.5, antialias=1),
    "a wide mirrored border": _padded("reflect", 9, 40),
}
#: In strips means are added up in another order.
SUMS = {"a mean with its activation", "a reduction with its activation"}


def _packed(path: Path, name: str, height: int, width: int) -> Path:
    build = Builder(3, height, width)
    x = build.conv(build.conv("x", 3, 8), 8, 8)
    x = build.node("Conv", [x, build.weight(8, 8, 3, 3)], pads=[1, 1, 1, 1])
    return build.pack(path, NETWORKS[name](build, x))


@pytest.mark.parametrize("name", NETWORKS)
def test_bands_have_the_bits_of_the_whole(tmp_path: Path, name: str) -> None:
    path = _packed(tmp_path / "model", name, 480, 60)
    x = zoo.random_input(1, 3, 480, 60)
    with streamrt.Model(path, exact=True) as model:
        whole, needed = model(x), model.plan_for(x.shape)
    assert len(np.unique(whole)) > 2
    found = planned(path, x)
    for _, _, result in found:
        assert result.tobytes() == whole.tobytes()
    least = found[0][1]
    assert len(least.bands) == 1
    nodes = {least.node_of(tile) for tile in least.tiles}
    assert least.bands[0].first == min(nodes)
    assert least.bands[0].last > max(nodes)
    assert least.bands[0].count > 8
    assert least.workspace < 0.4 * needed.workspace


@pytest.mark.parametrize("name", NETWORKS)
def test_strips_have_the_bits_of_the_whole(tmp_path: Path, name: str) -> None:
    path = _packed(tmp_path / "model", name, 16, 1600)
    x = zoo.random_input(1, 3, 16, 1600)
    with streamrt.Model(path, exact=True) as model:
        whole, least = model(x), model.min_budget(x.shape)
    for budget in (least, int(1.5 * least), 2 * least):
        with streamrt.Model(path, budget, exact=True) as model:
            result, plan = model(x), model.plan_for(x.shape)
        if name in SUMS:
            np.testing.assert_allclose(result, whole, rtol=1e-5, atol=1e-7)
        else:
            assert result.tobytes() == whole.tobytes()
        assert budget > least or plan.bands[0].strips > 2


@pytest.mark.parametrize("groups", [2, 3, 7])
@pytest.mark.parametrize("samples", [1, 3])
def test_shuffles_of_pictures_of_any_size(tmp_path: Path, groups: int, samples: int) -> None:
    """Packing does not know that the last Reshape of a shuffle gives a map its own extents. Each call does."""
    build = Builder(3, "h", "w")
    x = build.conv("x", 3, 7 * groups, strides=[2, 2])
    x = build.conv(_shuffle(build, x, groups, 7), 7 * groups, 8)
    x = build.conv(_shuffle(build, x, 8, 1), 8, 8)
    path = build.pack(tmp_path / "model", _shuffle(build, x, 4, 2))
    operators = [node.op for node in read_header(path).graph.nodes]
    assert operators.count("Reshape") == operators.count("Gather") == 3
    for height, width in ((480, 60), (16, 1601)):
        given = zoo.random_input(samples, 3, height, width)
        with streamrt.Model(path, exact=True) as model:
            whole = model(given)
        found = planned(path, given)
        for _, _, result in found:
            assert result.tobytes() == whole.tobytes()
        (bands,) = found[0][1].bands
        assert max(bands.count, bands.strips) > 4


def test_a_picture_of_another_shape_begins_a_section(tmp_path: Path) -> None:
    """A Reshape that makes columns of rows needs the whole, but not for a square."""
    build = Builder(3, "h", "w")
    x = build.conv(build.conv("x", 3, 8), 8, 8)
    samples, rows, columns = (
        build.node("Slice", [build.node("Shape", [x]), *(build.constant([end], np.int64) for end in (axis, axis + 1))])
        for axis in (0, 2, 3)
    )
    extents = build.node("Concat", [samples, build.constant([8], np.int64), columns, rows], axis=0)
    x = build.conv(build.node("Reshape", [x, extents]), 8, 8)
    path = build.pack(tmp_path / "model", build.conv(x, 8, 3))
    for shape, count in (((1, 3, 160, 64), 2), ((1, 3, 100, 100), 1)):
        given = zoo.random_input(*shape)
        with streamrt.Model(path, exact=True) as model:
            whole, least = model(given), model.min_budget(shape)
        with streamrt.Model(path, least, exact=True) as model:
            assert model(given).tobytes() == whole.tobytes()
            assert len(model.plan_for(shape).bands) == count


def test_what_is_mirrored_lies_in_one_strip(tmp_path: Path) -> None:
    """Most of a wide border is cut again, so that it sets no limit for the widths of strips."""
    build = Builder(3, 16, 1600)
    x = build.conv("x", 3, 8)
    x = build.node("Pad", [x, build.constant([0, 0, 0, 0, 0, 0, 0, 300], np.int64)], mode="reflect")
    cut = (build.constant([number], np.int64) for number in (0, 1610, 3))
    x = build.conv(build.node("Slice", [x, *cut]), 8, 8)
    path = build.pack(tmp_path / "model", x)
    given = zoo.random_input(1, 3, 16, 1600)
    with streamrt.Model(path, exact=True) as model:
        whole, least = model(given), model.min_budget(given.shape)
    with streamrt.Model(path, least, exact=True) as model:
        assert model(given).tobytes() == whole.tobytes()
        assert 1 < model.plan_for(given.shape).bands[0].strips < 6


@pytest.mark.parametrize("columns", [20000, 80000])
def test_a_picture_of_one_row_runs_in_strips(tmp_path: Path, columns: int) -> None:
    """As a signal does that is stored so. A gate has one row, too, and is no picture."""
    build = Builder(3, 1, columns)
    first = build.conv("x", 3, 16, strides=[1, 2])
    gate = build.node("Sigmoid", [build.conv(build.node("GlobalMaxPool", [first]), 16, 16, 1)])
    x = build.conv(build.node("Mul", [first, gate]), 16, 8, strides=[1, 2])
    x = build.node("Resize", [x, "", build.constant([1, 1, 1, 4])], mode="linear")
    path = build.pack(tmp_path / "model", build.conv(build.node("Concat", [x, "x"], axis=1), 11, 4))
    given = zoo.random_input(1, 3, 1, columns)
    with streamrt.Model(path, exact=True) as model:
        whole = model(given)
    found = planned(path, given)
    for _, _, result in found:
        assert result.tobytes() == whole.tobytes()
    least = found[0][1]
    assert {bands.count for bands in least.bands} == {1}
    assert max(bands.strips for bands in least.bands) > 8
    assert (
        least.workspace < 4 * 20 * columns
    )  # of the 16 channels between the halves, of half as many columns, one copy


def test_one_row_that_is_read_whole_and_by_columns(tmp_path: Path) -> None:
    """A strip has columns of it for one node, and the other node takes all of them: its section has no strips."""
    build = Builder(3, 16, 160)
    y = build.conv("x", 3, 4)
    row = build.node("ReduceMean", [y, build.constant([2], np.int64)])
    z = build.conv(build.node("Add", [build.conv("x", 3, 4), row]), 4, 3)
    path = build.pack(tmp_path / "model", z, build.conv(row, 4, 4))
    x = zoo.random_input(1, 3, 16, 160)
    with streamrt.Model(path, exact=True) as model:
        whole, least = model(x), model.min_budget(x.shape)
    for budget in (least, int(1.5 * least), 2 * least):
        with streamrt.Model(path, budget, exact=True) as model:
            result = model(x)
        assert {name: y.tobytes() for name, y in result.items()} == {name: y.tobytes() for name, y in whole.items()}
