"""The budget as the kernel sees it: a model larger than its memory cgroup's limit runs and never meets that limit."""

import pytest

from markers import thorough
from model import zoo

MIB = 1 << 20

CODE = """
    import os, sys, threading
    path, group, budget, batch, passes = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
    io = sys.argv[7]
    with open(group + "/cgroup.procs", "w") as procs:
        procs.write(str(os.getpid()))
    import numpy as np, streamrt
    from streamrt._core import Mapping
    from streamrt.host.memory import anonymous_bytes
    x = np.random.default_rng(1).standard_normal((batch, 4096), np.float32)
    before = anonymous_bytes()
    over = threading.Event()
    used, read, first = [], [], 0
    with Mapping(path) as whole, streamrt.Model(path, budget, io=io) as model:
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
        np.save(sys.argv[6], y)
        # The first pass reads what is pinned, the second runs as was estimated and measures that, and the third may pin
        # other weights for what was measured.
        streamed, granule = [r for r in model.plan.ranges if not r.pinned], model.plan.granule
        ends = [(r.offset // granule, -(-(r.offset + r.length) // granule)) for r in streamed]
        print(read[1], max(read[3:]), sum(end - start for start, end in ends) * granule, first, max(used))
"""


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """About 384 MiB of weights in six layers."""
    packed = zoo.mlp(tmp_path_factory.mktemp("big"), *[4096] * 7)
    yield packed
    packed.path.unlink()


@pytest.mark.parametrize(("budget", "cap"), [(48, 160), thorough(128, 240), (320, 420)])
@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_a_model_larger_than_the_limit(big, budget, cap, batch, io, memory_cgroup, run_python, tmp_path):
    zoo.evict(big.path)
    with memory_cgroup(cap * MIB) as group:
        out = tmp_path / "y.npy"
        done = run_python(CODE, big.path, group.path, f"{budget}MiB", batch, 5, out, io)
        assert done.returncode == 0, done.stderr
        assert group.peak() < cap * MIB  # never even met, so that nothing had to be reclaimed
    second, steady, streamed, workspace, used = map(int, done.stdout.split())
    assert second <= big.weights - budget * MIB + workspace + 40 * MIB
    assert steady <= streamed
    # Beside the budget, BLAS has buffers of its own, and the interpreter and its modules grow a little.
    assert used <= (budget + 48) * MIB
    x = zoo.random_input(batch, 4096, seed=1)
    zoo.assert_close(zoo.load(out), big.answer(x))
