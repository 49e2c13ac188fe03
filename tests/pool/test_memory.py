"""Memory of a pool by the kernel's count: never more than the budget, and none in the end."""

import gc
import json
import sys

import pytest

import streamrt
from markers import thorough
from memory_limit import MIB, slack
from model import zoo
from processes import descriptors, threads
from streamrt.host.memory import anonymous_bytes

CODE = """
    import json, random, sys, threading
    group, budget, io, count, *paths = sys.argv[1:]
    import memory_limit
    memory_limit.enter(group)
    import numpy as np, streamrt
    from streamrt._core import Mapping
    from streamrt.host.memory import anonymous_bytes
    x = np.random.default_rng(1).standard_normal((4, 1024), np.float32)

    def warm():  # BLAS allocates a buffer for each thread that calls it, outside the budget
        for _ in range(30):
            np.ones((64, 1024), np.float32) @ np.ones((1024, 1024), np.float32)

    threads = [threading.Thread(target=warm) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    budget = int(budget)
    whole = [Mapping(path) for path in paths]
    pool = streamrt.ModelPool(budget, io=io)
    for path in paths:
        pool.register(path, path)
    with streamrt.ModelPool(budget, io=io) as other:
        other.register("first", paths[0])
        with other.lease("first") as model:
            model(x)
    limit, before, used, over, errors = memory_limit.limit(group, budget), anonymous_bytes(), [], threading.Event(), []
    def sample():
        while not over.wait(0.003):
            held = pool.stats().held
            used.append(anonymous_bytes() - before + sum(mapping.resident() for mapping in whole))
            assert held <= budget
    def work(seed):
        r = random.Random(seed)
        try:
            for _ in range(int(count)):
                path = paths[min(r.randrange(len(paths)), r.randrange(len(paths)))]
                with pool.lease(path, 60) as model:
                    model(x[: r.choice((1, 4))])
        except BaseException as error:
            errors.append(repr(error))
    sampler = threading.Thread(target=sample)
    sampler.start()
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    over.set()
    sampler.join()
    stats = pool.stats()
    pool.close()
    left = sum(mapping.resident() for mapping in whole)
    print(json.dumps({"used": max(used), "errors": errors, "peak": stats.peak, "evictions": stats.evictions,
                      "given_up": stats.bytes_given_up, "hits": stats.hits, "left": left, "limit": limit}))
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Ten models of 4 to 28 MiB, 160 MiB together."""
    packs = [
        zoo.mlp(tmp_path_factory.mktemp(f"m{layers}"), *[1024] * (layers + 1), seed=layers)
        for layers in (1, 2, 2, 3, 3, 4, 5, 6, 7, 7)
    ]
    yield packs
    for packed in packs:
        packed.path.unlink()


@pytest.mark.parametrize("io", ["mmap", "pread"])
@pytest.mark.parametrize("budget", [12, 40])
def test_a_pool_within_a_memory_cgroup(many, budget, io, memory_cgroup, run_limited):
    budget *= MIB
    for packed in many:
        zoo.evict(packed.path)
    with memory_cgroup(None) as group:
        # One heap only: the C library's allocator keeps some MiB in each heap that threads once used.
        paths = [packed.path for packed in many]
        done = run_limited(CODE, group.path, budget, io, 60, *paths, MALLOC_ARENA_MAX="1")
        assert done.returncode == 0, done.stderr
        peak = group.peak()
    found = json.loads(done.stdout)
    assert peak is None or peak < found["limit"]  # the group never met its limit: the kernel had nothing to reclaim
    assert found["errors"] == []
    assert found["peak"] <= budget
    assert found["evictions"] > 0
    assert found["hits"] > 0
    # Beside the budget: plans and headers of open models, results, and the growth of the interpreter.
    assert found["used"] <= budget + slack(budget)
    assert found["left"] == 0


def footprint():
    """Bytes of anonymous memory, open files, and threads of this process."""
    return anonymous_bytes(), descriptors(), threads()


@pytest.mark.parametrize("cycles", [1000, thorough(10_000)])
def test_cycles_return_to_where_they_started(tmp_path, cycles):
    """Register, lease, unload and unregister, each time under another name."""
    packed = zoo.mlp(tmp_path, 16, 64, 16)
    x = zoo.random_input(1, 16)
    with streamrt.ModelPool("1MiB") as pool:
        for cycle in range(cycles):
            name = f"m{cycle}"
            pool.register(name, packed.path)
            with pool.lease(name) as model:
                model(x)
            pool.unload(name)
            pool.unregister(name)
            if cycle == 300:
                before, blocks = footprint(), allocated()
        after = footprint()
        # A leak of one object a cycle would be 700 blocks or more. Caches and lists of threads change by some dozens.
        assert allocated() - blocks < 300
        assert pool.stats().loads == cycles
        assert pool.stats().held == 0
        assert pool.index() == []
    assert after[0] <= before[0] + MIB
    assert after[1] <= before[1]
    assert len(after[2]) <= len(before[2]) + 4  # threads of the pool that were not idle yet when there was more to do


def allocated():
    """Blocks of memory that Python's objects take, without garbage."""
    gc.collect()
    return sys.getallocatedblocks()


def test_evictions_return_to_where_they_started(tmp_path):
    packs = []
    for i in range(6):
        (tmp_path / str(i)).mkdir()
        packs.append(zoo.mlp(tmp_path / str(i), 64, 512, 64, seed=i))
    x = zoo.random_input(1, 64)
    with streamrt.ModelPool("600KiB", policy="lru") as pool:
        for i, packed in enumerate(packs):
            pool.register(str(i), packed.path)
        for cycle in range(1200):
            with pool.lease(str(cycle % 6)) as model:
                model(x)
            if cycle == 200:
                before = footprint()
        assert pool.stats().evictions > 900
        after = footprint()
    assert after[0] <= before[0] + 2 * MIB
    assert len(after[1]) <= len(before[1]) + 2
