"""Random models from packing to answers, under random budgets. Memory is checked at every step of every pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import streamrt
from end_to_end.graphs import Drawn, models
from end_to_end.reference import evaluate
from format import version1
from model import zoo
from plan import earlier
from streamrt._core import Mapping, Prefetcher, Step, isa
from streamrt.engine import session

#: What a call returns: the output, or several by name.
Answer = NDArray[np.float32] | dict[str, NDArray[np.float32]]
#: The largest error of an answer, relative to the largest magnitude in the model: the rounding of Winograd's algorithm.
TOLERANCE = 1e-5
#: Seconds that a release may take: a quiet machine needs 0.003 s. No more, because a failing case runs many times.
SETTLED = 10
CASES = max(200, hypothesis.settings.default.max_examples)


class Watch:
    """Checks the memory that a model holds before every step of its passes."""

    def __init__(self, model: streamrt.Model, file: Mapping) -> None:
        self._model, self._file = model, file
        self._run_steps = session.run_steps
        self.steps = 0

    def run_steps(
        self,
        steps: list[Step],
        prefetcher: Prefetcher,
        arrived: Callable[[int], None] | None = None,
        stepped: Callable[[int], object] | None = None,
    ) -> bytes:
        plan = self._model.plan
        allowed = plan.pinned_bytes + plan.window
        assert plan.budget is None or allowed + plan.workspace <= plan.budget

        def watched(step: Step) -> Step:
            def run(first: int, last: int) -> None:
                self.steps += 1
                assert prefetcher.held() <= prefetcher.peak() <= allowed
                if self._model_is_mapped:
                    for item in step.waits:
                        needed = plan.ranges[item]
                        assert self._file.resident(needed.offset, needed.length) == needed.length
                    # Pages that this thread looks at may outlive their release for a moment.
                    zoo.eventually(lambda: self._file.resident() <= allowed, SETTLED)
                step.run(first, last)

            return zoo.with_run(step, run)

        times = self._run_steps([watched(step) for step in steps], prefetcher, arrived, stepped)
        assert prefetcher.peak() <= allowed
        return times

    @property
    def _model_is_mapped(self) -> bool:
        return self._model._engine.mapping.io == "mmap"


@contextmanager
def watched(model: streamrt.Model, file: Mapping) -> Iterator[Watch]:
    watch = Watch(model, file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "run_steps", watch.run_steps)
        yield watch


@st.composite
def calls(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Up to four calls: samples, indices of tensors (none: the model's outputs), and the budget from then on.

    A budget is a number from 0 (the least budget) to 1 (the budget that holds everything). More than 1 stands for None.
    """
    part = st.sampled_from([0.0, 0.0, 0.05, 0.3, 0.7, 1.0, 2.0]) | st.floats(0, 1)
    call = st.fixed_dictionaries(
        {"samples": st.integers(1, 9), "outputs": st.lists(st.integers(0, 99), max_size=2), "budget": part}
    )
    return draw(st.lists(call, min_size=1, max_size=4))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("random") / "model.safetensors"


@settings(max_examples=CASES, suppress_health_check=[HealthCheck.too_slow])
@given(
    drawn=models(),
    calls=calls(),
    io=st.sampled_from(["mmap", "pread"]),
    threads=st.integers(1, 2),
    verify=st.sampled_from([None, None, "open", "read"]),
    exact=st.booleans(),
)
def test_any_model_under_any_budget(
    path: Path, drawn: Drawn, calls: list[dict[str, Any]], io: str, threads: int, verify: str | None, exact: bool
) -> None:
    streamrt.pack(drawn.model, path)
    zoo.evict(path)
    asked = _asked(path, drawn, calls, exact)
    with Mapping(path) as file:
        with (
            streamrt.Model(path, asked[0].budget, io=io, threads=threads, verify=verify, exact=exact) as model,
            watched(model, file) as watch,
        ):
            for call in asked:
                if model.budget != call.budget:
                    model.set_budget(call.budget)
                _compare(model(call.x, call.outputs), drawn, call)
            assert watch.steps > 0
        zoo.eventually(lambda: file.resident() == 0, SETTLED)


@settings(max_examples=CASES, suppress_health_check=[HealthCheck.too_slow])
@given(drawn=models(), samples=st.integers(1, 3))
def test_a_file_of_version_1_computes_the_same_and_needs_no_less(path: Path, drawn: Drawn, samples: int) -> None:
    old = path.with_suffix(".old")
    streamrt.pack(drawn.model, path)
    before, now = earlier.least_budgets(path, old)
    assert now <= before
    version1.convert(path, old)
    x = zoo.random_input(samples, *drawn.sample)
    with streamrt.Model(old) as one, streamrt.Model(path) as other:
        _have_the_same_bits(one(x), other(x))


