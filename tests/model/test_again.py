"""Models whose sections make what they need again, because whole planes do not fit in the budget."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from kernels.isas import NUMPY, using
from model import zoo
from model.test_bands import Builder, planned, unet
from streamrt import BudgetError, _core
from streamrt.cli.inspection import inspect_model
from streamrt.engine.bands import SEARCH, InBands
from streamrt.plan import Plan
from streamrt.program.again import Way, ways_of
from streamrt.program.compile import compile_program

SHAPE = (1, 3, 160, 48)
PLANE = 4 * SHAPE[2] * SHAPE[3]


@pytest.fixture(scope="module", autouse=True)
def compiled_kernels() -> Iterator[None]:
    """Convolutions of NumPy compute no bands."""
    with using("scalar" if _core.isa() == NUMPY else _core.isa()):
        yield


def block(build: Builder, x: str, channels: int, inside: int) -> str:
    """A block as those of mobile networks: more channels inside, and a gate for each of these."""
    y = build.conv(x, channels, inside, 1)
    y = build.node("Relu", [build.node("Conv", [y, build.weight(inside, 1, 3, 3)], pads=[1] * 4, group=inside)])
    small = build.conv(build.node("GlobalAveragePool", [y]), inside, 8, 1)
    gate = build.node("Sigmoid", [build.node("Conv", [small, build.weight(inside, 8, 1, 1)])])
    y = build.node("Mul", [y, gate])
    return build.node("Add", [build.node("Conv", [y, build.weight(channels, inside, 1, 1)]), x])


def gated(path: Path) -> Path:
    """Blocks of 8 channels, 32 inside."""
    build = Builder(3, *SHAPE[2:])
    x = build.conv("x", 3, 8)
    for _ in range(3):
        x = block(build, x, 8, 32)
    return build.pack(path, x)


def again(path: Path, budget: int | None) -> tuple[int, int]:
    """In which of how many ways a call runs."""
    with streamrt.Model(path, budget, exact=True) as model:
        program = model._engine.planner.prepare(model._engine.file.graph, {"x": SHAPE}).program
        return program.again, len(program.ways)


def test_gates_need_no_planes_of_many_channels(tmp_path: Path) -> None:
    path = gated(tmp_path / "model")
    x = zoo.random_input(*SHAPE)
    with streamrt.Model(path, exact=True) as model:
        whole, least = model(x), model.min_budget(x.shape)
    assert least < 32 * PLANE  # one tensor that is gated
    found = planned(path, x)
    for _, _, result in found:
        assert result.tobytes() == whole.tobytes()
    numbers = [again(path, budget)[0] for budget, _, _ in found]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0] > 0
    assert numbers[-1] == 0


def test_late_blocks_run_whole(tmp_path: Path) -> None:
    """Their planes are small and their weights large: in bands these would be read again, or pinned for nothing."""
    build = Builder(3, *SHAPE[2:])
    x = block(build, build.conv("x", 3, 8), 8, 32)
    x = build.conv(x, 8, 64, 8, strides=[8, 8], pads=[0] * 4)
    first = x
    for _ in range(4):
        x = block(build, x, 64, 256)
    path = build.pack(tmp_path / "model", build.node("Flatten", [x]))
    x = zoo.random_input(*SHAPE)
    with streamrt.Model(path, exact=True) as model:
        whole, weights, least = model(x), model.plan_for(x.shape).pinned_bytes, model.min_budget(x.shape)
    for budget in (least, least + 100_000, 2 * least):
        with streamrt.Model(path, budget, exact=True) as model:
            assert model(x).tobytes() == whole.tobytes()
            plan = model.plan_for(x.shape)
            program = model._engine.planner.prepare(model._engine.file.graph, {"x": SHAPE}).program
        made = [name for node in program.nodes for name in node.outputs]
        assert plan.bands
        assert max(section.first for section in program.sections) <= made.index(first)
    assert plan.streamed_bytes < weights  # with twice the least budget


def test_nodes_that_run_again_have_entries_of_their_own(tmp_path: Path) -> None:
    path = gated(tmp_path / "model")
    x = zoo.random_input(*SHAPE)
    with streamrt.Model(path) as model:
        budget = model.min_budget(x.shape)
    with streamrt.Model(path, budget, verify="read") as model:
        model(x)
        assert model.stats is not None
        layers = {layer.name: layer for layer in model.stats.layers}
    repeated = [name for name in layers if name.endswith("(run 2)")]
    assert repeated
    for name in repeated:
        first = layers[name.removesuffix(" (run 2)")]
        assert layers[name].compute > 0
        assert (layers[name].op, layers[name].parameters) == (first.op, first.parameters)
    assert any(name in inspect_model(path, budget).to_text() for name in repeated)


def test_a_budget_that_is_too_small_names_the_least(tmp_path: Path) -> None:
    path = gated(tmp_path / "model")
    with streamrt.Model(path) as model:
        least = model.min_budget(SHAPE)
    for budget in (least // 2, least - 1):
        with streamrt.Model(path, budget) as model, pytest.raises(BudgetError) as refused:
            model(np.zeros(SHAPE, np.float32))
        assert refused.value.minimum == least


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_the_least_budget_is_enough(tmp_path: Path, factor: int) -> None:
    """Rows of the enlarged tensor are others, so a section holds both; nodes that run whole need less."""
    build = Builder(3, 40 * factor, 48)
    x = build.conv("x", 3, 32)
    for _ in range(2):
        gate = build.node("Sigmoid", [build.node("GlobalAveragePool", [x])])
        x = build.conv(build.node("Mul", [x, gate]), 32, 16, 1)
        x = build.conv(build.node("Resize", [x, "", build.constant([1, 1, 2, 1])], mode="nearest"), 16, 32, 1)
    path = build.pack(tmp_path / "model", build.node("GlobalAveragePool", [x]))
    x = zoo.random_input(1, 3, 40 * factor, 48)
    with streamrt.Model(path, exact=True) as model:
        whole, least = model(x), model.min_budget(x.shape)
    with streamrt.Model(path, least, exact=True) as model:
        np.testing.assert_allclose(model(x), whole, rtol=1e-6)
    with streamrt.Model(path, least - 1) as model, pytest.raises(BudgetError) as refused:
        model(x)
    assert refused.value.minimum == least


def test_further_ways_are_looked_for_if_passes_read_long(tmp_path: Path) -> None:
    path = gated(tmp_path / "model")
    with streamrt.Model(path) as model:
        graph = model._engine.file.graph
    nodes, disk = len(graph.nodes), 1e9
    weights = int(disk * SEARCH * nodes)  # all of them are read in the time of a search
    programs = InBands(compile_program, graph, {"w": weights}, disk, wanted=True, exact=False)
    plan = Plan((), (), 1, 0, 0, 0, weights, None, seconds=0.1)
    for other, found in (
        (plan, False),
        (replace(plan, streamed_bytes=int(1.04 * weights)), False),
        (replace(plan, streamed_bytes=int(1.06 * weights)), True),  # 20 passes save 1.2 times the time of a search
        (replace(plan, share=0.9), True),
        (replace(plan, streamed_bytes=2 * weights, seconds=4 * weights / disk + 0.01), False),  # computing takes longer
        (replace(plan, streamed_bytes=2 * weights, seconds=4 * weights / disk - 0.01), True),
    ):
        assert programs.reads_long(other) is found


def test_ways_are_not_mixed_up(tmp_path: Path) -> None:
    """Calls under several budgets share the programs that they remember."""
    path = gated(tmp_path / "model")
    with streamrt.Model(path, exact=True) as model:
        planner, graph = model._engine.planner, model._engine.file.graph
        least, most = model.min_budget(SHAPE), model.plan_for(SHAPE).total
        budgets = [least + (most - least) * part // 8 for part in range(9)]
        found = [planner.with_budget(budget).prepare(graph, {"x": SHAPE}).program for budget in budgets]
    assert len({program.again for program in found}) > 1
    assert len({(program.again, program.bands) for program in found}) > len({program.bands for program in found})
    for budget, program in zip(budgets, found, strict=True):
        assert program.memory <= budget
        assert again(path, budget) == (program.again, len(program.ways))


def test_a_network_of_windows_alone_has_one_way(tmp_path: Path) -> None:
    path = unet(tmp_path / "model", "nearest", *SHAPE[2:])
    with streamrt.Model(path) as model:
        least = model.min_budget(SHAPE)
    assert again(path, least) == (0, 1)


def test_the_ways_are_found_once_for_each_call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = gated(tmp_path / "model")
    found: list[int] = []

    def noted(*given: Any) -> list[Way]:
        found.append(len(given[0]))
        return ways_of(*given)

    monkeypatch.setattr("streamrt.program.compile.ways_of", noted)
    with streamrt.Model(path) as model:
        least = model.min_budget(SHAPE)
    assert len(found) == 1
    for budget in (least, least - 1):
        found.clear()
        with streamrt.Model(path, budget) as model, suppress(BudgetError):
            model.plan_for(SHAPE)
        assert len(found) == 1


def test_programs_that_compute_alike_are_not_compared(tmp_path: Path) -> None:
    """No faster algorithm computes windows of 1 x 1."""
    build = Builder(32, *SHAPE[2:])
    path = build.pack(tmp_path / "model", build.conv(build.conv("x", 32, 32, 1), 32, 32, 1))
    shape = (1, 32, *SHAPE[2:])
    with streamrt.Model(path) as model:
        budget = model.plan_for(shape).total // 2
    with streamrt.Model(path, budget) as model:
        planner, graph = model._engine.planner, model._engine.file.graph
        program = planner.prepare(graph, {"x": shape}).program
        faster = planner._programs.in_bands(graph, {"x": shape}, planner.rates.disk).faster(program)
    assert program.bands
    assert program.strips == 1
    assert not list(faster)
