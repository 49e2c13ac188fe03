"""The queues: the requests that share a pass, the order of models, and the request that gets an error."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import streamrt
from model.zoo import eventually
from serve.packing import two
from streamrt.errors import InputError, PoolBusyError, UnknownModelError, WeightsIOError
from streamrt.graph import TensorSpec
from streamrt.report.stats import Spent
from streamrt.serve.batching import Batcher, Pass, QueueFullError, ShuttingDownError

DEFAULTS: dict[str, Any] = {"workers": 1, "max_batch": 8, "max_delay": 0.0, "max_queue": 100, "timeout": 60.0}


class World:
    """A pool of models that double their input ``x``. Calls wait until the gate is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.calls: list[tuple[str, list[float], tuple[str, ...] | None]] = []
        self.running: set[str] = set()
        self.leases: list[float] = []
        self.lease_errors: list[Exception] = []
        self.granted = threading.Event()  # leases wait for it
        self.granted.set()
        self.waits = 0  # leases that wait now
        self.seen: list[BaseException] = []
        self.held: set[str] = set()  # names of models whose weights are in memory
        self.outputs = (TensorSpec("y", ("n",)), TensorSpec("z", ("n",)))
        self.spent = Spent(100.0, 10.0, 1.0)
        self._lock = threading.Lock()

    def holds(self, name: str) -> bool:
        return name in self.held

    @contextmanager
    def lease(self, name: str, timeout: float, *, wanted: Callable[[], bool]) -> Iterator[Any]:
        self.leases.append(timeout)
        self.waits += 1
        while not self.granted.wait(0.01):
            if not wanted():
                self.waits -= 1
                raise PoolBusyError("not wanted")
        self.waits -= 1
        if self.lease_errors:
            raise self.lease_errors.pop(0)
        with self._lock:
            assert name not in self.running
            self.running.add(name)
        self.name = name
        try:
            yield self
        except BaseException as error:
            self.seen.append(error)
            raise
        finally:
            with self._lock:
                self.running.remove(name)

    def call_together(self, batches: list[dict[str, Any]], outputs: tuple[str, ...] | None) -> list[Any]:
        name = self.name
        self.calls.append((name, [batch["x"] for batch in batches], outputs))
        assert self.gate.wait(60)
        self.spent = Spent(*(total + more for total, more in zip(self.spent, (4.0, 2.0, 1.0), strict=True)))
        found: list[Any] = []
        for batch in batches:
            x = batch["x"]
            if isinstance(x, Exception):
                try:
                    raise x
                except type(x):
                    found.append(x)  # with a traceback, as a model's error has
            elif outputs is None:
                found.append({"y": x * 2, "z": x * 3})
            else:
                found.append(x * 2)
        return found


@pytest.fixture
def world() -> World:
    return World()


class Clock:
    """The clock of the queues, which skips as many seconds as a test wants."""

    def __init__(self) -> None:
        self.skipped = 0.0

    def now(self) -> float:
        return time.monotonic() + self.skipped


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("streamrt.serve.batching.monotonic", made.now)
    return made


@contextmanager
def batching(world: Any, **options: Any) -> Iterator[Batcher]:
    batcher = Batcher(world, **DEFAULTS | options)
    try:
        yield batcher
    finally:
        if isinstance(world, World):
            world.gate.set()
            world.granted.set()
        batcher.close()


def ask(batcher: Batcher, x: Any, name: str = "m", outputs: tuple[str, ...] = ("y", "z"), samples: int = 1) -> Any:
    return batcher.submit(name, {"x": x}, outputs, samples)


def test_models_are_taken_by_age_or_those_in_memory_first(world: World) -> None:
    world.held = {"warm", "warmer"}
    with batching(world, workers=0) as batcher:
        for name in ("cold", "warm", "colder", "warmer"):
            ask(batcher, 0, name)
        taken = []
        for by_age in (False, True, False, False):
            found = batcher._take(by_age)
            assert found
            taken.append(found[0])
        assert taken == ["warm", "cold", "warmer", "colder"]