@settings(max_examples=CASES, suppress_health_check=[HealthCheck.too_slow])
@given(drawn=models(), samples=st.integers(1, 9), exact=st.booleans())
def test_any_number_of_threads_computes_the_same_bits(path: Path, drawn: Drawn, samples: int, exact: bool) -> None:
    """BLAS, which computes products where there are no kernels for the processor, rounds in another way."""
    bits = isa() not in ("scalar", "numpy")
    streamrt.pack(drawn.model, path)
    x = zoo.random_input(samples, *drawn.sample)
    with streamrt.Model(path, None, threads=1, exact=exact) as model:
        wanted = model(x)
    for threads in (2, 3):
        with streamrt.Model(path, None, threads=threads, exact=exact) as model:
            found = model(x)
        if bits:
            _have_the_same_bits(found, wanted)
        else:
            _compare(found, drawn, Asked(x, None, None))


def _have_the_same_bits(found: Answer, wanted: Answer) -> None:
    one, other = ({"": answer} if isinstance(answer, np.ndarray) else answer for answer in (found, wanted))
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name], equal_nan=True) for name in one)


@settings(max_examples=CASES, suppress_health_check=[HealthCheck.too_slow])
@given(
    drawn=models(),
    calls=calls(),
    weights=st.sampled_from(["float16", "bfloat16", "int8", "int4"]),
    io=st.sampled_from(["mmap", "pread"]),
    verify=st.sampled_from([None, "open", "read"]),
)
def test_weights_in_fewer_bytes_compute_as_the_float32_that_they_mean(
    path: Path, drawn: Drawn, calls: list[dict[str, Any]], weights: str, io: str, verify: str | None
) -> None:
    plain = path.with_suffix(".float32")
    streamrt.pack(drawn.model, path, weights=weights)
    streamrt.pack(path, plain, weights="float32")
    zoo.evict(path)
    asked = _asked(path, drawn, calls, exact=False)
    with (
        Mapping(path) as file,
        streamrt.Model(path, asked[0].budget, io=io, verify=verify) as model,
        streamrt.Model(plain, None) as other,
    ):
        for call in asked:
            if model.budget != call.budget:
                model.set_budget(call.budget)
            with watched(model, file):
                found = model(call.x, call.outputs)
            wanted = other(call.x, call.outputs)
            if not isinstance(found, dict):
                found, wanted = {"": found}, {"": wanted}
            scale = max(1.0, *(float(np.abs(value).max()) for value in evaluate(drawn.model, call.x).values()))
            for name, values in found.items():  # a batch that is divided is rounded differently
                np.testing.assert_allclose(values, wanted[name], rtol=0, atol=TOLERANCE * scale, err_msg=name)


@dataclass(frozen=True)
class Asked:
    """A call: its input, the names of the tensors that are asked for, and the budget in bytes."""

    x: NDArray[np.float32]
    outputs: list[str] | None
    budget: int | None


def _asked(path: Path, drawn: Drawn, calls: list[dict[str, Any]], exact: bool) -> list[Asked]:
    asked, before = [], 0
    with streamrt.Model(path, None, exact=exact) as model:
        kept = [name for node in model._engine.file.graph.nodes for name in node.outputs if name in drawn.computed]
        for seed, call in enumerate(calls):
            x = zoo.random_input(call["samples"], *drawn.sample, seed=seed)
            outputs = sorted({kept[index % len(kept)] for index in call["outputs"]}) or None
            minimum = model.min_budget(x.shape, outputs)
            least = max(minimum, before)  # a new budget must be enough for the previous call, too
            most = max(least, model.plan_for(x.shape, outputs).total)
            budget = None if call["budget"] > 1 else least + int(call["budget"] * (most - least))
            asked.append(Asked(x, outputs, budget))
            before = minimum
    return asked


def _compare(found: Any, drawn: Drawn, call: Asked) -> None:
    wanted = evaluate(drawn.model, call.x)
    names = call.outputs or [value.name for value in drawn.model.graph.output]
    scale = max(1.0, *(float(np.abs(value).max()) for value in wanted.values()))
    for name in names:
        values = found[name] if len(names) > 1 else found
        assert values.shape == wanted[name].shape
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, wanted[name], rtol=0, atol=TOLERANCE * scale, err_msg=name)
