"""``python -m bench serve``: every server with every row, form of tensors and number of connections.

Each measurement is a fresh server and a fresh client. Rounds are outermost, servers take turns, and in each round
another server begins. The floor comes directly after streamrt's server, in batches of the size that formed there.
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

from bench.pool.contenders import rotated
from bench.pool.earlier import NotMadeError
from bench.process import pagecache, spawn
from bench.process.cgroup import Cgroup, NoCgroupError, memory_cgroup
from bench.process.job import Job
from bench.record import Recorder
from bench.serve import environments, models, process
from bench.serve.rows import BESIDE, FLOOR, GRPC, QUICK_ROWS, ROWS, SAMPLES, Options, Row
from bench.serve.servers import DIFFERS, LACKS, MOST, SERVERS, US, start
from bench.serve.tasks import Client

_STARTING = 180.0  # seconds until a server with 50 models must be ready
_LIMIT = 1800  # seconds of a client, of a floor, and of making models
_MIB = 1 << 20
FULL = Options(ROWS, SERVERS)
#: A test of everything, with small networks.
QUICK = Options(QUICK_ROWS, SERVERS, connections=(1, 8), rounds=1, seconds=0.4, least=20)
LINE = "{:18} {:7} {:>4} {:10} {:>10} {:>10} {:>10} {:>10} {:>8} {:>7}"


def run(options: Options, data: Path, recorder: Recorder, onnxruntime: str | None) -> int:
    """Measure, with a line of output for each server; returns how many measurements failed.

    ``onnxruntime`` is the version of ONNX Runtime that the peers get.
    """
    return Run(options, data, recorder).run(onnxruntime)


class Run:
    """The measurements of all rows.

    Attributes:
        failures: how many measurements failed.
    """

    def __init__(self, options: Options, data: Path, recorder: Recorder) -> None:
        self.failures = 0
        self._options, self._data, self._recorder = options, data, recorder
        self._threads = len(os.sched_getaffinity(0))
        self._pythons: dict[str, Path] = {}
        self._bytes: dict[str, int] = {}  # of the weights of each row

    def run(self, onnxruntime: str | None) -> int:
        options = self._options
        self._environments(onnxruntime)
        rows = [row for row in options.rows if self._make(row)]
        print(LINE.format("row", "", "conn", "", "a second", "p50", "p99", "MiB", "batch", "client"), flush=True)
        for index in range(options.rounds):
            for row in rows:
                for wire, connections in product(options.wires, options.connections):
                    if row.has(wire, connections):
                        for server in rotated(self._servers(), index):
                            self._measure(row, wire, connections, server, index)
        return self.failures

    # ---------------------------------------------------------------- before the rounds

    def _environments(self, onnxruntime: str | None) -> None:
        for server in self._options.servers:
            if server == US:
                continue
            try:
                python = environments.interpreter(server, self._data, onnxruntime)
                self._recorder.write("environment", server=server, packages=environments.versions(python))
                self._pythons[server] = python
            except NotMadeError as error:
                print(f"skipped: {server}: {error}", flush=True)
                self._recorder.write("skip", server=server, reason=str(error))
                self.failures += 1
        for (server, wire), note in DIFFERS.items():
            if server in self._pythons and wire in self._options.wires:
                self._recorder.write("note", server=server, wire=wire, note=note)

    def _servers(self) -> list[str]:
        """The servers that were installed."""
        return [server for server in self._options.servers if server == US or server in self._pythons]

    def _make(self, row: Row) -> bool:
        """Make the files of a row; whether that succeeded."""
        made = spawn.run(Job("source", data=str(self._data), model=row.model, batches=(SAMPLES,)), limit=_LIMIT)
        if made.status == "ok":
            made = self._spawn("serve-models", asdict(row))
        if made.status != "ok":
            print(f"{row.name}: the models cannot be made: {made.reason}", flush=True)
            self._recorder.write("row", row=row.name, status=made.status, reason=made.reason)
            self.failures += 1
            return False
        self._bytes[row.name] = made.values["bytes"]
        budget = made.values["bytes"] // row.over if row.over else None
        fields = {"models": row.models, "model": row.model, "weights": made.values["bytes"], "budget": budget}
        self._recorder.write("row", row=row.name, status="ok", capped=row.capped, **fields)
        return True

    # ---------------------------------------------------------------- rounds

    def _measure(self, row: Row, wire: str, connections: int, server: str, index: int) -> None:
        """Run a server and its client, and after streamrt the floor."""
        of: dict[str, Any] = {"row": row.name, "wire": wire, "connections": connections, "round": index}
        if reason := LACKS.get((server, wire)):
            return self._write(server, of, spawn.Outcome("lacks", reason=reason))
        values = self._timed(row, wire, connections, server, of)
        if server != US or row.models > 1 or values is None:
            return None
        formed = max(1, min(round(values.get("batch", 1)), MOST))
        found = self._spawn("serve-floor", asdict(row), batches=(formed,), seconds=self._options.seconds / 4)
        return self._write(FLOOR, of, found)

    def _timed(self, row: Row, wire: str, connections: int, server: str, of: dict[str, Any]) -> dict[str, Any] | None:
        """The values of a server's run; None if it did not end well."""
        port = process.free_port()
        rpc = process.free_port() if wire == GRPC else 0
        with tempfile.TemporaryDirectory(dir=self._data) as folder:
            given = {"port": port, "data": self._data, "scratch": Path(folder), "python": self._pythons.get(server)}
            begun = start(server, row, wire, connections, rpc=rpc, **given)
            told = Client(
                port,
                server,
                wire,
                asdict(row),
                connections,
                self._options.seconds,
                row.least or self._options.least,
                begun.metrics,
                rpc,
            )
            outcome = self._served(row, begun, told)
        self._write(server, of, outcome)
        return outcome.values if outcome.status == "ok" else None

    def _served(self, row: Row, begun: process.Start, told: Client) -> spawn.Outcome:
        """How the client of a fresh server ended."""
        try:
            with ExitStack() as stack:
                group = self._group(stack, row)
                pagecache.make_cold(self._files(row) if row.over else [])
                return self._answered(begun, told, group)
        except NoCgroupError as error:
            return spawn.Outcome("skipped", reason=str(error))
        except (process.NotServingError, pagecache.NotColdError) as error:
            return spawn.Outcome("error", reason=str(error))

    def _answered(self, begun: process.Start, told: Client, group: Cgroup | None) -> spawn.Outcome:
        """How the client of a fresh server in a group ended, or how the kernel killed the server."""
        try:
            with process.serving(begun, told.port, group=group, threads=self._threads, limit=_STARTING) as server:
                outcome = self._spawn("serve-client", json.loads(told.to_json()))
                memory = {"memory": server.memory(), "cgroup_peak": group.peak() if group else None}
                if outcome.status != "ok":
                    raise ValueError(outcome.reason)  # the server may be the reason
        except process.KilledError as error:
            peak = {"cgroup_peak": group.peak()} if group else {}
            return spawn.Outcome("killed", peak, str(error), error.seconds)
        return _judged(outcome, memory)

    def _group(self, stack: ExitStack, row: Row) -> Cgroup | None:
        """The cgroup of a server. Where no group can be made, only rows with a cap need one."""
        limit = self._bytes[row.name] // (row.over or 1) + BESIDE if row.capped else None
        try:
            return stack.enter_context(memory_cgroup(limit))
        except NoCgroupError:
            if row.capped:
                raise
            return None

    def _files(self, row: Row) -> list[Path]:
        """The files that servers of a row read, with the external data of ONNX files."""
        beside = [path.parent for path in models.onnx_files(row, self._data).values()]
        return [path for folder in (models.packed(row, self._data), *beside) for path in folder.iterdir()]

    def _spawn(self, kind: str, told: dict[str, Any], **fields: Any) -> spawn.Outcome:
        """Run a job that is told its fields by a file."""
        with tempfile.TemporaryDirectory(dir=self._data) as folder:
            file = Path(folder) / "told.json"
            file.write_text(json.dumps(told))
            job = Job(kind, data=str(self._data), file=str(file), threads=self._threads, **fields)
            return spawn.run(job, limit=_LIMIT)

    def _write(self, server: str, of: dict[str, Any], outcome: spawn.Outcome) -> None:
        fields: dict[str, Any] = {"status": outcome.status, "reason": outcome.reason, "values": outcome.values}
        if outcome.status == "killed":
            fields |= {"values": {}, "ended": {"seconds": outcome.seconds} | outcome.values}
        self._recorder.write("timing", server=server, **of, **fields)
        about = f"{of['row']:18} {of['wire']:7} {of['connections']:>4} {server:10}"
        if outcome.status != "ok":
            print(f"{about} {outcome.status}: {outcome.reason}", flush=True)
            # A peer that does not fit under the cap is a result, because it has no budget.
            fine = ("lacks", "skipped") if server == US else ("lacks", "skipped", "killed")
            self.failures += outcome.status not in fine
        elif server == FLOOR:
            rates = ", ".join(f"{rate:.1f} a second in {batch}" for batch, rate in outcome.values["rates"].items())
            print(f"{about} a call takes {outcome.values['call'] * 1e3:.2f} ms; {rates}", flush=True)
        else:
            print(_told(of, server, outcome.values), flush=True)


def _judged(outcome: spawn.Outcome, memory: dict[str, Any]) -> spawn.Outcome:
    """An outcome with wrong or refused answers did not end well."""
    values = outcome.values | memory
    if "failed" not in values:
        return spawn.Outcome("wrong", values, f"the error of its answers is {values['error']:.1e}")
    if values["failed"] or not values["count"]:
        refused = ", ".join(f"{count} with {status}" for status, count in values["failed"].items())
        return spawn.Outcome("error", values, f"{values['count']} answers in time; refused: {refused or 'none'}")
    return spawn.Outcome("ok", values)


def _told(of: dict[str, Any], server: str, values: dict[str, Any]) -> str:
    batch = f"{values['batch']:.1f}" if "batch" in values else ""
    times = [f"{values[name] * 1e3:.2f} ms" for name in ("p50", "p99")]
    memory, client = f"{values['memory'] / _MIB:.0f}", f"{values['client']:.0%}"
    return LINE.format(
        of["row"], of["wire"], of["connections"], server, f"{values['rate']:.1f}", *times, memory, batch, client
    )
