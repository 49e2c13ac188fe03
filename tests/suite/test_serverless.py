"""Measuring a function of AWS Lambda: its times, and each way in which it may end. The functions are small."""

from __future__ import annotations

import os
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bench.models import source
from bench.process.cgroup import Cgroup
from bench.process.job import Job
from bench.process.spawn import Outcome
from bench.scenarios import SCENARIOS, Case
from bench.serverless import function
from markers import needs

pytestmark = pytest.mark.extras
needs("awslambdaric")

MIB = 1 << 20
#: Answers with the event's own tensor.
ECHO = """
    def handler(event, context):
        return {"outputs": event["inputs"]}
"""
Run = Callable[..., Outcome]


@pytest.fixture
def group(memory_cgroup: Callable[[int | None], AbstractContextManager[Cgroup]]) -> Iterator[Cgroup]:
    with memory_cgroup(128 * MIB) as found:
        yield found


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: Cgroup) -> Run:
    """``run(code)`` measures the function of this code, as a peer; the right answer is the input."""
    model = source("mlp-2x8", tmp_path)
    model.folder.mkdir()
    np.save(model.answer(2), model.input(2).astype(np.float64))

    def measure(
        code: str, limit: float = 60.0, sampler: Callable[[int], None] | None = None, **fields: float
    ) -> Outcome:
        (tmp_path / "handler.py").write_text(textwrap.dedent(code))
        peer = SimpleNamespace(function=lambda source, folder, threads: (tmp_path, {"OWN": f"{folder.name} {threads}"}))
        monkeypatch.setattr(function, "peers", lambda: {"a peer": peer})
        case = Case("serverless", ("steady",), "mlp-2x8", 2, 256 * MIB)
        job = Job("serverless", str(tmp_path), "a peer", "mlp-2x8", batches=(2,), environ=function.told(case), **fields)
        return function.run(job, group=group, limit=limit, sampler=sampler)

    return measure


def test_times(run: Run) -> None:
    slow = f"import time\ntime.sleep(0.3)\n{textwrap.dedent(ECHO)}"
    outcome = run(slow, seconds=0.0, least_passes=4)
    assert outcome.status == "ok", outcome.reason
    values = outcome.values
    assert values["error"] == 0
    assert values["opening"] > 0.3
    assert 0 < values["first"] < values["opening"]
    assert values["to_first_output"] == pytest.approx(values["opening"] + values["first"])
    assert values["steady"]["count"] == 4
    assert 0 < values["steady"]["least"] <= values["steady"]["median"] < 0.3
    assert run(ECHO, seconds=0.0, least_passes=0).values["steady"] is None


def test_what_a_function_is_told(run: Run, group: Cgroup) -> None:
    code = f"""
    import os

    assert os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "256"
    assert os.environ["OWN"] == "a-peer 1"
    assert os.environ["OMP_NUM_THREADS"] == "1"
    assert len(os.sched_getaffinity(0)) == 1
    assert str(os.getpid()) in open("{group.procs}").read().split()
    """
    outcome = run(textwrap.dedent(code) + textwrap.dedent(ECHO))
    assert outcome.status == "ok", outcome.reason


def test_a_wrong_answer_has_its_error(run: Run) -> None:
    code = """
    import base64

    def handler(event, context):
        (given,) = event["inputs"]
        return {"outputs": [given | {"base64": base64.b64encode(bytes(64)).decode()}]}
    """
    assert run(code).values["error"] == 1


@pytest.mark.parametrize("when", ["start", "event"])
def test_a_function_without_memory_was_killed(run: Run, when: str) -> None:
    fill = 'held = [bytearray(b"x" * (1 << 20)) for _ in range(256)]'
    code = f"{fill}\n{textwrap.dedent(ECHO)}" if when == "start" else f"def handler(event, context):\n    {fill}"
    outcome = run(code)
    assert (outcome.status, outcome.reason) == ("killed", "killed because no memory was left")


def test_a_slow_function(run: Run, group: Cgroup) -> None:
    begin = time.monotonic()
    outcome = run("import time\n\ndef handler(event, context):\n    time.sleep(600)", limit=1.5)
    assert (outcome.status, outcome.reason) == ("slow", "given up after 2 s")
    assert time.monotonic() - begin < 300
    assert group.procs.read_text() == ""


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ValueError('no model')", "no model"),
        ("def handler(event, context):\n    raise ValueError('no answer')", "no answer"),
        ("def handler(event, context):\n    import os\n    print('goodbye')\n    os._exit(3)", "goodbye"),
    ],
)
def test_a_function_that_fails(run: Run, code: str, reason: str) -> None:
    outcome = run(code)
    assert outcome.status == "error"
    assert reason in outcome.reason


def test_its_memory_is_sampled(run: Run) -> None:
    seen = set[int]()
    code = f"import time\ntime.sleep(0.5)\n{textwrap.dedent(ECHO)}"
    assert run(code, sampler=seen.add).status == "ok"
    (pid,) = seen
    assert pid != os.getpid()


def test_only_cases_of_functions_are_told_a_memory() -> None:
    assert function.told(Case("passes", ("steady",), "mlp-2x8", cap=256 * MIB)) == ()
    for case in (*SCENARIOS["serverless"].cases, *SCENARIOS["serverless"].quick):
        assert function.told(case) == ((function.MEMORY, str(case.cap // MIB)),)
