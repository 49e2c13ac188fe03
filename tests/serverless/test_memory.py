"""A model of 512 MiB in a function of 256 MiB: the kernel's own limit, and Lambda's own client."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from bench.process.cgroup import Cgroup
from markers import needs
from model import zoo
from serverless.function import array, event, function, local

pytestmark = pytest.mark.extras
needs("awslambdaric")

MIB = 1 << 20
LIMIT = 256 * MIB
Groups = Callable[[int | None], AbstractContextManager[Cgroup]]


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zoo.Packed]:
    packed = zoo.mlp(tmp_path_factory.mktemp("big"), *[4096] * 9)
    assert packed.weights > 2 * LIMIT
    yield packed
    packed.path.unlink()


def test_cold_and_warm_answers(big: zoo.Packed, memory_cgroup: Groups, tmp_path: Path) -> None:
    zoo.evict(big.path)
    x = zoo.random_input(1, 4096)
    wanted = big.answer(x)
    with memory_cgroup(LIMIT) as group, function(tmp_path, big.path, group=group) as running:
        for _ in range(4):
            zoo.assert_close(array(running.result(event(x))), wanted)
        assert group.kills() == 0
        # The kernel had nothing to reclaim: room is left for the longest event.
        assert (peak := group.peak()) is None or peak < LIMIT - 40 * MIB


def test_the_longest_events(big: zoo.Packed, memory_cgroup: Groups, tmp_path: Path) -> None:
    """Event and answer of nearly 6 MB each, in base64 and as lists."""
    x = zoo.random_input(274, 4096)
    few = 70  # samples, as numbers of 20 characters
    lists = {"name": "input", "shape": [few, 4096], "datatype": "FP32", "data": x[:few].ravel().tolist()}
    texts = [json.dumps(each).encode() for each in (event(x), {"inputs": [lists]})]
    assert all(5.5 < len(text) / MIB < local.MOST / MIB for text in texts)
    wanted = big.answer(x)
    with memory_cgroup(LIMIT) as group, function(tmp_path, big.path, group=group) as running:
        for _ in range(2):
            zoo.assert_close(array(running.result(texts[0])), wanted)
            zoo.assert_close(array(running.result(texts[1])), wanted[:few])
        assert group.kills() == 0


def test_the_model_is_copied_to_a_local_disk(big: zoo.Packed, memory_cgroup: Groups, tmp_path: Path) -> None:
    """Once: a process that finds the copy does not need the source."""
    zoo.evict(big.path)
    x, copy = zoo.random_input(1, 4096), tmp_path / "copy.safetensors"
    wanted = big.answer(x)
    try:
        for source in (big.path, tmp_path / "missing"):
            environ = {"STREAMRT_MODEL_FROM": str(source)}
            with memory_cgroup(LIMIT) as group, function(tmp_path, copy, group=group, **environ) as running:
                zoo.assert_close(array(running.result(event(x))), wanted)
                assert group.kills() == 0
        assert {path.name for path in tmp_path.iterdir()} == {copy.name, "function.log"}
    finally:
        copy.unlink(missing_ok=True)


def test_lambda_tells_less_memory_than_the_machine_has(big: zoo.Packed, memory_cgroup: Groups, tmp_path: Path) -> None:
    x = zoo.random_input(1, 4096)
    wanted = big.answer(x)
    with memory_cgroup(None) as group, function(tmp_path, big.path, memory=256, group=group) as running:
        for _ in range(2):
            zoo.assert_close(array(running.result(event(x))), wanted)
        assert (peak := group.peak()) is None or peak < LIMIT
