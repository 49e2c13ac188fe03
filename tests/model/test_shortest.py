"""Of the ways to run a call that fit in the budget, that with the shortest planned time is taken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

import streamrt
from kernels.isas import NUMPY, using
from model import zoo
from model.test_bands import Builder
from streamrt import _core
from streamrt.engine import shortest
from streamrt.engine.micro_batch import begins
from streamrt.engine.planner import Planner
from streamrt.engine.prepared import Prepared
from streamrt.engine.programs import Programs
from streamrt.format import WeightsFile, read_header
from streamrt.host.rates import Rates
from streamrt.plan import Plan
from streamrt.program.compile import Program

MIB = 1 << 20
SHAPE = (3, 256, 256)
FAST, SLOW = (Rates(disk=disk, memory=2e10, flops=2e11, threads=2, cache=32 * MIB) for disk in (2.5e9, 2e8))


@pytest.fixture(scope="module", autouse=True)
def compiled_kernels() -> Iterator[None]:
    """Convolutions of NumPy compute no bands."""
    with using("scalar" if _core.isa() == NUMPY else _core.isa()):
        yield


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WeightsFile]:
    """Much memory for the activations of the first layers, and 22 MiB of weights in the last ones."""
    build = Builder(*SHAPE)
    x = build.conv(build.conv("x", 3, 32), 32, 32)
    for inner, channels in ((32, 256), (256, 512)):
        x = build.node("MaxPool", [x], kernel_shape=[4, 4], strides=[4, 4])
        x = build.conv(x, inner, channels)
    x = build.conv(build.conv(x, 512, 512), 512, 512)
    path = build.pack(tmp_path_factory.mktemp("shortest") / "model", build.node("GlobalAveragePool", [x]))
    yield read_header(path)
    path.unlink()


def prepared(file: WeightsFile, rates: Rates, samples: int, budget: int | None, *, by_time: bool = True) -> Prepared:
    planner = Planner(Programs(file, bands=by_time), budget, rates)
    return planner.prepare(file.graph, {file.graph.inputs[0].name: (samples, *SHAPE)})


def room_for(file: WeightsFile, samples: int, weights: float) -> int:
    """A budget for whole activations of some samples, and a share of all weights."""
    return prepared(file, SLOW, samples, None).program.workspace + int(weights * file.size)


def seconds(found: Prepared, samples: int) -> float:
    """Of a call."""
    return len(begins(samples, found.plan.micro_batch)) * found.plan.seconds


@pytest.mark.parametrize("samples", [1, 8])
@pytest.mark.parametrize("rates", [FAST, SLOW], ids=["fast", "slow"])
def test_more_memory_makes_no_call_slower(file: WeightsFile, rates: Rates, samples: int) -> None:
    """Up to what plans differ from each other anyway."""
    planner = Planner(Programs(file), None, rates)
    shapes = {file.graph.inputs[0].name: (samples, *SHAPE)}
    least, most = planner.min_budget(file.graph, shapes), planner.prepare(file.graph, shapes).plan.total
    budgets = [least + int((most - least) * (step / 8) ** 1.7) for step in range(9)]
    times = [seconds(planner.with_budget(each).prepare(file.graph, shapes), samples) for each in budgets]
    for index in range(1, len(times)):
        assert times[index] <= 1.2 * min(times[:index]), (budgets[index], times)


@pytest.mark.parametrize(
    ("samples", "fitting", "weights", "bands", "micro_batch"),
    [
        (1, 1, 0.6, True, 0),  # in bands, though whole activations fit
        (8, 1, 0.4, True, 1),
        (8, 2, 0.6, False, 1),  # one by one, though two samples fit
        (8, 4, 0.2, False, 2),
    ],
)
def test_other_ways_leave_memory_to_weights(
    file: WeightsFile, samples: int, fitting: int, weights: float, bands: bool, micro_batch: int
) -> None:
    budget = room_for(file, fitting, weights)
    fits, found = (prepared(file, SLOW, samples, budget, by_time=by_time) for by_time in (False, True))
    assert fits.plan.micro_batch == (fitting if fitting < samples else 0)
    assert fits.plan.streamed_bytes
    assert not fits.program.bands
    assert found.plan.micro_batch == micro_batch
    assert bool(found.program.bands) == bands
    assert found.plan.total <= budget
    assert seconds(found, samples) < 0.9 * seconds(fits, samples)


def test_a_lean_program_leaves_memory_to_weights(file: WeightsFile) -> None:
    """It computes for longer, but waits for less if hardly any weights fit beside the other one."""
    budget = room_for(file, 1, 0.01)
    fits, found = (prepared(file, SLOW, 1, budget, by_time=by_time) for by_time in (False, True))
    assert not fits.program.lean
    if any(low.roomy for low in fits.program.lowered):
        assert found.program.lean
        assert seconds(found, 1) < 0.9 * seconds(fits, 1)
    else:
        assert not found.program.lean


def test_nothing_changes_where_all_weights_stay(file: WeightsFile) -> None:
    found = prepared(file, SLOW, 1, room_for(file, 1, 1.2))
    assert not found.plan.streamed_bytes
    assert not found.program.bands
    assert not found.program.lean


def test_no_search_takes_longer_than_it_can_save(file: WeightsFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a fast disk, reading hides behind computing."""
    asked: list[int] = []

    def search(budget: int, *_: object) -> None:
        asked.append(budget)

    monkeypatch.setattr("streamrt.engine.shortest.faster_bands", search)
    budget = room_for(file, 1, 0.6)
    prepared(file, FAST, 1, budget)
    assert not asked
    prepared(file, SLOW, 1, budget)
    assert asked == [budget]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> WeightsFile:
    """A budget for some of its samples has a window that is large beside its weights."""
    build, x, inner = Builder(3, 96, 96), "x", 3
    for channels, stride in ((32, 1), (32, 1), (64, 2), (64, 1), (256, 4), (256, 1), (384, 2), (384, 1), (384, 1)):
        x, inner = build.conv(x, inner, channels, strides=[stride, stride]), channels
    return read_header(build.pack(tmp_path_factory.mktemp("small") / "model", build.node("GlobalAveragePool", [x])))


