"""Measures networks one after the other, each in a process of its own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bench.accuracy import crops
from bench.accuracy.networks import NETWORKS, version
from bench.process import spawn
from bench.process.job import Job
from bench.record import Recorder

#: Seconds after which a network is given up.
_PATIENCE = 3600.0
#: The most inputs, more than there are crops, and those of a quick run.
ALL, QUICK = 1 << 20, 16


def run(names: Iterable[str], data: Path, threads: int, count: int, recorder: Recorder) -> int:
    """Measure these networks with at most ``count`` inputs; returns how many failed.

    A network whose packages, or those of the pictures, are not installed is skipped.
    """
    failures = 0
    for name in names:
        network = NETWORKS[name]
        shipped = [] if network.inputs is None else [picture.package for picture in crops.pictures().values()]
        missing = [package for package in dict.fromkeys([*network.packages, *shipped]) if version(package) is None]
        if missing:
            reason = f"not installed: {', '.join(missing)}"
            print(f"{name}: skipped, {reason}")
            recorder.write("skip", network=name, reason=reason)
            continue
        print(f"{name} ...", flush=True)
        job = Job("accuracy", data=str(data), model=name, threads=threads, batches=(count,))
        outcome = spawn.run(job, limit=_PATIENCE)
        packages = {package: version(package) for package in network.packages}
        status, reason = outcome.status, outcome.reason
        recorder.write("accuracy", network=name, status=status, reason=reason, packages=packages, values=outcome.values)
        if status != "ok":
            print(f"{name}: {status}: {reason}")
            failures += 1
    return failures
