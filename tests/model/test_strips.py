"""Very wide pictures: models whose whole rows do not fit in the budget run in strips of columns, with the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import streamrt
from kernels.isas import NUMPY, using
from model import zoo
from model.test_bands import Builder, unet
from model.test_foreign import Stored
from streamrt import BudgetError, _core

HEIGHT, WIDTH = 16, 1600
SHAPE = 1, 3, HEIGHT, WIDTH


@pytest.fixture(scope="module", autouse=True)
def compiled_kernels() -> Iterator[None]:
    """Convolutions of NumPy compute no bands."""
    with using("scalar" if _core.isa() == NUMPY else _core.isa()):
        yield


@pytest.mark.parametrize("up", ["transposed", "nearest", "linear"])
def test_a_unet_in_strips_has_the_bits_of_the_whole(tmp_path: Path, up: str) -> None:
    """As few strips as fit: more budget, fewer strips."""
    path = unet(tmp_path / "model", up, HEIGHT, WIDTH, (8, 16, 32))
    x = zoo.random_input(*SHAPE)
    with streamrt.Model(path, exact=True) as model:
        whole, least, needed = model(x), model.min_budget(SHAPE), model.plan_for(SHAPE).total
    counts = []
    for budget in (least, int(1.5 * least), 2 * least, 4 * least, needed):
        with streamrt.Model(path, budget, exact=True) as model:
            result, plan = model(x), model.plan_for(SHAPE)
            assert result.tobytes() == whole.tobytes()
            assert plan.total <= budget
            assert model._engine.prefetcher.peak() <= plan.pinned_bytes + plan.window
        counts.append(plan.bands[0].strips if plan.bands else 0)
    assert counts[0] > 2
    assert counts[-1] == 0
    assert counts == sorted(counts, reverse=True)


def test_pictures_of_any_width_need_the_columns_of_one_strip(tmp_path: Path) -> None:
    """Inputs and results belong to the caller, so four times the width needs little more memory than before."""
    needed = []
    for width in (2048, 8192):
        with streamrt.Model(unet(tmp_path / f"{width}", "nearest", 16, width, (4, 8, 16))) as model:
            needed.append(model.min_budget((1, 3, 16, width)))
    assert needed[1] < 1.5 * needed[0]


def test_the_smallest_budget_works_and_the_error_names_it(tmp_path: Path) -> None:
    path = unet(tmp_path / "model", "nearest", HEIGHT, WIDTH, (8, 16))
    with streamrt.Model(path) as model:
        least = model.min_budget(SHAPE)
    with streamrt.Model(path, least - 1) as model, pytest.raises(BudgetError) as caught:
        model.plan_for(SHAPE)
    assert caught.value.minimum == least
    with streamrt.Model(path, least) as model:
        plan = model.plan_for(SHAPE)
    assert plan.total <= least
    assert plan.bands[0].strips > 1


def test_columns_come_from_the_arrays_of_the_caller(tmp_path: Path) -> None:
    """They may be mapped, and of another library: each read has the rows and columns of a band in a strip."""
    path = unet(tmp_path / "model", "nearest", HEIGHT, WIDTH, (8, 16, 32))
    x = zoo.random_input(2, 3, HEIGHT, WIDTH)
    with streamrt.Model(path, exact=True) as model:
        whole, least = model(x), model.min_budget(x.shape)
    given, out = Stored(x), Stored(np.zeros_like(whole))
    mapped = np.memmap(tmp_path / "y", np.float32, "w+", shape=whole.shape)
    with streamrt.Model(path, least, exact=True) as model:
        model(given, out=out)
        (bands,) = model.plan_for(x.shape).bands
        assert model(x, out=mapped) is mapped
    assert out.values.tobytes() == mapped.tobytes() == whole.tobytes()
    assert bands.strips > 2
    assert max(given.read) <= x[0].size / bands.count  # more than half of a strip is its own
    assert len(given.read) > 2 * bands.strips
    assert sum(each.size for each in out.written) == whole.size  # each column is written once


def test_results_of_all_positions_come_from_all_strips(tmp_path: Path) -> None:
    build = Builder(3, HEIGHT, 2001)
    x = build.conv(build.conv("x", 3, 16, strides=[2, 2], pads=[1, 1, 1, 1]), 16, 16)
    mean = build.node("GlobalAveragePool", [x])
    scores = build.node("Conv", [mean, build.weight(10, 16, 1, 1)])
    path = build.pack(tmp_path / "model", scores, build.node("GlobalMaxPool", [x]))
    picture = zoo.random_input(1, 3, HEIGHT, 2001)
    with streamrt.Model(path, exact=True) as model:
        whole, least = model(picture), model.min_budget(picture.shape)
    with streamrt.Model(path, least, exact=True) as model:
        found = model(picture)
        assert model.plan_for(picture.shape).bands[0].strips > 1
    for name, values in whole.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-6)


def test_strips_are_rounds_of_one_pass(tmp_path: Path) -> None:
    """Weights are read, checked and counted in each, and progress counts the steps of all."""
    shape = 1, 3, 16, 3200
    path = unet(tmp_path / "model", "nearest", *shape[2:], (4, 8))
    x = zoo.random_input(*shape)
    with streamrt.Model(path, exact=True) as model:
        whole, least = model(x), model.min_budget(shape)
    counts: list[int] = []
    with streamrt.Model(path, least, exact=True, verify="read") as model:
        plan = model.plan_for(shape)
        for _ in range(2):
            counts.clear()
            request = model._request(x, None)
            request.stepped = counts.append
            assert model._serve(request).tobytes() == whole.tobytes()
            stats = model.stats
            assert stats is not None
            assert stats.passes == 1
            assert stats.bytes_streamed == plan.streamed_bytes > 0
            assert sum(layer.weights for layer in stats.layers) == plan.streamed_bytes + plan.pinned_bytes
            assert 0 < sum(layer.compute for layer in stats.layers) < stats.seconds
    assert plan.bands[0].strips == plan.rounds > 16
    assert set(counts) == {len(counts)}
    assert len(counts) == plan.rounds * len(plan.tiles)


def test_what_follows_a_section_in_strips_is_computed_once(tmp_path: Path) -> None:
    """Layers behind the means of all positions: their steps are in each round, but compute in the last."""
    shape = 1, 3, HEIGHT, 4001
    build = Builder(*shape[1:])
    x = build.conv(build.conv("x", 3, 16, strides=[2, 2], pads=[1, 1, 1, 1]), 16, 16)
    mean = build.node("GlobalAveragePool", [x])
    scores = build.conv(build.conv(mean, 16, 32, 1), 32, 8, 1)
    path = build.pack(tmp_path / "model", build.node("Softmax", [build.node("Flatten", [scores])], axis=1))
    picture = zoo.random_input(*shape)
    with streamrt.Model(path, exact=True) as model:
        whole, least = model(picture), model.min_budget(shape)
    with streamrt.Model(path, least, exact=True) as model:
        for _ in range(2):
            np.testing.assert_allclose(model(picture), whole, rtol=1e-5)
        plan = model.plan_for(shape)
    assert plan.bands[0].strips == plan.rounds > 4
    assert plan.nodes[-1] > plan.bands[0].last


def test_a_pass_ends_early_in_any_round(tmp_path: Path) -> None:
    """As on Ctrl-C. The next pass begins with the first strip, and checks all weights anew."""
    path = unet(tmp_path / "model", "nearest", HEIGHT, WIDTH, (8, 16, 32))
    x = zoo.random_input(*SHAPE)
    with streamrt.Model(path, exact=True) as model:
        whole, least = model(x), model.min_budget(SHAPE)
    with streamrt.Model(path, least, exact=True, verify="read") as model:
        steps = len(model.plan_for(SHAPE).tiles)
        for last in (1, steps - 1, steps, steps + 1, 2 * steps + steps // 2):
            request, done = model._request(x, None), []

            def stepped(count: int, done: list[int] = done, last: int = last) -> None:
                done.append(count)
                if len(done) == last:
                    raise KeyboardInterrupt

            request.stepped = stepped
            with pytest.raises(KeyboardInterrupt):
                model._serve(request)
            assert len(done) == last
            assert model(x).tobytes() == whole.tobytes()


def test_pictures_of_gigabytes_need_little_memory(tmp_path: Path) -> None:
    """Strips need no memory for steps. These pictures of 0.75 and 3.75 GiB are only planned."""
    path = unet(tmp_path / "model", "nearest", "h", "w", (32, 64, 128))
    shape = 1, 3, 4096, 5 << 14
    with streamrt.Model(path) as model:
        small, large = model.min_budget((*shape[:3], 1 << 14)), model.min_budget(shape)
    with streamrt.Model(path, 200 << 20) as model:
        plan = model.plan_for(shape)
    assert small <= large < 1.5 * small
    assert large < 64 << 20
    assert plan.total <= 200 << 20
    assert plan.bands[0].strips == plan.rounds
    assert len(plan.nodes) + len(plan.ranges) < 2**15


def test_where_whole_tensors_need_most_memory_there_are_no_strips(tmp_path: Path) -> None:
    """The result of the section with the gate takes the place of its input, which it could not do in strips.

    The norm of all positions reads that input as a whole, so it cannot be made again.
    """
    shape = 1, 3, HEIGHT, 8001
    build = Builder(*shape[1:])
    stem = build.conv("x", 3, 16, strides=[2, 2], pads=[1, 1, 1, 1])
    normal = build.node("InstanceNormalization", [stem, build.constant([1.0] * 16), build.constant([0.1] * 16)])
    first = build.conv(normal, 16, 16)
    gate = build.node("Sigmoid", [build.node("GlobalLpPool", [first])])
    path = build.pack(tmp_path / "model", build.conv(build.node("Mul", [first, gate]), 16, 8))
    with streamrt.Model(path, exact=True) as model:
        least = model.min_budget(shape)
    with streamrt.Model(path, least, exact=True) as model:
        assert {bands.strips for bands in model.plan_for(shape).bands} == {1}


def test_a_small_picture_has_few_steps_in_all_rounds(tmp_path: Path) -> None:
    """Each step takes 0.1 ms, so that many steps with little work are not worth the memory that they save."""
    build = Builder(3, 1024, 1024)
    path = build.pack(tmp_path / "model", build.conv(build.conv("x", 3, 8), 8, 24))
    with streamrt.Model(path) as model:
        least = model.min_budget()
    with streamrt.Model(path, least) as model:
        plan = model.plan_for((1, 3, 1024, 1024))
    assert plan.rounds > 1
    assert plan.rounds * len(plan.tiles) <= 1.1 * 3 * 2**13  # bands that end the picture add some
