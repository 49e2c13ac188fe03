"""A job in its own process: the ways in which it can end, its environment, and the samples of its memory."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.process import spawn
from bench.process.job import Job
from bench.process.pagecache import make_cold

MIB = 1 << 20
JOB = Job("passes", data="/data", peer="numpy", modules=("a", "b"), batches=(1, 64), threads=3, budget="64MiB")

MakeChild = Callable[[str], None]


def test_the_answer_comes_back(child: MakeChild) -> None:
    child("answer({'seconds': 0.5, 'facts': {'layers': [['a', 1, None]]}, 'error': float('inf')})")
    outcome = spawn.run(JOB)
    assert (outcome.status, outcome.reason) == ("ok", "")
    assert outcome.values == {"seconds": 0.5, "facts": {"layers": [["a", 1, None]]}, "error": float("inf")}


def test_the_job_arrives(child: MakeChild) -> None:
    child("answer(job)")
    values = spawn.run(JOB).values
    assert values == json.loads(json.dumps(dataclasses.asdict(JOB)))
    assert Job.from_json(json.dumps(values)) == JOB


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("print('before', file=sys.stderr)\nraise ValueError('no such thing')", "ValueError: no such thing"),
        ("os._exit(3)", "ended with status 3"),
        ("os._exit(0)", "ended with status 0"),  # without an answer
        ("answer({})\nos._exit(1)", "ended with status 1"),
        ("os.kill(os.getpid(), 9)", "ended by SIGKILL"),
        ("os.write(2, b'x' * 100_000 + b'\\nlast: \\xff\\n')\nos._exit(1)", "last: \N{REPLACEMENT CHARACTER}"),
    ],
)
def test_errors(child: MakeChild, code: str, reason: str) -> None:
    child(code)
    outcome = spawn.run(JOB)
    assert (outcome.status, outcome.values, outcome.reason) == ("error", {}, reason)


def test_a_child_that_takes_too_long_ends_with_all_that_it_started(child: MakeChild) -> None:
    child("import time\nos.fork()\ntime.sleep(600)")
    pids: list[int] = []
    outcome = spawn.run(JOB, limit=0.7, sampler=pids.append)
    assert (outcome.status, outcome.values) == ("slow", {})
    assert outcome.seconds >= 0.7
    assert "given up" in outcome.reason
    assert not Path(f"/proc/{pids[0]}").exists()
    assert not alive_in_group(pids[0])


def test_a_child_that_ends_leaves_no_process_behind(child: MakeChild) -> None:
    child("import time\nif os.fork() == 0:\n    os.close(int(sys.argv[1])); os.close(2); time.sleep(600)\nanswer({})")
    pids: list[int] = []
    assert spawn.run(JOB, limit=300, sampler=pids.append).status == "ok"
    assert not alive_in_group(pids[0])


def alive_in_group(group: int) -> list[str]:
    """The processes of a group, without those that are dead and wait for their parent."""
    give_up = time.monotonic() + 60  # a process that was killed takes a moment to die
    while time.monotonic() < give_up:
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, its_group = path.read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(its_group) == group and state not in "ZX":
                found.append(path.parent.name)
        if not found:
            break
        time.sleep(0.01)
    return found


def test_the_environment(child: MakeChild, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("OPENBLAS_CORETYPE", "Prescott"),
        ("OMP_NUM_THREADS", "7"),
        ("BENCH_KEPT", "here"),
        ("STREAMRT_ISA", "scalar"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    child("answer({'environ': dict(os.environ), 'path': sys.path, 'safe': sys.flags.safe_path, 'cwd': os.getcwd()})")
    before = time.monotonic()
    values = spawn.run(JOB).values
    environ = values["environ"]
    assert "OPENBLAS_CORETYPE" not in environ
    assert environ["BENCH_KEPT"] == "here"
    assert "STREAMRT_ISA" not in environ
    forced = spawn.run(dataclasses.replace(JOB, environ=(("STREAMRT_ISA", "numpy"),))).values["environ"]
    assert forced["STREAMRT_ISA"] == "numpy"
    assert [environ[name] for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")] == ["3"] * 3
    assert before <= float(environ["STREAMRT_BENCH_SPAWNED"]) <= time.monotonic()
    assert not {"/somewhere", "", str(Path.cwd())} & set(values["path"])
    assert values["safe"]
    assert values["cwd"] == "/"


def test_noise_does_not_disturb_the_answer(child: MakeChild) -> None:
    """More output than a pipe holds, before and after the answer."""
    child("""
        print("{}" * 100_000, flush=True)
        print("warning" * 100_000, file=sys.stderr, flush=True)
        answer({"value": "y" * 200_000})
        print("{}" * 100_000, "warning" * 100_000, file=sys.stderr, flush=True)
    """)
    outcome = spawn.run(JOB, limit=300)
    assert outcome.status == "ok"
    assert outcome.values == {"value": "y" * 200_000}


def test_the_sampler_sees_the_memory_of_a_child(child: MakeChild, disk: Path) -> None:
    file, seen = disk / "weights", disk / "seen"
    file.write_bytes(os.urandom(8 * MIB))
    make_cold([file])
    child(f"""
        import time
        held, read = b"x" * {64 * MIB}, open({str(file)!r}, "rb").read({4 * MIB})
        while not os.path.exists({str(seen)!r}):
            time.sleep(0.001)
        answer({{}})
    """)
    sampler = spawn.MemorySampler([file])

    def sample(pid: int) -> None:
        sampler(pid)
        # 64 MiB, and the 4 MiB that were read. Those are in memory twice, but not yet while they are copied.
        if sampler.most["anonymous"] >= 68 * MIB and sampler.most["both"] >= 72 * MIB:
            seen.touch()

    assert spawn.run(JOB, limit=120, sampler=sample).status == "ok"
    assert 68 * MIB <= sampler.most["anonymous"] < 100 * MIB
    assert 4 * MIB <= sampler.most["file_pages"] <= 8 * MIB
    assert sampler.most["both"] <= sampler.most["anonymous"] + sampler.most["file_pages"]
    assert sampler.most["resident"] >= sampler.most["anonymous"]


def test_the_sampler_accepts_a_child_that_has_ended() -> None:
    sampler = spawn.MemorySampler([])
    sampler(2**22 + 1)  # above every process number
    assert sampler.most == {"anonymous": 0, "file_pages": 0, "both": 0, "resident": 0}


def test_an_interruption_ends_the_child(child: MakeChild) -> None:
    child("import time\ntime.sleep(600)")
    pids: list[int] = []

    def interrupt(pid: int) -> None:
        pids.append(pid)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        spawn.run(JOB, sampler=interrupt)
    assert not Path(f"/proc/{pids[0]}").exists()
