"""Random pictures under budgets in which their activations do not fit, so that models run in bands of rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import streamrt
from end_to_end.graphs import Drawn, models
from end_to_end.pictures import pictures
from end_to_end.reference import evaluate
from end_to_end.test_random import CASES, TOLERANCE, watched
from kernels.isas import NUMPY, using
from model import zoo
from streamrt import _core
from streamrt._core import Mapping
from streamrt.plan import Plan


@pytest.fixture(scope="module", autouse=True)
def compiled_kernels() -> Iterator[None]:
    """Convolutions of NumPy compute no bands."""
    with using("scalar" if _core.isa() == NUMPY else _core.isa()):
        yield


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bands") / "model.safetensors"


#: What a case has beside its model: parts of the way from the least budget to all, and options of the model.
_OPTIONS = {
    "parts": st.lists(st.floats(0, 1), min_size=1, max_size=3),
    "threads": st.integers(1, 2),
    "verify": st.sampled_from([None, "read"]),
}


@settings(max_examples=CASES, suppress_health_check=[HealthCheck.too_slow])
@given(drawn=st.one_of(models(tall=True), models(wide=True)), **_OPTIONS)
def test_bands_have_the_bits_of_the_whole(path: Path, drawn: Drawn, **options: Any) -> None:
    _compare(path, drawn, **options)


def test_networks_that_go_down_and_up_again(path: Path) -> None:
    runs: list[Plan] = []

    @settings(max_examples=CASES // 2, suppress_health_check=[HealthCheck.too_slow])
    @given(drawn=st.one_of(pictures(), pictures(wide=True)), **_OPTIONS)
    def check(drawn: Drawn, **options: Any) -> None:
        runs.extend(_compare(path, drawn, **options))

    check()
    assert sum(len(plan.bands) > 0 for plan in runs) > len(runs) / 3
    assert any(bands.strips > 1 for plan in runs for bands in plan.bands)


def _compare(path: Path, drawn: Drawn, parts: list[float], threads: int, verify: str | None) -> list[Plan]:
    """Compare answers under some budgets with those without a budget; returns the plans."""
    streamrt.pack(drawn.model, path)
    extents = {"x": drawn.sample, **drawn.others}
    inputs = {name: zoo.random_input(1, *shape, seed=seed) for seed, (name, shape) in enumerate(extents.items())}
    shapes = {name: values.shape for name, values in inputs.items()}
    wanted = evaluate(drawn.model, **inputs)
    names = [value.name for value in drawn.model.graph.output]
    sums = {"GlobalAveragePool", "InstanceNormalization"}.intersection(node.op_type for node in drawn.model.graph.node)
    scale = max(1.0, *(float(np.abs(value).max()) for value in wanted.values()))
    plans = []
    with streamrt.Model(path, None, threads=threads, exact=True) as model:
        whole, least, most = model(inputs), model.min_budget(shapes), model.plan_for(shapes).total
    with Mapping(path) as file:
        for part in (0.0, *parts):
            budget = least + int(part * max(0, most - least))
            with streamrt.Model(path, budget, threads=threads, verify=verify, exact=True) as model:
                with watched(model, file) as watch:
                    found = model(inputs)
                assert watch.steps > 0
                plans.append(model.plan)
            # In strips, sums over a plane are added in another order.
            loose = sums and any(bands.strips > 1 for bands in plans[-1].bands)
            for name in names:
                values, same = (each[name] if len(names) > 1 else each for each in (found, whole))
                np.testing.assert_allclose(values, wanted[name], rtol=0, atol=TOLERANCE * scale, err_msg=name)
                np.testing.assert_allclose(values, same, rtol=0, atol=1e-6 * scale if loose else 0, err_msg=name)
    return plans
