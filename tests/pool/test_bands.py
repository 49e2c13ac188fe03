"""Calls whose whole activations do not fit in a pool's budget run in bands, with the bits of a `Model`."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import streamrt
from kernels.isas import NUMPY, using
from memory_limit import MIB, slack
from model import zoo
from model.test_bands import unet
from pool.real import status
from streamrt import ModelPool, ModelTooLargeError, PinError, _core
from streamrt.engine import programs
from streamrt.engine.planner import Planner
from streamrt.engine.prepared import REMEMBERED
from streamrt.format import read_header
from streamrt.host.rates import rates_of
from streamrt.plan import Plan
from streamrt.pool import growth, resident
from streamrt.pool.growth import Growth
from streamrt.pool.resident import Known
from streamrt.program.compile import Program, compile_program

SIDE = 128


@dataclass(frozen=True)
class Net:
    """A network, and what one picture of ``SIDE`` rows and columns needs: bytes without bands, and the least."""

    path: Path
    whole: int
    least: int

    def answers(self, x: NDArray[np.float32]) -> set[bytes]:
        """The bits that an answer may have: with Winograd's algorithm, and without."""
        found = set()
        for exact in (False, True):
            with streamrt.Model(self.path, None, exact=exact) as model:
                found.add(model(x).tobytes())
        return found


@pytest.fixture(scope="module", autouse=True)
def compiled_kernels() -> Iterator[None]:
    """Convolutions of NumPy compute no bands."""
    with using("scalar" if _core.isa() == NUMPY else _core.isa()):
        yield


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Net]:
    """A U-Net of a fixed size, and one whose size is free."""
    folder, found = tmp_path_factory.mktemp("nets"), {}
    for name, side in (("fixed", SIDE), ("free", "side")):
        path = unet(folder / name, "nearest", side, side, (8, 16, 32))
        needed = read_header(path)
        known = Known(needed, rates_of(needed.identity.device, 1))
        planner = known.planner(1 << 30)
        shapes = {"x": picture().shape}
        least = planner.min_budget(needed.graph, shapes)
        with pytest.raises(streamrt.BudgetError) as refused:
            known.planner(least).prepare(needed.graph, shapes)
        found[name] = Net(path, refused.value.minimum, least)
    assert all(net.whole > 2 * net.least for net in found.values())
    return found


def picture(side: int = SIDE, samples: int = 1, seed: int = 1) -> NDArray[np.float32]:
    return zoo.random_input(samples, 3, side, side, seed=seed)


def filled(budget: int, nets: dict[str, Net], **options: Any) -> ModelPool:
    pool = ModelPool(budget, **options)
    for name, net in nets.items():
        pool.register(name, net.path)
    return pool


def call(pool: ModelPool, nets: dict[str, Net], name: str, x: NDArray[np.float32]) -> Plan:
    """Call a model, check its answer and its memory, and return its plan."""
    with pool.lease(name) as model:
        y = model(x)
        plan = model.plan
        assert model.budget is not None
        assert plan.total <= model.budget <= status(pool, name).held
        assert model.memory().workspace == plan.workspace
        assert model._engine.prefetcher.peak() <= plan.pinned_bytes + plan.window
        assert pool.stats().held <= pool.budget
    assert y.tobytes() in nets[name].answers(x)
    return plan


@pytest.mark.parametrize("name", ["fixed", "free"])
@pytest.mark.parametrize("part", [0.0, 0.05, 0.3, 0.9])
def test_a_picture_is_answered_in_any_budget_in_which_a_model_answers_it(
    nets: dict[str, Net], name: str, part: float
) -> None:
    net = nets[name]
    with filled(net.least + int(part * (net.whole - 1 - net.least)), nets) as pool:
        plans = [call(pool, nets, name, picture(seed=seed)) for seed in range(3)]
        assert all(plan.bands for plan in plans)
        assert plans[1] is plans[2]
        assert pool.stats().peak <= pool.budget
        assert pool.stats().loads == 1


