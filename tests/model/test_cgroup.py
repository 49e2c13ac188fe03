"""The budget as the kernel sees it: a model larger than its memory cgroup's limit runs and never meets that limit."""

import pytest

from markers import thorough
from memory_limit import MIB, slack
from model import zoo

CODE = """
    import sys, threading
    path, small, group, budget, batch, passes, out, io = sys.argv[1:]
    budget, batch, passes = int(budget), int(batch), int(passes)
    import memory_limit
    memory_limit.enter(group)
    import numpy as np, streamrt
    from streamrt._core import Mapping
    from streamrt.host.memory import anonymous_bytes
    x = np.random.default_rng(1).standard_normal((batch, 4096), np.float32)
    over = threading.Event()
    used, read, first = [], [], 0
    with streamrt.Model(small, "1MiB", io=io) as model:
        model(x[:1, :64])
    with Mapping(path) as whole:
        limit, before = memory_limit.limit(group, budget), anonymous_bytes()
        with streamrt.Model(path, budget, io=io) as model:
            def sample():
                while not over.wait(0.005):
                    used.append(anonymous_bytes() - before + whole.resident())
            sampler = threading.Thread(target=sample)
            sampler.start()
            for _ in range(passes):
                y = model(x)
                read.append(model.stats.bytes_read)
                first = first or model.plan.workspace
            over.set()
            sampler.join()
            # The first pass reads the pinned weights. The second follows the estimated plan and is measured. The third
            # may pin other weights, because of the measured times.
            streamed, granule = [r for r in model.plan.ranges if not r.pinned], model.plan.granule
            ends = [(r.offset // granule, -(-(r.offset + r.length) // granule)) for r in streamed]
    np.save(out, y)
    print(read[1], max(read[3:]), sum(end - start for start, end in ends) * granule, first, max(used), limit)
"""


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """About 384 MiB of weights in six layers."""
    packed = zoo.mlp(tmp_path_factory.mktemp("big"), *[4096] * 7)
    yield packed
    packed.path.unlink()


@pytest.mark.parametrize("budget", [48, thorough(128), 320])
@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_a_model_larger_than_the_limit(big, small, budget, batch, io, memory_cgroup, run_limited, tmp_path):
    zoo.evict(big.path)
    budget *= MIB
    with memory_cgroup(None) as group:
        out = tmp_path / "y.npy"
        done = run_limited(CODE, big.path, small.path, group.path, budget, batch, 5, out, io)
        assert done.returncode == 0, done.stderr
        peak = group.peak()
    second, steady, streamed, workspace, used, limit = map(int, done.stdout.split())
    assert budget + slack(budget) < big.weights
    assert peak is None or peak < limit  # the group never met its limit, so the kernel had nothing to reclaim
    assert second <= big.weights - budget + workspace + 40 * MIB
    assert steady <= streamed
    assert used <= budget + slack(budget)
    x = zoo.random_input(batch, 4096, seed=1)
    zoo.assert_close(zoo.load(out), big.answer(x))
