"""Random histories of many requests: a pool in a simulated world keeps its budget, and nothing hangs or is left."""

import random
from collections import Counter
from dataclasses import replace

import pytest

import streamrt
from pool.world import KIB, make, needs, whole
from streamrt.pool.adaptive import POLICIES


def _closed(world, files, pool, budget):
    """Close the pool after all its requests."""
    assert pool.stats().peak <= budget * KIB
    world.spawn(pool.close)
    world.run()
    assert files.open_models == []
    assert pool._keeper.ledger.total == 0
    assert pool._keeper._line == []


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("seed", range(12))
def test_a_thousand_mixed_requests(policy, seed):
    """In any history the budget holds, nothing hangs, nothing is left, and most requests are served."""
    r = random.Random(seed)
    budget = 256
    models = {
        f"m{i}": needs(r.choice([1, 4, 20, 60, 300, 900]), r.choice([1, 5, 40]), r.choice([1, 4, 16])) for i in range(8)
    } | {f"m{i}": whole(r.choice([4, 20, 60, 100]), r.choice([1, 5, 40]), r.choice([1, 4])) for i in range(8, 12)}
    world, files, pool = make(budget, models, policy=policy, timeout=15.0)
    files.failing["m3.file"] = 2
    outcomes = Counter()

    def caller(seed):
        r = random.Random(seed)

        def work():
            for _ in range(100):
                name = f"m{r.randrange(12)}"
                world.sleep(r.expovariate(1.0))
                files.check()
                try:
                    what = r.random()
                    if what < 0.02:
                        pool.unload(name, wait=what < 0.01)
                    elif what < 0.04:
                        pool.prefetch(name)
                    else:
                        with pool.lease(name, r.choice([None, 0.5, 5.0])) as model:
                            assert model.path == f"{name}.file"
                            model.call(r.expovariate(2.0))
                            outcomes["served"] += 1
                except streamrt.StreamrtError as error:
                    outcomes[type(error).__name__] += 1

        return work

    for i in range(10):
        world.spawn(caller(seed * 100 + i))
    world.run()
    assert outcomes["served"] > 600, outcomes
    assert set(outcomes) <= {"served", "PoolBusyError", "WeightsIOError"}
    assert pool.stats().leases == 0
    _closed(world, files, pool, budget)


@pytest.mark.parametrize("seed", range(12))
def test_pins_come_and_go_while_models_need_bands(seed):
    """Whether a model needs bands depends on pins. Calls grow, too. The budget holds, and nothing hangs or is left."""
    r = random.Random(seed)
    budget = 256
    models = {f"m{i}": needs(r.choice([4, 20, 60]), r.choice([100, 180, 240, 300])) for i in range(6)}
    models |= {f"p{i}": needs(r.choice([30, 60]), 4) for i in range(2)}
    world, files, pool = make(budget, models, timeout=15.0)
    for name, needed in models.items():
        if name < "m5":
            least = replace(needed, workspace=needed.workspace // 4, whole=needed.workspace)
            files.in_bands[f"{name}.file"] = least
    outcomes = Counter()

    def caller(seed):
        r = random.Random(seed)

        def work():
            for _ in range(60):
                world.sleep(r.expovariate(0.5))
                files.check()
                try:
                    what = r.random()
                    if what < 0.1:
                        pool.pin(f"p{r.randrange(2)}")
                    elif what < 0.2:
                        pool.unpin(f"p{r.randrange(2)}")
                    elif what < 0.25:
                        pool.pin(f"m{r.randrange(6)}")
                    elif what < 0.3:
                        pool.unpin(f"m{r.randrange(6)}")
                    else:
                        with pool.lease(r.choice(list(models)), 60.0) as model:
                            model.call(r.expovariate(4.0))
                            if what > 0.8:
                                model.model.budget = model.grow(r.randrange(budget) * KIB, wait=what > 0.9)
                            model.call(r.expovariate(4.0))
                            outcomes["bands" if model.needs.whole else "served"] += 1
                except streamrt.StreamrtError as error:
                    outcomes[type(error).__name__] += 1

        return work

    for i in range(5):
        world.spawn(caller(seed * 100 + i))
    world.run()
    assert min(outcomes["served"], outcomes["bands"]) > 10, outcomes
    assert set(outcomes) <= {"served", "bands", "PoolBusyError", "PinError", "ModelTooLargeError"}
    _closed(world, files, pool, budget)