@pytest.mark.parametrize("name", ["fixed", "free"])
def test_the_error_below_the_least_names_it_and_leaves_the_pool_as_it_was(nets: dict[str, Net], name: str) -> None:
    with filled(nets[name].least - 1, nets) as pool:
        for _ in range(2):
            with pytest.raises(ModelTooLargeError) as caught, pool.lease(name) as model:
                model(picture())
            assert caught.value.minimum == nets[name].least
        call(pool, nets, "free", picture(16))


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of bands of all programs that are compiled."""
    found: list[int] = []

    def compile_and_note(*args: Any, **options: Any) -> Program:
        found.append(options["bands"])
        return compile_program(*args, **options)

    monkeypatch.setattr(programs, "compile_program", compile_and_note)
    return found


def test_nothing_is_planned_in_bands_that_fits_without(nets: dict[str, Net], compiled: list[int]) -> None:
    """Neither if the call has to ask for more memory first, nor for a plan of a larger call that a lease asks for."""
    with filled(nets["free"].whole, nets) as pool:
        with pool.lease("free") as model:
            model(picture(16))
            with pytest.raises(streamrt.BudgetError) as caught:
                model.plan_for(picture().shape)
            assert caught.value.minimum == nets["free"].whole
            assert (model.budget or 0) < nets["free"].whole
        for name in ("free", "fixed"):
            with pool.lease(name) as model:
                model(picture())
                assert not model.plan.bands
    assert compiled
    assert not any(compiled)


def test_pictures_of_all_sizes_in_turn(nets: dict[str, Net]) -> None:
    r = random.Random(0)
    with filled(nets["free"].whole // 2, nets) as pool:
        for seed in range(30):
            name, side = r.choice([("fixed", SIDE), ("free", SIDE), ("free", 64), ("free", 16)])
            plan = call(pool, nets, name, picture(side, seed=seed % 3))
            assert bool(plan.bands) == (side == SIDE)
        stats = pool.stats()
        assert stats.peak <= pool.budget
        assert stats.evictions
        assert stats.hits


def test_models_are_loaded_again_after_an_eviction(nets: dict[str, Net]) -> None:
    with filled(nets["fixed"].least, nets, policy="lru") as pool:
        for seed in range(2):
            for name in nets:
                assert call(pool, nets, name, picture(seed=seed)).bands
        assert pool.stats().evictions >= 3
        pool.unload("fixed")
        assert call(pool, nets, "fixed", picture()).bands


def test_a_batch_runs_sample_by_sample(nets: dict[str, Net]) -> None:
    x = picture(samples=3)
    with filled(nets["free"].whole - 1, nets) as pool:
        assert call(pool, nets, "free", x).micro_batch == 1
        with pool.lease("free") as model:
            found: list[Any] = model.call_together([x[:1], x[1:], x[:, :, :16, :16]])
            assert found[0].tobytes() + found[1].tobytes() in nets["free"].answers(x)
            assert found[2].shape == (3, 1, 16, 16)


def test_threads_share_a_pool(nets: dict[str, Net]) -> None:
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        r = random.Random(seed)
        try:
            for _ in range(4):
                name, side = r.choice([("fixed", SIDE), ("free", SIDE), ("free", 16)])
                x = picture(side)
                with pool.lease(name, 60) as model:
                    y = model(x)
                assert y.tobytes() in answers[name, side]
        except BaseException as error:
            errors.append(error)

    kinds = [("fixed", SIDE), ("free", SIDE), ("free", 16)]
    answers = {(name, side): nets[name].answers(picture(side)) for name, side in kinds}
    with filled(nets["free"].whole // 2, nets, timeout=60) as pool:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert pool.stats().peak <= pool.budget


def test_a_call_that_got_no_more_memory_is_planned_again_when_there_is_some(nets: dict[str, Net]) -> None:
    net, x = nets["free"], picture()
    with filled(net.whole - 1, dict.fromkeys("ab", net)) as pool, pool.lease("b") as b:
        with pool.lease("a"):
            b(picture(72))
            assert not b.plan.bands
            held = b.budget or 0
            assert net.least <= held < pool.budget // 2
            other = pool._keeper.entries["a"].resident
            assert other
            assert other.grow
            other.grow(pool.budget - held - 1000)
            for _ in range(2):
                assert b(x).tobytes() in net.answers(x)
                assert b.plan.bands
                assert b.plan.total <= held
        assert b(x).tobytes() in net.answers(x)
        assert b.plan.bands
        assert (b.budget or 0) >= pool.budget // 2
        assert pool.stats().peak <= pool.budget


class Pool:
    """Grants what an open model asks for, up to what there is without waiting."""

    def __init__(self, most: int, there: int) -> None:
        self.bytes, self.there = most, there
        self.there_after_waiting = most
        self.asked: list[tuple[int, bool]] = []
        self.wanted = 0

    def most(self) -> int:
        return self.bytes

    def ask(self, minimum: int, wait: bool = True) -> int:
        self.asked.append((minimum, wait))
        self.wanted = minimum if not wait else self.wanted
        if minimum > self.bytes:
            raise ModelTooLargeError("", minimum)
        if wait:
            self.there = self.there_after_waiting
        return minimum if minimum <= self.there else self.there


def grown(net: Net, held: int, pool: Pool) -> int | None:
    """The budget with which a picture runs in a model that holds some bytes of a pool."""
    file, shapes = read_header(net.path), {"x": picture().shape}
    known = Known(file, rates_of(file.identity.device, 1))
    grow = Growth(known.planner)
    grow.most, grow.ask = pool.most, pool.ask
    found = grow(known.planner(held), net.whole, file.graph, shapes)
    assert found
    planner, prepared = found
    assert planner.budget == prepared.plan.budget
    assert prepared.plan.bands
    asked = pool.asked.copy()
    with pytest.raises(streamrt.BudgetError) as refused:  # whether it got all or not, the next call asks again
        planner.prepare(file.graph, shapes)
    assert refused.value.minimum == net.whole
    assert grow(planner, net.whole, file.graph, shapes) == found
    assert pool.asked.pop() == (pool.wanted, False)
    assert pool.asked == asked
    return planner.budget


def test_a_call_waits_for_memory_only_if_it_has_no_room_for_bands(nets: dict[str, Net]) -> None:
    net = nets["free"]
    most, least = net.whole - 1, net.least
    pool = Pool(most, least)
    assert grown(net, least, pool) == least
    (wanted, waits), *rest = pool.asked
    assert wanted in (most // 2, most)
    assert not waits
    assert not rest
    pool = Pool(most, least - 1)
    pool.there_after_waiting = least
    assert grown(net, least - 1, pool) == least
    assert pool.asked == [(wanted, False), (least, True), (wanted, False)]
    pool = Pool(most, most)
    assert grown(net, least, pool) == wanted
    assert pool.asked == [(wanted, False)]


def test_a_model_that_is_pinned_while_bands_are_planned(nets: dict[str, Net], monkeypatch: pytest.MonkeyPatch) -> None:
    """The call is planned again with what is left, and the error names the least budget."""
    net = nets["free"]
    for left in (net.least, net.least - 1):
        pool = Pool(net.whole - 1, net.whole)
        planned = growth.planned_in_bands

        def pin(*args: Any, pool: Pool = pool, left: int = left, planned: Any = planned) -> Any:
            found = planned(*args)
            pool.bytes = left
            return found

        monkeypatch.setattr(growth, "planned_in_bands", pin)
        if left < net.least:
            with pytest.raises(ModelTooLargeError) as caught:
                grown(net, left, pool)
            assert caught.value.minimum == net.least
        else:
            assert grown(net, left, pool) == left
        monkeypatch.setattr(growth, "planned_in_bands", planned)


def test_models_that_are_pinned_take_room_from_whole_activations(nets: dict[str, Net], tmp_path: Path) -> None:
    """What fits without bands runs in bands while another model is pinned, and without them afterwards."""
    pinned = zoo.mlp(tmp_path, 256, 256, 256)
    for name in ("fixed", "free"):
        with filled(nets[name].whole + 4096, nets) as pool:
            pool.register("pinned", pinned.path)
            assert not call(pool, nets, name, picture()).bands
            pool.pin("pinned").result()
            held = status(pool, "pinned").held
            assert call(pool, nets, name, picture(seed=2)).bands
            assert status(pool, "pinned").held >= held - 4096
            pool.unpin("pinned")
            assert not call(pool, nets, name, picture(seed=3)).bands


def test_a_model_that_runs_only_in_bands_cannot_be_pinned(nets: dict[str, Net]) -> None:
    net = nets["fixed"]
    with filled(net.whole // 2, nets) as pool:
        assert call(pool, nets, "fixed", picture()).bands
        with pytest.raises(PinError) as caught:
            pool.pin("fixed")
        call(pool, nets, "fixed", picture())
    with filled(caught.value.minimum, nets) as pool:
        pool.pin("fixed").result()
        plan = call(pool, nets, "fixed", picture())
        assert not plan.bands
        assert not plan.streamed_bytes


def test_plans_of_many_bands_are_forgotten_with_their_model(
    nets: dict[str, Net], compiled: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with filled(nets["fixed"].least, nets) as pool:
        for most, again in ((10_000, True), (10_000, False), (10, False), (10, True)):
            monkeypatch.setattr(resident, "_STEPS", most)
            compiled.clear()
            with pool.lease("fixed") as model:
                model(picture())
            assert any(compiled) == again
            pool.unload("fixed")


def filling(known: Known, budget: int, sides: range) -> Planner:
    """A planner that has prepared pictures of these heights in bands."""
    planner = known.planner(budget)
    for side in sides:
        planner.prepare(known.file.graph, {"x": (1, 3, side, 32)}, bands=True)
    return planner


def test_steps_in_bands_are_counted_and_limited_for_all_planners_of_a_file(nets: dict[str, Net]) -> None:
    net, shapes = nets["free"], {"x": picture().shape}
    file = read_header(net.path)
    known = Known(file, rates_of(file.identity.device, 1))
    remembered = known._programs.calls_in_bands
    parts, seen = known.parts, 0
    budgets = [net.least + extra for extra in (0, 1, 2)]
    for budget in budgets:
        for side in range(256, 640, 16):
            filling(known, budget, range(side, side + 1))
            latest = len(known.planner(budget).prepare(file.graph, {"x": (1, 3, side, 32)}, bands=True).program.steps)
            assert latest <= remembered.steps <= max(latest, programs._STEPS)
            seen += latest
    assert seen > 2 * programs._STEPS
    steps = remembered.steps
    assert steps > programs._STEPS // 2
    for side in range(16, 16 + REMEMBERED + 1):  # whole activations, in another planner
        known.planner(1 << 30).prepare(file.graph, {"x": (1, 3, 4 * side, 16)})
    assert remembered.steps == steps
    assert known.parts >= parts + 4 * steps
    known.forget_bands()
    assert remembered.steps == 0
    assert known.parts < 2 * programs._STEPS
    with pytest.raises(streamrt.BudgetError):
        known.planner(net.least).prepare(file.graph, shapes)


def test_a_call_with_many_steps_is_remembered_alone(nets: dict[str, Net], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "_STEPS", 10)
    file = read_header(nets["free"].path)
    known = Known(file, rates_of(file.identity.device, 1))
    planner = known.planner(nets["free"].least)
    graph, (large, small) = file.graph, ({"x": (1, 3, side, SIDE)} for side in (SIDE, SIDE - 4))
    first = planner.prepare(graph, large, bands=True)
    assert first.plan.bands
    assert planner.prepare(graph, large, bands=True) is first
    assert planner.prepare(graph, small, bands=True).plan.bands
    assert known._programs.calls_in_bands.steps == len(planner.prepare(graph, small, bands=True).program.steps) > 10
    assert planner.prepare(graph, large, bands=True) is not first


def test_a_planner_has_bands_only_for_those_who_ask(nets: dict[str, Net], compiled: list[int]) -> None:
    """Whatever was prepared before. What was refused is refused again without compiling."""
    net, shapes = nets["free"], {"x": picture().shape}
    file = read_header(net.path)
    planner = Known(file, rates_of(file.identity.device, 1)).planner(net.least)
    for _ in range(2):
        with pytest.raises(streamrt.BudgetError) as refused:
            planner.prepare(file.graph, shapes)
        assert refused.value.minimum == net.whole
        assert not any(compiled)
        found = planner.prepare(file.graph, shapes, bands=True)
        assert found.plan.bands
        compiled.clear()
    assert planner.prepare(file.graph, shapes, bands=True) is found
    small = {"x": picture(16).shape}
    assert planner.prepare(file.graph, small, bands=True) is planner.prepare(file.graph, small)
    below = planner.with_budget(net.least - 1)
    for _ in range(2):
        with pytest.raises(streamrt.BudgetError) as refused:
            below.prepare(file.graph, shapes, bands=True)
        assert refused.value.minimum == net.least
        with pytest.raises(streamrt.BudgetError) as refused:
            below.prepare(file.graph, shapes)
        assert refused.value.minimum == net.whole


def test_the_plan_that_a_lease_tells_is_that_of_the_call(nets: dict[str, Net]) -> None:
    """It asks for no memory. Without room for bands its error names the least budget."""
    net, shape = nets["free"], picture().shape
    with filled(net.whole - 1, nets) as pool, pool.lease("free") as model:
        held = model.budget
        assert (held or 0) < net.least
        with pytest.raises(streamrt.BudgetError) as refused:
            model.plan_for(shape)
        assert refused.value.minimum == model.min_budget(shape) == net.least
        assert model.budget == held
        model(picture(72))
        assert not model.plan.bands
        held = model.budget
        assert (held or 0) >= net.least
        assert model.plan_for(shape).bands
        assert model.budget == held
        model(picture())
        assert model.plan.bands
        assert model.plan_for(shape) is model.plan


def test_a_call_in_bands_heeds_that_models_are_pinned_and_unpinned(nets: dict[str, Net], compiled: list[int]) -> None:
    """It is planned with what there is now. Otherwise it is not planned again."""
    net = nets["free"]
    file, shapes = read_header(net.path), {"x": picture().shape}
    known = Known(file, rates_of(file.identity.device, 1))
    pool, grow = Pool(net.whole - 1, net.whole), Growth(known.planner)
    grow.most, grow.ask = pool.most, pool.ask
    found = grow(known.planner(net.least), net.whole, file.graph, shapes)
    assert found
    planner = found[0]
    assert found[1].plan.bands
    assert any(compiled)
    compiled.clear()
    assert grow(planner, net.whole, file.graph, shapes) == found
    assert not compiled
    pool.bytes = pool.wanted - 1
    less = grow(known.planner(net.least), net.whole, file.graph, shapes)
    assert less
    assert less[1].plan.bands
    assert net.least <= (less[0].budget or 0) < (planner.budget or 0)
    pool.bytes = pool.there_after_waiting = net.whole
    found = grow(planner, net.whole, file.graph, shapes)
    assert found
    assert not found[1].plan.bands


CODE = """
    import json, sys, threading
    group, budget, path, side = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    import memory_limit
    memory_limit.enter(group)
    import numpy as np, streamrt
    from streamrt._core import Mapping
    from streamrt.host.memory import anonymous_bytes
    x, small = (np.ones((1, 3, each, each), np.float32) for each in (side, 16))
    y = np.empty((1, 1, side, side), np.float32)
    whole = Mapping(path)
    for base in (True, False):  # the first pool makes what is made once
        pool = streamrt.ModelPool(budget)
        pool.register("a", path)
        pool.register("b", path)
        if base:
            with pool.lease("a") as model:
                model(x, out=y)
            pool.close()
    limit, before, used, over = memory_limit.limit(group, budget), anonymous_bytes(), [], threading.Event()
    def sample():
        while not over.wait(0.003):
            used.append(anonymous_bytes() - before + whole.resident())
    sampler = threading.Thread(target=sample)
    sampler.start()
    bands = []
    for name in ("a", "b", "a"):
        with pool.lease(name) as model:
            model(small)
            model(x, out=y)
            bands.append(len(model.plan.bands))
            needed = model.plan_for(x.shape).total
    over.set()
    sampler.join()
    peak = pool.stats().peak
    pool.close()
    print(json.dumps({"used": max(used), "peak": peak, "bands": bands, "limit": limit, "left": whole.resident()}))
"""


def test_bands_within_a_memory_cgroup(
    tmp_path: Path, memory_cgroup: Callable[..., AbstractContextManager[Any]], run_limited: Callable[..., Any]
) -> None:
    """The whole activations of a picture take three times the budget and the slack."""
    path = unet(tmp_path / "model", "nearest", "side", "side", (8, 16, 32))
    side, budget = 1024, 12 * MIB
    with streamrt.Model(path) as model:
        assert model.plan_for((1, 3, side, side)).workspace > 3 * (budget + slack(budget))
    zoo.evict(path)
    with memory_cgroup(None) as group:
        done = run_limited(CODE, group.path, budget, path, side, MALLOC_ARENA_MAX="1")
        assert done.returncode == 0, done.stderr
        peak = group.peak()
    found = json.loads(done.stdout)
    assert peak is None or peak < found["limit"]
    assert all(found["bands"])
    assert found["peak"] <= budget
    assert found["used"] <= budget + slack(budget)
    assert found["left"] == 0
