"""A batch with more activations than the processor's cache holds is divided into parts whose activations it holds."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import zoo
from streamrt import Layer, Model, pack
from streamrt.cli.inspection import inspect_model
from streamrt.engine.cache_parts import best_part, moved_by_node
from streamrt.host import rates as speeds
from streamrt.host.rates import Rates

MIB = 1 << 20
#: A tensor of one sample: 32 channels of 64 x 64 float32 numbers.
SAMPLE = MIB // 2
SHAPE = (32, 64, 64)
X = zoo.random_input(8, *SHAPE)

#: Bytes and operations.
NODES = st.lists(st.tuples(st.integers(0, 64 * MIB), st.sampled_from([0, 10**7, 10**9])), max_size=12)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six depthwise convolutions. Each reads one tensor and writes another, of `SAMPLE` bytes a sample."""
    layers = [Layer("Conv", zoo.random_input(32, 1, 3, 3, seed=n) / 3, pads=(1, 1, 1, 1), group=32) for n in range(6)]
    return pack(layers, tmp_path_factory.mktemp("parts") / "m.safetensors", inputs=("n", *SHAPE))


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Its only number is the size of the largest cache of the machine, in bytes: 4 MiB, which have room for 2 samples.

    Tensors of a node get 50 % of it.
    """
    size = [4.0 * MIB]
    monkeypatch.setattr(speeds, "largest_cache", lambda: size[0])
    return size


# ---------------------------------------------------------------- the choice


def estimate(count: int, nodes: list[tuple[int, int]], weights: int, rates: Rates) -> float:
    """Seconds that ``count`` parts take, part by part. A node has bytes and operations."""

    memory = rates.memory / 2 if rates.threads == 1 else rates.memory

    def part() -> float:
        total = weights / memory
        for size, work in nodes:
            moving = size / count / memory if 2 * size / count > rates.cache else 0
            total += ((work / count / rates.flops) ** 2 + moving**2) ** 0.5 + 5e-6
        return total

    return sum(part() for _ in range(count))


@given(
    *(st.integers(1, 48), NODES, st.sampled_from([0, 1 << 16, 4 * MIB, 256 * MIB])),
    *(st.integers(1, 16), st.sampled_from([MIB, 8 * MIB, 32 * MIB, math.inf])),
)
def test_the_part_with_the_shortest_estimate_is_chosen(
    samples: int, nodes: list[tuple[int, int]], weights: int, threads: int, cache: float
) -> None:
    rates = Rates(2e9, 2e10, 1e11 * threads, threads, cache)
    part = best_part(samples, [size for size, _ in nodes], [work for _, work in nodes], weights, rates)
    assert samples % part == 0
    allowed = {count for count in range(1, samples + 1) if samples % count == 0 and 2 * samples >= threads * count}
    costs = {count: estimate(count, nodes, weights, rates) for count in allowed | {1}}
    if part == samples:
        assert min(costs.values()) >= 0.96 * costs[1] * (1 - 1e-9)
    else:
        assert costs[samples // part] <= 0.96 * costs[1] * (1 + 1e-9)
        assert costs[samples // part] == pytest.approx(min(costs.values()))


def best(samples: int, size: int, rates: Rates, *, work: int = 0, weights: int = 0) -> int:
    """The best part for three nodes that move ``size`` bytes each."""
    return best_part(samples, [size] * 3, [work] * 3, weights, rates)


def test_the_largest_of_equal_parts_is_chosen() -> None:
    rates = Rates(2e9, 2e10, 1e11, 2, 8 * MIB)
    assert best(32, 32 * MIB, rates) == 4
    assert best(32, 32 * MIB + 32, rates) == 2


def test_a_batch_that_mainly_computes_stays_whole() -> None:
    """A node computes for 4 or 8 ms, and moves bytes for 1.7 ms meanwhile."""
    rates = Rates(2e9, 2e10, 1e11, 2, 8 * MIB)
    assert best(32, 32 * MIB, rates, work=4 * 10**8) == 4
    assert best(32, 32 * MIB, rates, work=8 * 10**8) == 32


def test_one_thread_moves_fewer_bytes_than_two() -> None:
    assert best(32, 32 * MIB, Rates(2e9, 2e10, 1e11, 1, 8 * MIB), work=8 * 10**8) == 4


def test_weights_are_read_once_a_part() -> None:
    rates = Rates(2e9, 2e10, 1e11, 2, 8 * MIB)
    assert best(8, 32 * MIB, rates, weights=8 * MIB) == 1
    assert best(8, 32 * MIB, rates, weights=16 * MIB) == 8


def test_many_threads_get_large_parts() -> None:
    assert best(64, 64 * MIB, Rates(2e9, 2e10, 1e11, 2, 8 * MIB)) == 4
    assert best(64, 64 * MIB, Rates(2e9, 2e10, 1e11, 8, 8 * MIB)) == 4
    assert best(64, 64 * MIB, Rates(2e9, 2e10, 1e11, 16, 8 * MIB)) == 64  # parts of 8 would not fit
    assert best(64, 64 * MIB, Rates(2e9, 2e10, 1e11, 16, 16 * MIB)) == 8
    assert best(1, 64 * MIB, Rates(2e9, 2e10, 1e11, 64, 8 * MIB)) == 1


# ---------------------------------------------------------------- models


def test_parts_compute_what_calls_with_as_many_samples_do(path: Path, cache: list[float]) -> None:
    with Model(path, None, threads=2) as model:
        y = model(X)
        assert model.plan.micro_batch == 2
        assert model.stats.passes == 4
        assert model.stats.bytes_streamed == 0
        parts = [model(X[begin : begin + 2]) for begin in range(0, 8, 2)]
        assert model.stats.passes == 1
        np.testing.assert_array_equal(y, np.concatenate(parts))
    cache[0] = math.inf
    with Model(path, None, threads=2) as model:
        np.testing.assert_array_equal(model(X), y)  # depthwise convolutions have the same bits in every batch
        assert model.plan.micro_batch == 0


@pytest.mark.parametrize(("samples", "part"), [(1, 0), (2, 0), (3, 1), (4, 2), (5, 1), (6, 2), (7, 1), (16, 2)])
def test_parts_are_alike(path: Path, cache: list[float], samples: int, part: int) -> None:
    x = zoo.random_input(samples, *SHAPE)
    with Model(path, None, threads=2) as model:
        y = model(x)
        assert model.plan.micro_batch == part
        np.testing.assert_array_equal(y[-1:], model(x[-1:]))


def test_without_a_known_cache_nothing_is_divided(path: Path, cache: list[float]) -> None:
    cache[0] = math.inf
    with Model(path, None, threads=2) as model:
        assert model.plan_for((64, *SHAPE)).micro_batch == 0


def test_a_budget_that_holds_a_part_is_enough(path: Path, cache: list[float]) -> None:
    with Model(path, None, threads=2) as model:
        wanted, total = model(X), model.plan.total
    with Model(path, total, threads=2) as model:
        np.testing.assert_array_equal(model(X), wanted)
        assert (model.plan.micro_batch, model.plan.streamed_bytes) == (2, 0)
        assert model.plan.total <= total
    with Model(path, total - 1, threads=2) as model:
        assert model.plan_for(X.shape).total < total


def test_a_part_that_fits_in_the_budget_is_divided_for_the_cache(path: Path, cache: list[float]) -> None:
    with Model(path, 12 * MIB, threads=2) as model:
        assert model.plan_for((64, *SHAPE)).micro_batch == 2
        cache[0] = math.inf
    with Model(path, 12 * MIB, threads=2) as model:
        assert model.plan_for((64, *SHAPE)).micro_batch == 8


def test_parts_that_would_stream_are_not_taken(tmp_path: Path, cache: list[float]) -> None:
    """Weights of 16 MiB in a budget of 12: reading them again takes longer than activations beyond the cache."""
    layers = [
        *(Layer("Conv", zoo.random_input(32, 1, 3, 3) / 3, pads=(1, 1, 1, 1), group=32) for _ in range(12)),
        Layer("MaxPool", kernel_shape=(2, 2), strides=(2, 2)),
        Layer("Flatten"),
        Layer("Gemm", zoo.random_input(128, 32 * 32 * 32)),
    ]
    path = pack(layers, tmp_path / "m.safetensors", inputs=("n", *SHAPE))
    with Model(path, None, threads=2) as model:
        assert model.plan_for(X.shape).micro_batch == 2
    with Model(path, 12 * MIB, threads=2) as model:
        plan = model.plan_for((4, *SHAPE))
        assert plan.streamed_bytes
        assert plan.micro_batch == 0


def test_dense_layers_stay_whole(tmp_path: Path, cache: list[float]) -> None:
    """Their weights would be read once a part."""
    packed = zoo.mlp(tmp_path, *[1024] * 4)
    with Model(packed.path, None, threads=2) as model:
        for samples in (64, 512, 1024, 4096):
            assert model.plan_for((samples, 1024)).micro_batch == 0


def test_nodes_move_what_they_read_and_write(path: Path) -> None:
    with Model(path, None) as model:
        prepared = model._engine.planner.prepare(model._engine.file.graph, {"input": X.shape})
    assert moved_by_node(prepared.program) == [16 * SAMPLE] * 6


def test_views_move_nothing_and_results_in_place_count_once(tmp_path: Path) -> None:
    layers = [Layer("Exp"), Layer("Exp"), Layer("Flatten"), Layer("Gemm", zoo.random_input(8, 64))]
    path = pack(layers, tmp_path / "m.safetensors", inputs=("n", 4, 16))
    with Model(path, None) as model:
        prepared = model._engine.planner.prepare(model._engine.file.graph, {"input": (3, 4, 16)})
    assert moved_by_node(prepared.program) == [768, 768, 0, 768 + 96]


def test_inspect_tells_the_parts(path: Path, cache: list[float]) -> None:
    found = inspect_model(path, batch=8)
    assert found.plan.micro_batch == 2
    assert "micro-batches of 2" in found.to_text()