def small_planner(small: WeightsFile, part: float, rates: Rates, *, by_time: bool = True) -> Planner:
    """A part of the way from the least budget of three samples to one for all."""
    planner, shapes = Planner(Programs(small), None, rates), {"x": (3, 3, 96, 96)}
    least, most = planner.min_budget(small.graph, shapes), planner.prepare(small.graph, shapes).plan.total
    return Planner(Programs(small, bands=by_time), least + int(part * (most - least)), rates)


@pytest.mark.parametrize("part", [0.67, 0.8])
def test_no_way_is_faster_than_its_bound(small: WeightsFile, part: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a faster way would be left out. All ways are planned here."""
    compared: list[tuple[float, float]] = []
    compare = shortest._Search._compare

    def noted(search: shortest._Search, samples: int, program: Program, plan: Plan) -> None:
        bound = search._least(samples, program.workspace, program.lean)
        compared.append((bound, search._of_call(samples, program, plan) / search._passes(samples)))
        compare(search, samples, program, plan)

    monkeypatch.setattr(shortest._Search, "_compare", noted)
    monkeypatch.setattr(shortest._Search, "_may_be_faster", lambda *_: True)
    for disk in (1e8, 2e8):
        planner = small_planner(small, part, replace(SLOW, disk=disk))
        for samples in (2, 3, 4, 8):
            planner.prepare(small.graph, {"x": (samples, 3, 96, 96)})
    assert len(compared) > 10
    assert sum(bound > 1.001 * planned for bound, planned in compared) < len(compared) / 20


@pytest.mark.parametrize(("disk", "samples"), [(1e9, 1), (1e9, 3), (2e8, 1)])
def test_predict_groups_as_many_samples_as_without(small: WeightsFile, disk: float, samples: int) -> None:
    """Whole batches are compared to find out how many. Then a batch may still be divided."""
    rates = replace(SLOW, disk=disk)
    planners = [small_planner(small, 0.6, rates, by_time=by_time) for by_time in (False, True)]
    without, found = (each.samples_together(small.graph, {"x": (samples, 3, 96, 96)}) for each in planners)
    assert found == without > samples


def test_bands_that_are_faster_have_the_bits_of_the_whole(file: WeightsFile) -> None:
    x, budget = zoo.random_input(2, *SHAPE), room_for(file, 1, 0.4)
    with streamrt.Model(file.path, exact=True) as model:
        wanted = model(x)
    with streamrt.Model(file.path, budget, exact=True) as model:
        model._engine.planner.rates = SLOW
        assert model(x).tobytes() == wanted.tobytes()
        plan = model.plan_for(x.shape)
    assert plan.bands
    assert plan.micro_batch == 1
    assert plan.total <= budget
