"""Models whose activations do not fit in the budget run in bands of rows, and give the same bits."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import streamrt
from kernels.isas import NUMPY, using
from model import zoo
from streamrt import BudgetError, _core
from streamrt.format import read_header
from streamrt.plan import Plan

#: Shares of the way from the least budget to the budget that holds everything.
PARTS = (0.0, 0.03, 0.1, 0.3, 0.6, 1.0)


@pytest.fixture(scope="module", autouse=True)
def compiled_kernels() -> Iterator[None]:
    """Convolutions of NumPy compute no bands."""
    with using("scalar" if _core.isa() == NUMPY else _core.isa()):
        yield


class Builder:
    """Builds a graph of pictures, node by node."""

    def __init__(self, channels: int, height: int | str, width: int | str) -> None:
        self._random = np.random.default_rng(0)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._input = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", channels, height, width])

    def weight(self, *shape: int) -> str:
        scale = float(np.prod(shape[1:])) ** -0.5
        return self.constant(scale * self._random.standard_normal(shape))

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def node(self, op: str, inputs: Sequence[str], **attrs: Any) -> str:
        output = f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, list(inputs), [output], **attrs))
        return output

    def split(self, x: str, count: int) -> list[str]:
        """Equal parts of the channels."""
        outputs = [f"t{len(self._nodes)}.{index}" for index in range(count)]
        self._nodes.append(helper.make_node("Split", [x], outputs, axis=1, num_outputs=count))
        return outputs

    def conv(self, x: str, inner: int, channels: int, size: int = 3, **attrs: Any) -> str:
        weights = [self.weight(channels, inner, size, size), self.weight(channels)]
        y = self.node("Conv", [x, *weights], pads=attrs.pop("pads", [size // 2] * 4), **attrs)
        return self.node("Relu", [y])

    def pack(self, path: Path, *outputs: str) -> Path:
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self._nodes, "g", [self._input], values, self._weights)
        streamrt.pack(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), path)
        return path


def unet(path: Path, up: str, height: int | str, width: int | str, channels: Sequence[int] = (8, 16, 32, 64)) -> Path:
    """A U-Net: two 3x3 convolutions a level, and a skip to the level of the same height."""
    build = Builder(3, height, width)
    x, inner, skips = "x", 3, []
    for each in channels[:-1]:
        x = build.conv(build.conv(x, inner, each), each, each)
        skips.append(x)
        x, inner = build.node("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2]), each
    x = build.conv(build.conv(x, inner, channels[-1]), channels[-1], channels[-1])
    for below, each in zip(reversed(channels), reversed(channels[:-1]), strict=False):
        if up == "transposed":
            weights = [build.weight(below, each, 2, 2), build.weight(each)]
            x = build.node("ConvTranspose", [x, *weights], strides=[2, 2])
        else:
            x = build.node("Resize", [x, "", build.constant([1, 1, 2, 2])], mode=up)
            x = build.conv(x, below, each, 1)
        x = build.node("Concat", [skips.pop(), x], axis=1)
        x = build.conv(build.conv(x, 2 * each, each), each, each)
    return build.pack(path, build.node("Sigmoid", [build.node("Conv", [x, build.weight(1, channels[0], 1, 1)])]))


def planned(path: Path, x: NDArray[np.float32]) -> list[tuple[int, Plan, Any]]:
    """The budget, the plan and the result for each share of the way from the least budget to everything."""
    with streamrt.Model(path, exact=True) as model:
        least, most = model.min_budget(x.shape), model.plan_for(x.shape).total
    found = []
    for part in PARTS:
        budget = least + int(part * (most - least))
        with streamrt.Model(path, budget, exact=True) as model:
            result = model(x)
            plan = model.plan_for(x.shape)
            assert plan.total <= budget
            assert model.memory().workspace == plan.workspace
            assert model._engine.prefetcher.peak() <= plan.pinned_bytes + plan.window
            found.append((budget, plan, result))
    return found


@pytest.mark.parametrize("up", ["transposed", "nearest", "linear"])
def test_a_unet_is_one_section_with_the_bits_of_the_whole(tmp_path: Path, up: str) -> None:
    path = unet(tmp_path / "model", up, 160, 128)
    x = zoo.random_input(1, 3, 160, 128)
    with streamrt.Model(path, exact=True) as model:
        whole, needed = model(x), model.plan_for(x.shape)
    assert not needed.bands
    found = planned(path, x)
    for _, _, result in found:
        assert result.tobytes() == whole.tobytes()
    counts = [plan.bands[0].count if plan.bands else 1 for _, plan, _ in found]
    assert all(one >= other for one, other in pairwise(counts))
    assert counts[0] > 8
    assert counts[-1] == 1
    least = found[0][1]
    assert len(least.bands) == 1
    nodes = {least.node_of(tile) for tile in least.tiles}
    assert (least.bands[0].first, least.bands[0].last) == (min(nodes), max(nodes) + 1)
    assert least.workspace < 0.6 * needed.workspace


def test_pictures_of_any_height_need_the_rows_of_one_band(tmp_path: Path) -> None:
    """Inputs and results belong to the caller, so four times the height needs no more memory than before."""
    needed = []
    for height in (512, 2048):
        with streamrt.Model(unet(tmp_path / f"{height}", "nearest", height, 32, (4, 8, 16))) as model:
            needed.append(model.min_budget((1, 3, height, 32)))
            assert model.plan_for((1, 3, height, 32)).workspace > 1.5 * needed[-1]
    assert needed[1] < 1.5 * needed[0]


def test_rows_come_from_the_array_of_the_caller(tmp_path: Path) -> None:
    """It may be mapped, or a view. No array of a caller is kept, not even after an error."""
    path = unet(tmp_path / "model", "nearest", 160, 128)
    x = zoo.random_input(1, 3, 160, 128)
    with streamrt.Model(path, exact=True) as model:
        whole, least = model(x), model.min_budget(x.shape)
        turned = model(x[:, ::-1, ::-1])
    mapped = np.memmap(tmp_path / "x", np.float32, "w+", shape=x.shape)
    mapped[...] = x
    with streamrt.Model(path, least, exact=True) as model:
        assert model(mapped).tobytes() == whole.tobytes()
        out = np.memmap(tmp_path / "y", np.float32, "w+", shape=whole.shape)
        assert model(mapped, out=out) is out
        assert out.tobytes() == whole.tobytes()
        assert model(x[:, ::-1, ::-1]).tobytes() == turned.tobytes()
        session = model._engine.session
        assert session is not None
        assert session.prepared.program.outside == {"x", model.outputs[0].name}
        assert not session.outside
        os.truncate(path, 8192)
        with pytest.raises(streamrt.WeightsIOError):
            model(x)
        assert not session.outside


def test_arrays_of_the_caller_may_begin_at_any_byte(tmp_path: Path) -> None:
    """As those do that are a part of a message."""
    path, shape = unet(tmp_path / "model", "nearest", 64, 64), (1, 3, 64, 64)
    x = zoo.random_input(*shape)
    with streamrt.Model(path) as model:
        budget = model.min_budget(shape)
    with streamrt.Model(path, budget) as model:
        wanted = model(x)
        assert model.plan.bands
        given = np.frombuffer(b"." + x.tobytes(), np.float32, offset=1).reshape(shape)
        result = np.frombuffer(bytearray(wanted.nbytes + 1), np.float32, offset=1).reshape(wanted.shape)
        assert not given.flags.aligned
        model(given, out=result)
        assert result.tobytes() == wanted.tobytes()


def test_sections_end_where_the_whole_plane_is_needed(tmp_path: Path) -> None:
    """A gate over all positions, and an output in the middle, with residual sums around them."""
    build = Builder(3, 96, 61)
    stem = build.conv("x", 3, 16, 7, strides=[2, 2], pads=[3, 3, 3, 3])
    first = build.node("Add", [stem, build.conv(build.conv(stem, 16, 16), 16, 16)])
    gate = build.node("GlobalAveragePool", [first])
    gate = build.node("Sigmoid", [build.conv(gate, 16, 16, 1)])
    gated = build.node("Mul", [first, gate])
    second = build.node("Relu", [build.node("Add", [build.conv(build.conv(gated, 16, 16), 16, 16), first])])
    last = build.conv(second, 16, 8, strides=[2, 1], pads=[0, 2, 1, 0])
    path = build.pack(tmp_path / "model", last, second)
    x = zoo.random_input(1, 3, 96, 61)
    with streamrt.Model(path, exact=True) as model:
        whole = model(x)
    found = planned(path, x)
    assert len(found[0][1].bands) == 2
    for _, _, results in found:
        assert {name: value.tobytes() for name, value in results.items()} == {
            name: value.tobytes() for name, value in whole.items()
        }


def test_channels_are_split_in_bands(tmp_path: Path) -> None:
    """Blocks of channels, then channels in two parts of which one goes on, as in a backbone of a detector."""
    build = Builder(3, 96, 60)
    x = build.conv(build.node("SpaceToDepth", ["x"], blocksize=2), 12, 16)
    for _ in range(2):
        first, second = build.split(build.conv(x, 16, 16, 1), 2)
        third = build.node("Add", [second, build.conv(build.conv(second, 8, 8), 8, 8)])
        x = build.conv(build.node("Concat", [first, second, third], axis=1), 24, 16, 1)
    path = build.pack(tmp_path / "model", x)
    x = zoo.random_input(1, 3, 96, 60)
    with streamrt.Model(path, exact=True) as model:
        whole = model(x)
        nodes = [node.name for node in model._engine.file.graph.nodes]
    found = planned(path, x)
    assert len(found[0][1].bands) == 1
    assert all(result.tobytes() == whole.tobytes() for _, _, result in found)
    with streamrt.Model(path, found[0][0], exact=True) as model:
        model(x)
        stats = model.stats
    assert stats is not None
    assert list(dict.fromkeys(layer.name for layer in stats.layers)) == nodes


@pytest.mark.parametrize("keepdims", [0, 1])
def test_classes_of_pixels_are_found_in_bands(tmp_path: Path, keepdims: int) -> None:
    """A segmentation with probabilities and classes, behind a gate that makes its input whole.

    Classes are int64. They are no rows, so they cannot take the place of the section's input.
    """
    build = Builder(3, 96, 61)
    first = build.conv("x", 3, 16)
    gate = build.node("Sigmoid", [build.conv(build.node("GlobalAveragePool", [first]), 16, 16, 1)])
    scores = build.conv(build.conv(build.node("Mul", [first, gate]), 16, 8), 8, 5, 1)
    classes = build.node("ArgMax", [scores], axis=1, keepdims=keepdims)
    sure = build.node("Softmax", [build.conv(scores, 5, 2, 1)], axis=1)
    path = build.pack(tmp_path / "model", classes, sure)
    x = zoo.random_input(1, 3, 96, 61)
    with streamrt.Model(path, exact=True) as model:
        whole = model(x)
    assert len(np.unique(whole[classes])) > 1
    found = planned(path, x)
    assert len(found[0][1].bands) == 2
    for _, _, results in found:
        assert results[classes].dtype == np.int64
        assert {name: value.tobytes() for name, value in results.items()} == {
            name: value.tobytes() for name, value in whole.items()
        }


def decoder(path: Path, height: int, width: int, channels: Sequence[int] = (32, 24, 16)) -> Path:
    """Residual blocks with normalisations of groups and of channels; each level doubles the rows and the columns."""
    build = Builder(3, height, width)

    def normed(x: str, inner: int, outer: int, op: str) -> str:
        scale, bias = (build.constant(start + 0.1 * np.arange(inner)) for start in (1, 0))
        x = build.node(op, [x, scale, bias], **({"num_groups": 4} if op == "GroupNormalization" else {}))
        x = build.node("Mul", [x, build.node("Sigmoid", [x])])
        return build.node("Conv", [x, build.weight(outer, inner, 3, 3)], pads=[1, 1, 1, 1])

    x = build.node("Conv", ["x", build.weight(channels[0], 3, 3, 3)], pads=[1, 1, 1, 1])
    inner = channels[0]
    for outer in channels:
        if x != "t0":
            x = build.node("Resize", [x, "", build.constant([1, 1, 2, 2])], mode="nearest")
        y = normed(normed(x, inner, outer, "GroupNormalization"), outer, outer, "InstanceNormalization")
        short = x if inner == outer else build.node("Conv", [x, build.weight(outer, inner, 1, 1)])
        x, inner = build.node("Add", [short, y]), outer
    return build.pack(path, normed(x, inner, 3, "GroupNormalization"))


def test_normalisations_of_whole_planes_run_in_two_sections(tmp_path: Path) -> None:
    """The section before finds mean and deviation, the next one uses them. Both have the bits of the whole.

    Two tensors stay whole: the input of the last block, of 24 channels, and the 16 between its normalisations. Its
    result takes the place of one of them.
    """
    path = decoder(tmp_path / "model", 64, 48)
    x = zoo.random_input(1, 3, 64, 48)
    with streamrt.Model(path, exact=True) as model:
        whole, needed = model(x), model.plan_for(x.shape)
    planes = 4 * (24 + 16) * 256 * 192
    assert needed.workspace > 1.5 * planes
    found = planned(path, x)
    for _, _, result in found:
        assert result.tobytes() == whole.tobytes()
    least = found[0][1]
    assert len(least.bands) == 7
    assert least.workspace < 1.15 * planes


def test_winograds_algorithm_has_the_same_bits_in_bands(tmp_path: Path) -> None:
    """Without it, rows have those of an exact model. Both are near."""
    path = unet(tmp_path / "model", "nearest", 180, 148, (64, 64, 64))
    x = zoo.random_input(1, 3, 180, 148)
    with streamrt.Model(path) as model, streamrt.Model(path, exact=True) as plain:
        fast, exact = model(x), plain(x)
        least, most = model.min_budget(x.shape), model.plan_for(x.shape).total
    assert fast.tobytes() != exact.tobytes()
    np.testing.assert_allclose(fast, exact, rtol=0, atol=1e-5)
    found = set()
    for part in (0.0, 0.2, 0.6, 0.9):
        with streamrt.Model(path, least + int(part * (most - least))) as model:
            result = model(x)
            assert model.plan.bands
            session = model._engine.session
            assert session is not None
            lean = session.prepared.program.lean
            assert result.tobytes() == (exact if lean else fast).tobytes()
            found.add(lean)
    assert found == {True, False}


def test_a_batch_is_divided_into_samples_in_bands(tmp_path: Path) -> None:
    path = unet(tmp_path / "model", "nearest", 64, 96, (8, 16, 32))
    x = zoo.random_input(3, 3, 64, 96)
    with streamrt.Model(path, exact=True) as model:
        whole, least = model(x), model.min_budget(x.shape)
        assert least == model.min_budget((1, 3, 64, 96))
    with streamrt.Model(path, least, exact=True) as model:
        assert model(x).tobytes() == whole.tobytes()
        plan = model.plan_for(x.shape)
        assert plan.micro_batch == 1
        assert plan.bands
        stats = model.stats
        assert stats is not None
        assert stats.passes == 3
        assert stats.bytes_streamed == 3 * plan.streamed_bytes


def test_a_budget_without_room_for_bands_names_the_least(tmp_path: Path) -> None:
    path = unet(tmp_path / "model", "nearest", 64, 64, (8, 16))
    with streamrt.Model(path) as model:
        least = model.min_budget((1, 3, 64, 64))
    with streamrt.Model(path, least - 1) as model, pytest.raises(BudgetError) as caught:
        model(zoo.random_input(1, 3, 64, 64))
    assert caught.value.minimum == least
    with streamrt.Model(path, least) as model:
        assert model.plan_for((1, 3, 64, 64)).bands


def test_weights_stream_once_a_band(tmp_path: Path) -> None:
    """Under the least budget a node's weights are read as often as it runs; pinned weights are read once."""
    path = unet(tmp_path / "model", "nearest", 160, 128)
    x = zoo.random_input(1, 3, 160, 128)
    with streamrt.Model(path) as model:
        least = model.min_budget(x.shape)
    with streamrt.Model(path, least) as model:
        model(x)
        plan, stats = model.plan_for(x.shape), model.stats
        assert stats is not None
        assert stats.bytes_streamed == plan.streamed_bytes
        assert plan.streamed_bytes > 2 * sum(layer.parameters for layer in stats.layers)
        visits = [len({tile.node for tile in plan.tiles if plan.node_of(tile) == index}) for index in range(3)]
        assert visits[0] > 8
        assert [layer.name for layer in stats.layers] == [node.name for node in model._engine.file.graph.nodes]
        assert all(layer.compute > 0 for layer in stats.layers)


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_depthwise_weights_in_fewer_bytes_are_decoded_for_each_band(tmp_path: Path, weights: str) -> None:
    """Pairs of a depthwise and a 1x1 convolution, as in MobileNet, are one section."""
    build = Builder(3, 96, 61)
    x = build.conv("x", 3, 16, strides=[2, 2])
    for _ in range(3):
        x = build.conv(build.conv(x, 1, 16, group=16), 16, 16, 1)
    path = build.pack(tmp_path / "large", x)
    small = tmp_path / "small"
    streamrt.pack(path, small, weights=weights)
    header = read_header(small)
    depthwise = [node.inputs[1] for node in header.graph.nodes if node.attrs.get("group") == 16]
    types = {header.tensors[name].dtype for name in depthwise}
    assert len(depthwise) == 3
    assert types == {"F16"}
    x = zoo.random_input(1, 3, 96, 61)
    with streamrt.Model(small, exact=True) as model:
        whole = model(x)
    found = planned(small, x)
    assert [each.last - each.first for each in found[0][1].bands] == [7]
    assert all(result.tobytes() == whole.tobytes() for _, _, result in found)


def test_damaged_weights_are_found_in_bands(tmp_path: Path) -> None:
    path = unet(tmp_path / "model", "nearest", 64, 64, (8, 32, 64))
    x = zoo.random_input(1, 3, 64, 64)
    with streamrt.Model(path, exact=True) as model:
        whole, least = model(x), model.min_budget(x.shape)
    with streamrt.Model(path, least, verify="read", exact=True) as model:
        assert model(x).tobytes() == whole.tobytes()
    tensor = max(read_header(path).tensors.values(), key=lambda each: each.nbytes)
    data = bytearray(path.read_bytes())
    data[tensor.offset + tensor.nbytes // 2] ^= 1
    path.write_bytes(data)
    with (
        streamrt.Model(path, least, verify="read") as model,
        pytest.raises(streamrt.WeightsIOError, match="are damaged"),
    ):
        model(x)
