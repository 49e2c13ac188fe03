"""`streamrt.tune` on small models: budgets, honest reads, the time limit and interrupts."""

from __future__ import annotations

import itertools
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamrt
from model import zoo
from streamrt.errors import BudgetError, InputError
from streamrt.report.trace import Trace
from streamrt.tuning import Tuner, measure


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> zoo.Packed:
    return zoo.mlp(tmp_path_factory.mktemp("model"), 256, 1024, 1024, 1024, 64)


def test_points_go_from_the_least_budget_to_all_weights(packed: zoo.Packed) -> None:
    found = streamrt.tune(packed.path, calls=3, seconds=300)  # as long as a busy machine needs
    with streamrt.Model(packed.path, budget=None) as model:
        least, everything = model.min_budget(), model.plan_for().total
    assert found.everything == everything
    budgets = [point.budget for point in found.points]
    assert budgets == sorted(budgets)
    assert (budgets[0], budgets[-1]) == (least, everything)
    assert len(budgets) >= 5
    assert found.weights == packed.weights
    assert found.shapes == {"input": (1, 256)}
    for point in found.points:
        assert point.calls == 3
        assert point.seconds is not None
        assert point.fastest is not None
        assert point.slowest is not None
        assert 0 < point.fastest <= point.seconds <= point.slowest
        assert point.pinned + point.window + point.workspace <= point.budget
        assert point.predicted > 0
    first, last = found.points[0], found.points[-1]
    assert first.bytes_streamed >= packed.weights
    assert last.bytes_streamed == last.bytes_read == last.stall == 0
    assert last.bound_by == "computing"
    assert found.knee in found.points


def test_streamed_weights_come_from_the_disk(packed: zoo.Packed) -> None:
    packed.path.read_bytes()  # all of the file is in the page cache
    found = streamrt.tune(packed.path, calls=2, budgets=["1MiB", "2MiB"], seconds=300)
    for point in found.points:
        assert point.bytes_read is not None
        assert point.bytes_read >= 0.9 * point.bytes_streamed > 0
    assert found.notes[0].startswith("Weights that stream came from the disk")
    assert found.disk is not None


def test_weights_from_the_page_cache_are_not_taken_for_the_disk(packed: zoo.Packed) -> None:
    with packed.path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages:
        sum(pages[:: mmap.PAGESIZE])  # mapped pages stay in the page cache
        found = streamrt.tune(packed.path, calls=2, budgets=["1MiB"], seconds=300)
    (point,) = found.points
    assert point.bytes_read is not None
    assert point.bytes_read < 0.5 * point.bytes_streamed
    assert point.bound_by != "disk"
    assert "1 of 1 budgets weights came from the page cache" in found.notes[0]


