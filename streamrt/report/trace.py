"""The times of a call: reading on one track, waiting and computing on another.

All times are nanoseconds of CLOCK_MONOTONIC, which the prefetch thread and the computing thread share.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from streamrt._core import Report
from streamrt.format import Tensor
from streamrt.format.files import Replacement
from streamrt.graph import Node
from streamrt.plan import Plan

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
        bytes_read: bytes that the device delivered of these.
    """

    kind: Kind
    node: int
    start: int
    end: int
    pinned: bool = False
    length: int = 0
    bytes_read: int = 0


@dataclass(frozen=True, slots=True)
class PassTrace:
    """The times of one pass.

    Attributes:
        start: nanoseconds.
        end: nanoseconds.
        times: of each step, as `streamrt._core.run_steps` returns them.
        items: the prefetcher's report of each item of the schedule.
    """

    start: int
    end: int
    times: bytes
    items: Report

    @property
    def steps(self) -> Iterator[tuple[int, int]]:
        """The nanoseconds at which each step began and ended to compute."""
        times = memoryview(self.times).cast("q")
        return zip(times[::2], times[1::2], strict=True)


@dataclass(frozen=True, slots=True)
class Trace:
    """The passes of a call.

    Attributes:
        passes: in their order; several if the batch was divided.
        steps: the node of each step of a pass, and the items of the schedule that the step waited for.
        nodes: of the graph.
        plan: has the range of each item.
        tensors: the parameters of the file, by name.
    """

    passes: Sequence[PassTrace]
    steps: Sequence[tuple[int, Sequence[int]]]
    nodes: Sequence[Node]
    plan: Plan
    tensors: Mapping[str, Tensor]

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
                found[node] += (end - start) * 1e-9 / len(self.passes)
        return found

    def spans(self) -> Iterator[Span]:
        """All spans, pass by pass: first the spans of reading, then the spans of the steps."""
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

    https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
    """
    track = {kind: thread for thread, (_, kinds) in _THREADS.items() for kind in kinds}
    events: list[dict[str, object]] = [
        {"name": "thread_name", "ph": "M", "pid": 1, "tid": thread, "args": {"name": name}}
        for thread, (name, _) in _THREADS.items()
    ]
    spans = list(trace.spans())
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
