"""`Case` and `Scenario`, the parts of which scenarios are made."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20

#: The kind of a case whose process is a function of AWS Lambda (`bench.serverless`).
SERVERLESS = "serverless"
#: Kinds of cases whose processes compute answers to inputs.
ANSWERING = ("passes", SERVERLESS)


@dataclass(frozen=True, slots=True)
class Case:
    """One question for the contenders.

    Attributes:
        kind: the job that answers it: ``"passes"``, ``"profile"``, ``"import"``, ``"open"`` or ``"serverless"``.
        measures: keys of the job's answer that the report shows, in seconds; plots show the first.
        model: a source's name; empty for ``"import"``.
        batch: samples of a call.
        cap: bytes of the memory cgroup that the process runs in; None for no cap.
        budget: streamrt's budget; ``"least"`` is the smallest with which the case works, and ``"1/16 of the file"``
            that part of the weights file.
        cold: whether no page of the weights is in the page cache when the process starts.
        callers: threads that call at the same time, each with the whole batch.
        verify: whether streamrt compares weights with their checksums as they arrive.
        alone: whether only streamrt is measured, in all of its ways that take part.
    """

    kind: str
    measures: tuple[str, ...]
    model: str = ""
    batch: int = 1
    cap: int | None = None
    budget: str | None = None
    cold: bool = False
    callers: int = 1
    verify: bool = False
    alone: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        """Modules that it needs, whoever answers it."""
        return ("awslambdaric",) if self.kind == SERVERLESS else ()

    @property
    def label(self) -> str:
        """A text that differs from the labels of the scenario's other cases."""
        parts = [self.model or self.kind]
        if self.kind == "open":
            parts = [f"open {self.model}"]
        if self.cap is not None:
            parts.append(f"cap {self.cap // MIB} MiB")
        elif self.kind == "passes" and self.budget not in (None, "auto"):
            parts.append(f"budget {self.budget}")
        if self.kind in ("passes", "profile"):
            parts.append(f"batch {self.batch}")
        if self.kind == "profile":
            parts.append("profiled")
        if self.callers > 1:
            parts.append(f"{self.callers} callers")
        if self.verify:
            parts.append("verified")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Scenario:
    """Cases that belong together.

    Attributes:
        name: its name for ``run``.
        title: its name in the report.
        says: one or two sentences about the measurement.
        cases: all cases.
        quick: the same questions about smaller models, to see that everything works.
        rounds: how often each variant is measured.
        seconds: how long steady passes are measured in one process.
        patience: seconds after which a measured process is ended; the slowest process that ends by itself takes 1/3 of
            them.
        limits: whether the rows are compared with T*.
        peak: whether the peak of the multiply-add units is measured in every round.
        weigh: whether the memory of passes is sampled.
        frugal: whether peers that hold fewer weights at the cost of speed take part.
        peers: names of the contenders that take part; None for all that are not optional.
        also: names of optional contenders that take part.
        memory: whether it is about memory alone, so that plots and the table of all cases leave its times out.
        coded: whether the contenders store weights in different types, so that the report tells their errors and
            leaves the scenario out of the table of all cases, which compares float32 with float32.
        chart: whether the report also draws its seconds against its memory, with one sample.
        headlines: labels of the cases that are rows of the README; they do not depend on results.
    """

    name: str
    title: str
    says: str
    cases: tuple[Case, ...]
    quick: tuple[Case, ...]
    rounds: int = 3
    seconds: float = 2.0
    patience: float = 60.0
    limits: bool = True
    peak: bool = False
    weigh: bool = True
    frugal: bool = True
    peers: frozenset[str] | None = None
    also: frozenset[str] = frozenset()
    memory: bool = False
    coded: bool = False
    chart: bool = False
    headlines: tuple[str, ...] = ()