def test_a_call_that_was_disturbed_does_not_change_predictions(
    packed: zoo.Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, real = itertools.count(1), Trace.computed

    def computed(self: Trace) -> list[float]:
        return [1000.0 if next(calls) == 1 else 0.5 for _ in real(self)]

    monkeypatch.setattr(Trace, "computed", computed)
    found = streamrt.tune(packed.path, calls=3, budgets=[None], seconds=300)
    assert found.points[0].predicted == pytest.approx(2.0, rel=0.01)  # four layers


def test_given_budgets_in_any_order(packed: zoo.Packed) -> None:
    found = streamrt.tune(packed.path, calls=1, budgets=["4MiB", 1 << 20, None, "4MiB"])
    assert [point.budget for point in found.points] == [1 << 20, 4 << 20, found.everything]


def test_a_budget_that_is_too_small_is_refused_before_anything_runs(
    packed: zoo.Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streamrt.Model, "__call__", lambda *_: pytest.fail("the model ran"))
    with pytest.raises(BudgetError):
        streamrt.tune(packed.path, budgets=["1MiB", "1KiB"])


def test_no_budget_is_larger_than_the_free_memory(packed: zoo.Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    real = measure.parse_budget
    monkeypatch.setattr(measure, "parse_budget", lambda budget: 2 << 20 if budget == "auto" else real(budget))
    found = streamrt.tune(packed.path, calls=1)
    assert found.points[-1].budget == 2 << 20 < found.everything
    assert any("the largest budget is the memory that was free" in note for note in found.notes)
    monkeypatch.setattr(measure, "parse_budget", lambda budget: 1000)
    with pytest.raises(BudgetError):
        streamrt.tune(packed.path)


def test_after_the_time_only_the_ends_are_measured(packed: zoo.Packed) -> None:
    found = streamrt.tune(packed.path, seconds=0.0)
    measured = [point for point in found.points if point.seconds is not None]
    assert measured == [found.points[0], found.points[-1]]
    assert {point.calls for point in measured} == {1}
    assert measured[-1].bytes_read == 0  # the call that brought weights in is not counted
    left = [point for point in found.points if point.seconds is None]
    assert len(left) >= 3
    assert all(point.predicted > 0 and point.bound_by is point.bytes_read is None for point in left)
    assert f"{len(left)} of {len(found.points)} budgets were not measured" in " ".join(found.notes)


def test_an_interrupt_leaves_what_was_measured(packed: zoo.Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, real = itertools.count(1), streamrt.Model.__call__

    def call(self: streamrt.Model, *arguments: Any) -> Any:
        if next(calls) == 8:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(streamrt.Model, "__call__", call)
    with Tuner(packed.path, calls=2) as tuner:
        with pytest.raises(KeyboardInterrupt):
            tuner.run()
        found = tuner.result()
    assert 1 <= sum(point.seconds is not None for point in found.points) < len(found.points)


def test_inputs_of_the_caller(packed: zoo.Packed, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    real = streamrt.Model.__call__

    def call(self: streamrt.Model, x: Any, *rest: Any) -> Any:
        seen.append(x)
        return real(self, x, *rest)

    monkeypatch.setattr(streamrt.Model, "__call__", call)
    x = zoo.random_input(3, 256)
    found = streamrt.tune(packed.path, inputs=x, calls=1, budgets=["2MiB"])
    assert found.shapes == {"input": (3, 256)}
    assert all(each is x for each in seen)
    assert seen
    with pytest.raises(InputError, match="expected shape"):
        streamrt.tune(packed.path, inputs=np.zeros((3, 9), np.float32))


def test_shapes_of_a_batch(packed: zoo.Packed) -> None:
    found = streamrt.tune(packed.path, shapes=(5, 256), calls=1, budgets=[None])
    assert found.shapes == {"input": (5, 256)}


def test_a_divided_batch_counts_all_its_passes(packed: zoo.Packed) -> None:
    with streamrt.Model(packed.path, budget=None) as model:
        least = model.min_budget((6, 256))
    found = streamrt.tune(packed.path, shapes=(6, 256), calls=2, budgets=[least])
    (point,) = found.points
    assert 0 < point.micro_batch < 6
    assert point.bytes_streamed >= 6 // point.micro_batch * packed.weights
    assert point.bytes_read is not None
    assert point.bytes_read >= 0.9 * point.bytes_streamed


def test_integers_and_masks(tmp_path: Path) -> None:
    from streamrt.format import write
    from streamrt.graph import Graph, Node, TensorSpec

    specs = tuple(TensorSpec(name, ("batch", 2), dtype) for name, dtype in (("ids", "uint8"), ("mask", "bool")))
    nodes = (
        Node("cast", "Cast", ("ids",), ("f",), {"to": "float32"}),
        Node("where", "Where", ("mask", "f", "mask"), ("y",)),
    )
    path = tmp_path / "m.safetensors"
    write(path, Graph(specs, (TensorSpec("y", ("batch", 2)),), nodes), [])
    found = streamrt.tune(path, calls=1)
    assert [point.bound_by for point in found.points] == ["computing"]
    assert found.disk is None


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"calls": 0}, "calls: expected"),
        ({"calls": True}, "calls: expected"),
        ({"within": 1.0}, "within: expected"),
        ({"within": "10%"}, "within: expected"),
        ({"seconds": -1.0}, "seconds: expected"),
        ({"seconds": float("nan")}, "seconds: expected"),
        ({"budgets": []}, "budgets: expected a list"),
        ({"budgets": "64MiB"}, "budgets: expected a list"),
        ({"budgets": ["lots"]}, "size 'lots'"),
        ({"threads": 0}, "threads"),
        ({"io": "rdma"}, "io: expected"),
        ({"shapes": (1, 7)}, "expected shape"),
    ],
)
def test_wrong_arguments(packed: zoo.Packed, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        streamrt.tune(packed.path, **options)


def test_reading_without_a_mapping(packed: zoo.Packed) -> None:
    found = streamrt.tune(packed.path, calls=2, budgets=["1MiB"], io="pread")
    assert found.io == "pread"
    assert found.counted
    (point,) = found.points
    assert point.bytes_read is not None
    assert point.bytes_read >= 0.9 * point.bytes_streamed > 0
