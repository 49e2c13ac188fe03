"""Sums over a call: bytes, times, and whether reading or computing took longer."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple, Self

from streamrt.errors import printable
from streamrt.host.budget import format_size
from streamrt.report.trace import Trace, write_perfetto


@dataclass(frozen=True, slots=True)
class LayerStats:
    """One node's part in a call; times in seconds, sizes in bytes.

    A range that nodes share counts for the first of them: its bytes, its reading, and the time that was waited for it.

    Attributes:
        name: of the node.
        op: its operator.
        parameters: bytes of the parameters that it reads.
        shared: whether another node needs one of its ranges, too.
        weights: bytes of the ranges of the file that count for it. Each reading counts, if it reads them several times.
        compute: time that it computed.
        stall: time that it waited for its ranges.
        read_seconds: time that the prefetch thread spent on its ranges.
        bytes_read: bytes that were requested of the device while they were read. In a first pass the kernel may read
            ahead for later layers.
    """

    name: str
    op: str
    parameters: int
    shared: bool
    weights: int
    compute: float
    stall: float
    read_seconds: float
    bytes_read: int

    @property
    def overlap(self) -> float:
        """The share of its reading that computing hid, from 0 to 1; 1 if it read nothing."""
        return _overlap(self.stall, self.read_seconds)

    @property
    def bound_by(self) -> str:
        """``"reading"`` if it waited longer than it computed, else ``"computing"``."""
        return _bound_by(self.stall, self.compute)

    def to_json(self) -> dict[str, Any]:
        """A JSON object with all of the above."""
        return {**asdict(self), "overlap": self.overlap, "bound_by": self.bound_by}


@dataclass(frozen=True, slots=True)
class PassStats:
    """One call of a model; times in seconds, sizes in bytes.

    Attributes:
        io: how weights were read, ``"mmap"`` or ``"pread"``.
        samples: the batch of the call.
        passes: passes over the weights: more than one when the batch was divided into micro-batches.
        seconds: duration of the passes.
        stall: the part of ``seconds`` in which computing waited for weights.
        read_seconds: time that the prefetch thread took to bring weights in, mostly while others computed.
        bytes_streamed: weights that came in through the window.
        bytes_pinned: weights that were brought in to stay.
        bytes_read: bytes that the device delivered of both; the rest was in the page cache already.
        bytes_by_index: rows of tables that were read one by one, besides; without what checksums took.
        peak_weights: the most bytes of weights that were held at any moment.
        workspace: bytes of activations and scratch.
    """

    io: str
    samples: int
    passes: int
    seconds: float
    stall: float
    read_seconds: float
    bytes_streamed: int
    bytes_pinned: int
    bytes_read: int
    bytes_by_index: int
    peak_weights: int
    workspace: int
    _trace: Trace = field(repr=False, compare=False)

    @classmethod
    def of(cls, trace: Trace, *, io: str, samples: int, peak_weights: int, by_index: int = 0) -> Self:
        """Add up a call's trace. The part of each layer is added up later, by `layers`."""
        items = [item for done in trace.passes for item in done.items]
        # An item that was in memory before the pass began brought nothing in.
        brought = [item for item in items if item.read_end > item.read_start]
        return cls(
            io=io,
            samples=samples,
            passes=trace.count,
            seconds=sum(done.end - done.start for done in trace.passes) * 1e-9,
            stall=sum(item.stall for item in items) * 1e-9,
            read_seconds=sum(item.read_end - item.read_start for item in items) * 1e-9,
            bytes_streamed=sum(item.length for item in items if not item.pinned),
            bytes_pinned=sum(item.length for item in brought if item.pinned),
            bytes_read=sum(item.bytes_read for item in items),
            bytes_by_index=by_index,
            peak_weights=peak_weights,
            workspace=trace.plan.workspace,
            _trace=trace,
        )

    @property
    def layers(self) -> tuple[LayerStats, ...]:
        """The part of each node, in the order of execution."""
        trace = self._trace
        nanoseconds = {kind: [0] * len(trace.nodes) for kind in ("read", "stall", "compute")}
        bytes_read = [0] * len(trace.nodes)
        for span in trace.spans():
            nanoseconds[span.kind][span.node] += span.end - span.start
            bytes_read[span.node] += span.bytes_read
        weights = [0] * len(trace.nodes)
        for owner, r in zip(trace.owners(), trace.plan.ranges, strict=True):
            weights[owner] += r.length * (1 if r.pinned else trace.plan.rounds)
        parameters, sharing = trace.parameters(), trace.sharing()
        return tuple(
            LayerStats(
                name=node.name,
                op=node.op,
                parameters=parameters[index],
                shared=index in sharing,
                weights=weights[index],
                compute=nanoseconds["compute"][index] * 1e-9,
                stall=nanoseconds["stall"][index] * 1e-9,
                read_seconds=nanoseconds["read"][index] * 1e-9,
                bytes_read=bytes_read[index],
            )
            for index, node in enumerate(trace.nodes)
        )

    @property
    def compute(self) -> float:
        """Seconds in which the passes computed, and did not wait."""
        return self.seconds - self.stall

    @property
    def overlap(self) -> float:
        """The share of reading that computing hid, from 0 to 1; 1 if nothing was read."""
        return _overlap(self.stall, self.read_seconds)

    @property
    def bound_by(self) -> str:
        """``"reading"`` if the passes waited longer than they computed, else ``"computing"``."""
        return _bound_by(self.stall, self.compute)

    def to_json(self) -> dict[str, Any]:
        """A JSON object with all of the above, except the layers."""
        own = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "_trace"}
        return {**own, "compute": self.compute, "overlap": self.overlap, "bound_by": self.bound_by}

    def to_markdown(self) -> str:
        """A table with a row for every layer that read or computed, and a last row for the call.

        The weights of a layer are its parameters, the weights of the call all ranges. If a layer shares a range with
        another layer, its row says so, and the reading of that range is in the row of the first of them.
        """
        layers = self.layers
        rows: list[tuple[str, str, str, LayerStats | PassStats]] = [
            (layer.name, layer.op, format_size(layer.parameters) + " (shared)" * layer.shared, layer)
            for layer in layers
            if layer.compute or layer.read_seconds or layer.stall
        ]
        total = format_size(sum(layer.weights for layer in layers))
        lines = [
            "| layer | operator | weights | read | reading, ms | stall, ms | computing, ms | overlap | bound by |",
            "|---|---|--:|--:|--:|--:|--:|--:|---|",
        ]
        for name, op, weights, part in [*rows, ("**all**", "", total, self)]:
            cells = (
                printable(name).replace("|", "\\|"),
                printable(op).replace("|", "\\|"),
                weights,
                format_size(part.bytes_read),
                f"{part.read_seconds * 1e3:.2f}",
                f"{part.stall * 1e3:.2f}",
                f"{part.compute * 1e3:.2f}",
                f"{part.overlap:.0%}",
                part.bound_by,
            )
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)

    def to_perfetto(self, path: str | os.PathLike[str]) -> None:
        """Write the times of reading and computing in Chrome's trace event format, which ui.perfetto.dev opens.

        Raises:
            OSError: the file cannot be written.
        """
        write_perfetto(self._trace, path)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw reading, computing and waiting over time into an image file (.png, .svg, .pdf).

        Raises:
            ImportError: matplotlib is not installed (the extra ``plot``).
            InputError: matplotlib does not know the ending.
            OSError: the file cannot be written.
        """
        from streamrt.report.picture import draw

        draw(self._trace, str(self), path)

    def __str__(self) -> str:
        return (
            f"{self.seconds * 1e3:.1f} ms for {self.samples} sample{'s' * (self.samples != 1)}, "
            f"bound by {self.bound_by}: computed {self.compute * 1e3:.1f} ms, stalled {self.stall * 1e3:.1f} ms, "
            f"{self.overlap:.0%} of reading overlapped; "
            f"streamed {format_size(self.bytes_streamed)}, newly pinned {format_size(self.bytes_pinned)}, "
            f"{format_size(self.bytes_read)} of it from the device ({self.io})"
            f"{f', rows of tables {format_size(self.bytes_by_index)}' if self.bytes_by_index else ''}; "
            f"held at most {format_size(self.peak_weights + self.workspace)}"
        )


class Spent(NamedTuple):
    """Seconds that all calls of an open model took so far. Unlike `PassStats`, they are added up during each call.

    Attributes:
        prepare: planned, waited for memory that the plan needs, and bound kernels to memory.
        stall: waited for weights during passes.
        compute: computed.
    """

    prepare: float = 0.0
    stall: float = 0.0
    compute: float = 0.0

    def since(self, before: Spent) -> Spent:
        """The seconds that were spent after ``before``."""
        return Spent(self.prepare - before.prepare, self.stall - before.stall, self.compute - before.compute)


@dataclass(slots=True)
class LastCall:
    """The times of a call. They are added up when a user asks for them, because for a small model adding takes long."""

    trace: Trace
    io: str
    samples: int
    peak_weights: int
    by_index: int
    _stats: PassStats | None = None

    def stats(self) -> PassStats:
        """The sums; the same object every time."""
        if self._stats is None:
            self._stats = PassStats.of(
                self.trace,
                io=self.io,
                samples=self.samples,
                peak_weights=self.peak_weights,
                by_index=self.by_index,
            )
        return self._stats


def _overlap(stall: float, reading: float) -> float:
    return max(0.0, min(1.0, 1.0 - stall / reading)) if reading > 0 else 1.0


def _bound_by(stall: float, compute: float) -> str:
    return "reading" if stall > compute else "computing"
