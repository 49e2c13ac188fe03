"""run_steps: order, times, reports, and the errors and signals that end a pass early."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest

from core.files import BLOCK, MakeFile, opened
from streamrt._core import ACTIVATIONS, CONV_COLUMNS, Gemm, Step, run_steps


def times_of(result: bytes) -> list[tuple[int, int]]:
    flat = np.frombuffer(result, np.int64)
    return list(zip(flat[::2].tolist(), flat[1::2].tolist(), strict=True))


def kernel(y: np.ndarray) -> Gemm:
    x, w, room = np.ones((2, 3), np.float32), np.ones((4, 3), np.float32), np.ones(8, np.float32)
    return Gemm(x, w, None, y, room, np.ones((1, 3 * CONV_COLUMNS), np.float32), ACTIVATIONS["Identity"], 0, 0)


def test_steps_run_in_order_and_give_their_times(make_file: MakeFile) -> None:
    with opened(make_file(3 * BLOCK)) as (_, prefetcher):
        prefetcher.schedule([(i * BLOCK, BLOCK, False) for i in range(3)], BLOCK, BLOCK)
        seen: list[object] = []
        y = np.zeros((2, 4), np.float32)

        def look(first: int, last: int) -> None:
            seen.append((first, last, prefetcher.held()))

        steps = [
            Step(0, (0,), look, 3, 5, (0,)),
            Step(1, (), kernel(y), 0, 4, ()),
            Step(1, (1,), look, 5, 6, (1,)),
            Step(2, (2,), look, 0, 1, (2,)),
        ]
        assert [(s.node, s.waits, s.first, s.last, s.dones) for s in steps[:2]] == [
            (0, (0,), 3, 5, (0,)),
            (1, (), 0, 4, ()),
        ]
        begin = time.monotonic_ns()
        times = times_of(run_steps(steps, prefetcher, lambda item: seen.append(item)))
        flat = [begin, *(t for pair in times for t in pair), time.monotonic_ns()]
        assert flat == sorted(flat)
        assert seen == [0, (3, 5, BLOCK), 1, (5, 6, BLOCK), 2, (0, 1, BLOCK)]
        assert (y == 3).all()
        report = prefetcher.report()
        assert report.brought
        assert len(report) == 3
        assert [r.offset for r in report] == [0, BLOCK, 2 * BLOCK]
        assert report[-1] == report[2]
        for wrong in (3, -4):
            with pytest.raises(IndexError):
                report[wrong]


def test_a_function_is_called_after_each_step(make_file: MakeFile) -> None:
    """It may end the pass. Then the items of later steps are not waited for, and the next pass begins anew."""
    with opened(make_file(3 * BLOCK)) as (_, prefetcher):
        prefetcher.schedule([(i * BLOCK, BLOCK, False) for i in range(3)], BLOCK, BLOCK)
        seen: list[object] = []

        def look(first: int, last: int) -> None:
            seen.append(first)

        def stepped(count: int) -> None:
            seen.append((count, prefetcher.held()))
            if len(seen) == 4:
                raise InterruptedError

        steps = [Step(i, (i,), look, i, i + 1, (i,)) for i in range(3)]
        with pytest.raises(InterruptedError):
            run_steps(steps, prefetcher, None, stepped)
        prefetcher.rewind()
        assert [seen[0], seen[2]] == [0, 1]
        assert {count for count, _ in (seen[1], seen[3])} == {3}
        run_steps(steps, prefetcher, stepped=stepped)
        assert seen[4::2] == [0, 1, 2]


def test_only_the_first_pass_brings_pinned_items(make_file: MakeFile) -> None:
    with opened(make_file(BLOCK)) as (_, prefetcher):
        prefetcher.schedule([(0, BLOCK, True)], 0, BLOCK)
        brought = []
        for _ in range(2):
            run_steps([Step(0, (0,), lambda first, last: None, 0, 1, (0,))], prefetcher)
            brought.append(prefetcher.report().brought)
        assert brought == [True, False]


def test_a_list_that_shrinks_or_has_other_objects_is_refused(make_file: MakeFile) -> None:
    with opened(make_file(BLOCK)) as (_, prefetcher):
        prefetcher.schedule([(0, BLOCK, True)], 0, BLOCK)
        steps: list[Step] = []
        steps += [Step(0, (), lambda first, last: steps.clear(), 0, 1, ())] * 2
        with pytest.raises(IndexError):
            run_steps(steps, prefetcher)
        prefetcher.rewind()
        with pytest.raises(TypeError):
            run_steps([object()], prefetcher)  # type: ignore[list-item]
        prefetcher.rewind()


def test_a_signal_between_kernels_ends_the_pass(make_file: MakeFile) -> None:
    class StoppedError(Exception):
        pass

    def handler(number: int, frame: object) -> None:
        raise StoppedError

    with opened(make_file(BLOCK)) as (_, prefetcher):
        prefetcher.schedule([(0, BLOCK, True)], 0, BLOCK)
        ended: list[int] = []
        steps = [Step(0, (), kernel(np.zeros((2, 4), np.float32)), 0, 4, ())] * 2_000_000  # some seconds
        steps.append(Step(0, (), lambda first, last: ended.append(last), 0, 1, ()))
        before = signal.signal(signal.SIGUSR1, handler)
        timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
        try:
            timer.start()
            with pytest.raises(StoppedError):
                run_steps(steps, prefetcher)
        finally:
            timer.join()
            signal.signal(signal.SIGUSR1, before)
        assert not ended
        prefetcher.rewind()
