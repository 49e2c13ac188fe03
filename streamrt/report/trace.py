"""The times of a call: reading on one track, waiting and computing on another.

All times are nanoseconds of CLOCK_MONOTONIC, which the prefetch thread and the computing thread share.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from streamrt._core import ItemReport, Report
from streamrt.format import Tensor
from streamrt.format.files import Replacement
from streamrt.graph import Node
from streamrt.plan import Plan

#: Steps and items of rounds whose times are kept one by one, 2 MiB: a pass may have millions.
_MOST_KEPT = 1 << 15
#: Bytes of the times of a step.
_TIMES = 16

Kind = Literal["read", "stall", "compute"]


class Span(NamedTuple):
    """A time in which one thread read, waited or computed for one node.

    Attributes:
        kind: of activity.
        node: index of the node.
        start: nanoseconds.
        end: nanoseconds.
        pinned: whether it read a pinned range.
        length: bytes that it brought into memory.
        bytes_read: bytes that were requested of the device meanwhile. In a first pass the kernel may read ahead.
    """

    kind: Kind
    node: int
    start: int
    end: int
    pinned: bool = False
    length: int = 0
    bytes_read: int = 0


class PassTrace(NamedTuple):
    """The times of one pass, or of a round of it (`Program.rounds`), or of several rounds.

    Attributes:
        start: nanoseconds.
        end: nanoseconds.
        times: of each step, as `streamrt._core.run_steps` returns them.
        items: the prefetcher's report of each item of the schedule.
        rounds: the number of rounds. With several, each step and item has the sum of its times, and begins where it
            began in the first of them.
    """

    start: int
    end: int
    times: bytes
    items: Report | SummedItems
    rounds: int = 1

    @property
    def steps(self) -> Iterator[tuple[int, int]]:
        """The nanoseconds at which each step began and ended to compute."""
        times = memoryview(self.times).cast("q")
        return zip(times[::2], times[1::2], strict=True)


class SummedItems(list[ItemReport]):
    """The sums of the reports of several rounds, by item. A pinned item is brought once at most."""

    @property
    def brought(self) -> bool:
        """As of `streamrt._core.Report`."""
        return any(item.read_end > item.read_start for item in self)

    @property
    def stall(self) -> int:
        """As of `streamrt._core.Report`."""
        return sum(item.stall for item in self)

    def add(self, items: Iterable[ItemReport]) -> None:
        """Add those of another round."""
        for index, new in enumerate(items):
            old = self[index]
            if new.pinned and new.read_end == new.read_start and new.stall == 0:
                continue  # as most are
            self[index] = old._replace(
                length=old.length if old.pinned else old.length + new.length,
                bytes_read=old.bytes_read + new.bytes_read,
                read_start=old.read_start or new.read_start,
                read_end=(old.read_end or new.read_start) + new.read_end - new.read_start,
                stall=old.stall + new.stall,
            )


class Rounds:
    """The traces of the rounds of a pass, as many as `_MOST_KEPT` allows, and one with the sums of all others."""

    def __init__(self) -> None:
        self._kept: list[PassTrace] = []
        self._parts = 0  # of those that are kept
        self._sums: PassTrace | None = None

    def add(self, done: PassTrace) -> None:
        """Add the next round."""
        self._parts += len(done.times) // _TIMES + len(done.items)
        if not self._kept or (self._sums is None and self._parts <= _MOST_KEPT):
            self._kept.append(done)
        elif self._sums is None:
            self._sums = done._replace(items=SummedItems(done.items))
        else:
            self._sums = _joined(self._sums, done)

    def traces(self) -> list[PassTrace]:
        """Those of all rounds."""
        return [*self._kept, *([self._sums] if self._sums else [])]


def _joined(sums: PassTrace, done: PassTrace) -> PassTrace:
    """``sums`` with one more round, whose items are added in place."""
    assert isinstance(sums.items, SummedItems)
    sums.items.add(done.items)
    own, new = (np.frombuffer(each.times, np.int64) for each in (sums, done))
    times = own.copy()
    times[1::2] += new[1::2] - new[::2]
    return PassTrace(sums.start, done.end, times.tobytes(), sums.items, sums.rounds + done.rounds)


@dataclass(frozen=True, slots=True)
class Trace:
    """The passes of a call.

    Attributes:
        passes: in their order; several if the batch was divided, or if there are rounds.
        steps: the node of each step of a round, and the items of the schedule that the step waited for.
        nodes: of the graph.
        plan: has the range of each item.
        tensors: the parameters of the file, by name.
    """

    passes: Sequence[PassTrace]
    steps: Sequence[tuple[int, Sequence[int]]]
    nodes: Sequence[Node]
    plan: Plan
    tensors: Mapping[str, Tensor]

    @property
    def count(self) -> int:
        """The number of passes, of all their rounds."""
        return sum(done.rounds for done in self.passes) // self.plan.rounds

    @property
    def single(self) -> Trace:
        """Without the rounds of which there are only sums."""
        return replace(self, passes=[done for done in self.passes if done.rounds == 1])

    def parameters(self) -> list[int]:
        """Bytes of the parameters that each node reads."""
        sizes = {name: tensor.nbytes for name, tensor in self.tensors.items()}
        return [sum(sizes.get(name, 0) for name in set(node.inputs)) for node in self.nodes]

    def sharing(self) -> set[int]:
        """The nodes that share a range with another node."""
        users: list[set[int]] = [set() for _ in self.plan.ranges]
        for tile in self.plan.tiles:
            for index in range(tile.begin, tile.end):
                users[index].add(self.plan.node_of(tile))
        return {node for nodes in users if len(nodes) > 1 for node in nodes}

    def owners(self) -> list[int]:
        """The node that each item counts for: the first node that needs it."""
        found = [0] * len(self.plan.ranges)
        for tile in reversed(self.plan.tiles):
            found[tile.begin : tile.end] = [self.plan.node_of(tile)] * (tile.end - tile.begin)
        return found

    def computed(self) -> list[float]:
        """Average seconds that each node computed in a pass."""
        found = [0.0] * len(self.nodes)
        for done in self.passes:
            for (node, _), (start, end) in zip(self.steps, done.steps, strict=True):
                found[node] += (end - start) * 1e-9 / self.count
        return found

    def spans(self) -> Iterator[Span]:
        """All spans, pass by pass: first the spans of reading, then the spans of the steps. Some may be sums."""
        owners = self.owners()
        for done in self.passes:
            for owner, item in zip(owners, done.items, strict=True):
                if item.read_end > item.read_start:
                    yield Span("read", owner, item.read_start, item.read_end, item.pinned, item.length, item.bytes_read)
            for (node, waits), (start, end) in zip(self.steps, done.steps, strict=True):
                stall = sum(done.items[index].stall for index in waits)
                if stall:
                    yield Span("stall", node, start - stall, start)
                yield Span("compute", node, start, end)


#: Tracks of a trace viewer from top to bottom: the name and the kinds of span on each.
_THREADS: dict[int, tuple[str, tuple[Kind, ...]]] = {1: ("reading", ("read",)), 2: ("computing", ("stall", "compute"))}


def write_perfetto(trace: Trace, path: str | os.PathLike[str]) -> None:
    """Write ``trace`` in Chrome's trace event format, which Perfetto and chrome://tracing open.

    Rounds of which there are only sums are left out.

    https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
    """
    track = {kind: thread for thread, (_, kinds) in _THREADS.items() for kind in kinds}
    events: list[dict[str, object]] = [
        {"name": "thread_name", "ph": "M", "pid": 1, "tid": thread, "args": {"name": name}}
        for thread, (name, _) in _THREADS.items()
    ]
    spans = list(trace.single.spans())
    begin = min((span.start for span in spans), default=0)
    for span in spans:
        node = trace.nodes[span.node]
        event: dict[str, object] = {
            "name": "stall" if span.kind == "stall" else node.name,
            "cat": span.kind,
            "ph": "X",
            "pid": 1,
            "tid": track[span.kind],
            "ts": (span.start - begin) / 1e3,  # microseconds, as ``dur`` is
            "dur": (span.end - span.start) / 1e3,
            "args": {"node": node.name, "op": node.op},
        }
        if span.kind == "read":
            event["args"] = {
                "node": node.name,
                "op": node.op,
                "bytes": span.length,
                "bytes_from_device": span.bytes_read,
                "pinned": span.pinned,
            }
        events.append(event)
    text = json.dumps({"traceEvents": events, "displayTimeUnit": "ms"})
    with Replacement(os.fspath(path)) as file:
        file.write(text.encode(), 0)
        file.commit()
