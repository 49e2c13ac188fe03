"""``python tests/fuzz HUNT ...``: the command for all hunts. README.md beside this file tells how to use it."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent
# Hunts import modules from tests/, as tests do. They do not import from this folder: its modules may have names of
# libraries. Nor do they import from the current folder: the package of a checkout there is not compiled.
sys.path[:] = [str(_FOLDER.parent), *(e for e in sys.path if e and Path(e).resolve() != _FOLDER)]

from fuzz.frame import keep, results  # noqa: E402
from fuzz.hunt import PASSED, Hunt  # noqa: E402
from fuzz.state import State  # noqa: E402
from fuzz.worker import Result, outcome_of, rng_of  # noqa: E402

#: Seconds between two saves of the state.
_SAVE = 10.0
#: Cases from which on the share that passes means something.
_TOO_FEW = 200


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python tests/fuzz", description=__doc__)
    parser.add_argument("hunt", help="the hunt: README.md lists them")
    parser.add_argument("--count", type=int, default=1000, metavar="N", help="cases of this run (default %(default)s)")
    parser.add_argument("--minutes", type=float, default=float("inf"), metavar="M", help="stop after M minutes")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the cases (default %(default)s)")
    parser.add_argument(
        "--resume", type=Path, metavar="FILE", help="continue after the runs in this file, and add to it"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="worker processes (default %(default)s)")
    parser.add_argument(
        "--findings",
        type=Path,
        default=Path("findings"),
        metavar="FOLDER",
        help="for failed inputs (default %(default)s)",
    )
    parser.add_argument("--group", type=int, metavar="MIB", help="run all processes in one memory cgroup of MIB MiB")
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--case", type=int, metavar="I", help="run only case I of the seed, in this process")
    one.add_argument("--input", type=Path, metavar="FILE", help="check only this input, in this process")
    one.add_argument("--corpus", action="store_true", help="replay the corpus")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="write the input of --case to FILE, and do not check it"
    )
    return parser.parse_args()


def main() -> int:
    """Run the command; 0 when nothing was found and enough cases got as far as a pass."""
    asked = _arguments()
    hunt: Hunt = importlib.import_module(f"fuzz.{asked.hunt}").HUNT
    if asked.case is not None or asked.input is not None:
        return _one(hunt, asked)
    with _group(asked.group) if asked.group else nullcontext():
        return _corpus(hunt) if asked.corpus else _hunt(hunt, asked)


@contextmanager
def _group(mib: int) -> Iterator[None]:
    """Put this process, and those that it starts, into a memory cgroup. Page cache counts, too."""
    spec = importlib.util.spec_from_file_location("cgroup", _FOLDER.parents[1] / "bench" / "process" / "cgroup.py")
    assert spec and spec.loader  # noqa: PT018
    sys.modules["cgroup"] = cgroup = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cgroup)
    with cgroup.memory_cgroup(mib << 20) as group:
        before = group.path.parent / "cgroup.procs"
        group.procs.write_text(str(os.getpid()))
        try:
            yield
        finally:
            before.write_text(str(os.getpid()))
        if (peak := group.peak()) is not None:
            print(f"the group held at most {peak / (1 << 20):.0f} MiB of {mib}, page cache included", flush=True)


def _one(hunt: Hunt, asked: argparse.Namespace) -> int:
    if asked.write:
        asked.write.write_bytes(hunt.make(rng_of(asked.seed, asked.case)))
        return 0
    path = asked.input and asked.input.resolve()

    def data() -> bytes:
        return path.read_bytes() if path else hunt.make(rng_of(asked.seed, asked.case))

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        hunt.start()
        result = outcome_of(hunt, data)
        os.chdir("/")
    print(result.outcome, result.kind, result.detail, sep="\n")
    return int(result.outcome == "finding")


def _corpus(hunt: Hunt) -> int:
    entries = list(hunt.corpus())
    failed = 0
    for at, result in results(hunt, lambda case: entries[case].data, range(len(entries)), 1, float("inf")):
        failed += result.outcome == "finding"
        print(f"{entries[at].name}: {result.kind or result.outcome} ({entries[at].reason}) {result.detail}", flush=True)
    return int(failed > 0)


def _hunt(hunt: Hunt, asked: argparse.Namespace) -> int:
    state = State.load(hunt.name, asked.resume)
    first = following = state.next.get(str(asked.seed), 0)
    before, begun = state.seconds, time.monotonic()
    saved, until = begun, begun + 60 * asked.minutes
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    def inputs(case: int) -> bytes:
        return hunt.make(rng_of(asked.seed, case))

    def save() -> None:
        state.seconds = before + time.monotonic() - begun
        if asked.resume:
            state.save(asked.resume)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    ended: dict[int, Result] = {}  # results of cases whose predecessor still runs
    for case, result in results(hunt, inputs, range(first, first + asked.count), asked.jobs, until):
        ended[case] = result
        while following in ended:  # in order, so that the state is right if the run is killed
            result = ended.pop(following)
            state.outcomes[result.outcome] += 1
            if result.outcome == "finding":
                new = result.kind not in state.findings
                try:
                    data = inputs(following)
                except Exception:
                    data = None  # making the input has failed
                keep(state, asked.findings, result, f"{asked.seed}-{following}", data)
                if new:
                    print(f"FINDING {result.kind} (case {following} of seed {asked.seed})", flush=True)
            following += 1
            state.next[str(asked.seed)] = following
        if time.monotonic() - saved > _SAVE:
            saved = time.monotonic()
            save()
        if stopped:
            break
    save()
    print(f"this run: {following - first:,} cases in {state.seconds - before:,.0f} s")
    print(state.report())
    few = state.cases >= _TOO_FEW and state.outcomes[PASSED] < hunt.share * state.cases
    if few:
        print(f"FEWER than {hunt.share:.0%} of the cases got as far as a pass: too many inputs are refused")
    return int(bool(state.findings) or few)


if __name__ == "__main__":
    sys.exit(main())