@pytest.mark.parametrize(("workers", "by_age"), [(1, 1), (2, 1), (3, 2), (4, 2)])
def test_half_of_the_workers_take_models_by_age(
    world: World, workers: int, by_age: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: list[bool] = []
    monkeypatch.setattr(Batcher, "_work", lambda batcher, kind: kinds.append(kind))
    with batching(world, workers=workers):
        eventually(lambda: len(kinds) == workers)
    assert sum(kinds) == by_age


def held_up(world: World, batcher: Batcher, name: str = "m") -> Any:
    """A request whose call waits until the gate is opened."""
    world.gate.clear()
    count = len(world.calls)
    future = ask(batcher, 0, name)
    eventually(lambda: len(world.calls) > count)
    return future


def test_requests_that_wait_during_a_pass_share_the_next_pass(world: World) -> None:
    observed: list[Pass] = []
    with batching(world, observe=observed.append) as batcher:
        first = held_up(world, batcher)
        others = [ask(batcher, x, samples=2) for x in (1, 2, 3)]
        assert batcher.waiting == 3
        world.gate.set()
        assert first.result(60) == {"y": 0, "z": 0}
        assert [other.result(60)["y"] for other in others] == [2, 4, 6]
    assert world.calls == [("m", [0], None), ("m", [1, 2, 3], None)]
    assert [(done.model, len(done.queued), done.samples) for done in observed] == [("m", 1, 1), ("m", 3, 6)]
    assert batcher.waiting == 0


def test_the_times_of_a_pass_are_those_since_the_pass_before(world: World) -> None:
    """The first request waits for nothing, and its lease takes 0.2 s; the second waits while the first is served."""
    observed: list[Pass] = []
    lease, results, taken = world.lease, [], []

    @contextmanager
    def slow(name: str, timeout: float, *, wanted: Callable[[], bool]) -> Iterator[Any]:
        taken.append(time.monotonic())
        time.sleep(0.2)
        with lease(name, timeout, wanted=wanted) as found:
            yield found

    world.lease = slow  # type: ignore[method-assign]
    with batching(world, observe=observed.append) as batcher:
        began = time.monotonic()
        first = held_up(world, batcher)
        second = ask(batcher, 1)
        second.add_done_callback(lambda done: results.append(len(observed)))
        time.sleep(0.3)
        world.gate.set()
        first.result(60)
        second.result(60)
    assert [(done.read, done.compute) for done in observed] == [(2.0, 1.0), (2.0, 1.0)]
    assert all(4.2 <= done.load < 30 for done in observed)
    assert observed[0].queued[0] <= taken[0] - began
    assert observed[1].queued[0] >= 0.3
    assert results == [2]  # a client that has its answer finds it in the metrics


def test_a_pass_has_at_most_max_batch_samples(world: World) -> None:
    with batching(world, max_batch=4) as batcher:
        held_up(world, batcher)
        futures = [ask(batcher, x, samples=x) for x in (2, 3, 1, 1, 4)]
        world.gate.set()
        for future in futures:
            future.result(60)
    assert [call[1] for call in world.calls] == [[0], [2, 1, 1], [3], [4]]


def test_requests_for_other_outputs_are_another_pass(world: World) -> None:
    with batching(world) as batcher:
        held_up(world, batcher)
        futures = [ask(batcher, x, outputs=outputs) for x, outputs in ((1, ("y",)), (2, ("y", "z")), (3, ("y",)))]
        world.gate.set()
        assert [future.result(60) for future in futures] == [{"y": 2}, {"y": 4, "z": 6}, {"y": 6}]
    assert world.calls[1:] == [("m", [1, 3], ("y",)), ("m", [2], None)]


def test_a_request_is_held_back_for_others_but_not_for_ever(world: World) -> None:
    with batching(world, max_delay=1, max_batch=3) as batcher:
        began = time.monotonic()
        futures = [ask(batcher, x) for x in (1, 2)]
        for future in futures:
            future.result(60)
        assert time.monotonic() - began >= 1
        assert [call[1] for call in world.calls] == [[1, 2]]
    with batching(world, max_delay=60, max_batch=3) as batcher:
        futures = [ask(batcher, x) for x in (1, 2, 3)]
        for future in futures:
            future.result(30)  # enough samples for a pass: none is held back
    with batching(world, max_delay=float("inf"), max_batch=2) as batcher:
        first = ask(batcher, 1)
        time.sleep(0.05)  # by then a thread waits for more requests
        for future in (first, ask(batcher, 2)):
            future.result(30)
    with batching(world, max_delay=60) as batcher:
        last = ask(batcher, 7)
    assert last.result(0) == {"y": 14, "z": 21}  # `close` does not wait for more requests


def test_models_are_served_side_by_side_and_each_by_one_thread(world: World) -> None:
    with batching(world, workers=3) as batcher:
        held_up(world, batcher, "a")
        held_up(world, batcher, "b")
        more = [ask(batcher, x, "a") for x in (1, 2)]
        time.sleep(0.05)
        assert world.running == {"a", "b"}  # `World.lease` checks this, too
        world.gate.set()
        for future in more:
            future.result(60)


def test_the_model_of_the_oldest_request_is_next(world: World) -> None:
    with batching(world) as batcher:
        held_up(world, batcher, "a")
        futures = [ask(batcher, x, name) for x, name in ((1, "b"), (2, "a"), (3, "c"), (4, "b"))]
        world.gate.set()
        for future in futures:
            future.result(60)
    assert [call[:2] for call in world.calls] == [("a", [0]), ("b", [1, 4]), ("a", [2]), ("c", [3])]


def test_the_queue_is_bounded_and_one_model_has_half_of_it(world: World) -> None:
    with batching(world, max_queue=4) as batcher:
        held_up(world, batcher)
        futures = [ask(batcher, x) for x in (1, 2)]
        with pytest.raises(QueueFullError, match="2 requests wait for 'm', and 2 in all"):
            ask(batcher, 3)
        futures += [ask(batcher, x, "other") for x in (3, 4)]
        with pytest.raises(QueueFullError, match="0 requests wait for 'third', and 4 in all"):
            ask(batcher, 5, "third")
        world.gate.set()
        for future in futures:
            future.result(60)
        assert ask(batcher, 6).result(60) == {"y": 12, "z": 18}


def test_an_error_goes_to_its_own_request(world: World) -> None:
    with batching(world) as batcher:
        held_up(world, batcher)
        wrong = InputError("wrong")
        futures = [ask(batcher, x) for x in (1, wrong, 2)]
        world.gate.set()
        assert [futures[0].result(60)["y"], futures[2].result(60)["y"]] == [2, 4]
        assert futures[1].exception(60) is wrong
        assert wrong.__traceback__ is None  # its frames would hold the arrays of all requests of the pass
    assert world.seen == []


def test_the_pool_learns_of_an_unreadable_file_and_other_requests_keep_their_results(world: World) -> None:
    with batching(world) as batcher:
        held_up(world, batcher)
        cut = WeightsIOError("cut short")
        futures = [ask(batcher, x) for x in (1, cut)]
        world.gate.set()
        assert futures[0].result(60)["y"] == 2
        assert futures[1].exception(60) is cut
        assert ask(batcher, 4).result(60)["y"] == 8
    assert [(type(error), str(error)) for error in world.seen] == [(WeightsIOError, "cut short")]
    assert world.seen[0] is not cut  # the request of ``cut`` may be raising it by now


def test_the_error_of_a_lease_goes_to_all_waiting_requests(world: World) -> None:
    with batching(world) as batcher:
        held_up(world, batcher)
        gone = UnknownModelError("gone")
        world.lease_errors = [gone]
        futures = [ask(batcher, x) for x in (1, 2)]
        world.gate.set()
        errors = [future.exception(60) for future in futures]
        assert [(type(error), str(error)) for error in errors] == [(UnknownModelError, "gone")] * 2
        assert errors[0] is not errors[1]  # one object raised in two places would have both tracebacks
        assert all(error and error.__traceback__ is None for error in errors)  # frames would hold all arrays
        assert ask(batcher, 4).result(60)["y"] == 8


def test_a_late_request_takes_no_time_from_others(world: World) -> None:
    with batching(world) as batcher:
        held_up(world, batcher)
        batcher._timeout = 0.3
        world.leases.clear()
        late = ask(batcher, 1)
        time.sleep(0.2)
        fresh = ask(batcher, 2)
        world.lease_errors = [PoolBusyError("all memory is leased")]
        time.sleep(0.11)
        world.gate.set()
        assert isinstance(late.exception(60), PoolBusyError)
        error = fresh.exception(60)  # there was time for another lease, unless the machine was very slow
        assert error is None or isinstance(error, PoolBusyError)
        assert all(timeout <= 0.3 for timeout in world.leases)


def test_requests_with_time_left_ask_a_busy_pool_again(world: World) -> None:
    with batching(world, timeout=60) as batcher:
        world.lease_errors = [PoolBusyError("all memory is leased")] * 2
        assert ask(batcher, 1).result(60)["y"] == 2
    assert len(world.leases) == 3


def test_a_cancelled_request_is_not_served(world: World) -> None:
    with batching(world) as batcher:
        held_up(world, batcher)
        futures = [ask(batcher, x) for x in (1, 2)]
        assert futures[0].cancel()
        world.gate.set()
        assert futures[1].result(60)["y"] == 4
    assert world.calls[1][1] == [2]


def test_a_cancelled_request_leaves_the_queue_at_once(world: World) -> None:
    with batching(world, max_queue=4) as batcher:
        held_up(world, batcher)
        futures = [ask(batcher, x) for x in (1, 2)]
        with pytest.raises(QueueFullError):
            ask(batcher, 3)
        assert futures[0].cancel()
        assert batcher.waiting == 1
        futures.append(ask(batcher, 4))  # its place is free
        alone = ask(batcher, 5, "other")
        alone.cancel()
        assert batcher.waiting == 2
        world.gate.set()
        assert [future.result(60)["y"] for future in futures[1:]] == [4, 8]
    assert [call[:2] for call in world.calls] == [("m", [0]), ("m", [2, 4])]


def test_a_request_that_is_cancelled_while_its_batch_waits_for_the_model_is_not_served(world: World) -> None:
    observed: list[Pass] = []
    with batching(world, observe=observed.append, max_batch=3, max_delay=60) as batcher:
        world.granted.clear()
        futures = [ask(batcher, 0, samples=3)]
        eventually(lambda: world.waits == 1)
        assert futures[0].cancel()  # nobody wants the lease any more
        eventually(lambda: world.waits == 0)
        futures = [ask(batcher, x) for x in (1, 2, 3)]
        eventually(lambda: world.waits == 1)
        assert batcher.waiting == 0
        assert futures[0].cancel()
        world.granted.set()
        assert [future.result(60)["y"] for future in futures[1:]] == [4, 6]
    assert world.calls == [("m", [2, 3], None)]
    assert [len(done.queued) for done in observed] == [2]


def test_a_request_that_has_begun_is_finished(world: World) -> None:
    with batching(world) as batcher:
        future = held_up(world, batcher)
        assert not future.cancel()
        world.gate.set()
        assert future.result(60)["y"] == 0


@pytest.mark.parametrize("error", [UnknownModelError("gone"), PoolBusyError("all memory is leased")])
def test_a_cancelled_request_gets_no_error_in_its_place(world: World, clock: Clock, error: Exception) -> None:
    """An error that is set after a request was cancelled would end the thread."""
    with batching(world, max_batch=2, max_delay=60) as batcher:
        world.granted.clear()
        futures = [ask(batcher, x) for x in (1, 2)]
        eventually(lambda: world.waits == 1)
        futures[0].cancel()
        clock.skipped = DEFAULTS["timeout"]
        world.lease_errors = [error]
        world.granted.set()
        assert type(futures[1].exception(60)) is type(error)
    with batching(world, max_batch=1) as batcher:
        assert ask(batcher, 4).result(60)["y"] == 8


def test_draining_waits_for_the_requests_of_one_model(world: World) -> None:
    with batching(world, workers=2) as batcher:
        batcher.drain("m")
        held_up(world, batcher)
        futures = [ask(batcher, x) for x in (1, 2)]
        ended = threading.Event()

        def drain() -> None:
            batcher.drain("m")
            assert all(future.done() for future in futures)
            ended.set()

        thread = threading.Thread(target=drain)
        thread.start()
        batcher.drain("other")
        assert not ended.wait(0.05)
        world.gate.set()
        assert ended.wait(60)
        thread.join()


def test_closing_serves_waiting_requests_and_refuses_new_ones(world: World) -> None:
    with batching(world) as batcher:
        held_up(world, batcher)
        futures = [ask(batcher, x, f"m{x}") for x in range(5)]
        world.gate.set()
        batcher.close()
        assert [future.result(0)["y"] for future in futures] == [0, 2, 4, 6, 8]
        with pytest.raises(ShuttingDownError):
            ask(batcher, 6)
    assert not any(thread.is_alive() for thread in batcher._threads)


def test_with_a_real_pool(tmp_path: Any) -> None:
    path = two(tmp_path)
    with streamrt.ModelPool("4MiB") as pool, batching(pool) as batcher:
        pool.register("two", path)
        a, b = np.float32([[1, 2]]), np.float32([[30, 40]])
        wrong = batcher.submit("two", {"a": a, "b": np.float64([[1, 2]])}, ("sum",), 1)
        right = [batcher.submit("two", {"a": a * i, "b": b}, ("sum", "difference"), 1) for i in range(20)]
        for i, future in enumerate(right):
            np.testing.assert_array_equal(future.result(60)["sum"], a * i + b)
            np.testing.assert_array_equal(future.result(60)["difference"], a * i - b)
        assert isinstance(wrong.exception(60), InputError)
        only = batcher.submit("two", {"a": a, "b": b}, ("difference",), 1).result(60)
        assert only.keys() == {"difference"}
