"""The strip that a section computes now: its visits are bound once, and ask which columns they read and write.

If a program has one section that is wide enough for strips, each strip is a *round*: it runs all steps of the program.
Those of nodes before the section compute in the first round, and those of nodes behind it in the last. So strips take
no memory for steps. If there are several such sections, the visits of each are steps once a strip.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from streamrt.ops import Run
from streamrt.ops.rows import Part
from streamrt.program.strips import Strips


@dataclass(slots=True)
class Current:
    """The ``strip`` that runs, by its number, which is also that of the round. The thread that runs a pass sets it."""

    strip: int = 0


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a section.

    Attributes:
        name: of the tensor.
        strips: of the section; None if all columns are computed at once.
        current: which strip runs.
    """

    name: str
    strips: Strips | None
    current: Current

    @property
    def held(self) -> tuple[slice, ...]:
        """The columns that the strip has; () for all."""
        return (self.strips.held(self.current.strip, self.name),) if self.strips else ()

    @property
    def own(self) -> tuple[slice, ...]:
        """The columns that no other strip is taken for; () for all."""
        return (self.strips.own(self.current.strip, self.name),) if self.strips else ()

    @property
    def within(self) -> slice:
        """Where the line buffer has the strip's own columns."""
        if self.strips is None:
            return slice(None)
        (own,), begin = self.own, self.strips.begin(self.current.strip, self.name)
        return slice(own.start - begin, own.stop - begin)

    @property
    def part(self) -> Part | None:
        """What a node reads of it that collects; None for all."""
        if self.strips is None:
            return None
        own, strip = self.within, self.current.strip
        return Part(own.start, own.stop, begins=strip == 0, ends=strip == self.strips.count - 1)


@dataclass(frozen=True, slots=True)
class Collecting:
    """A visit of a node that collects, which is bound to the columns of the strip.

    Attributes:
        compute_of: binds it.
        tensor: what it reads.
    """

    compute_of: Callable[[Part | None], Run]
    tensor: Tensor
    _bound: dict[Part | None, Run] = field(default_factory=dict)  # the latest alone, because there are many visits

    def __call__(self, first: int, last: int) -> None:
        """Compute tiles of the node, with the columns of the strip that runs."""
        part = self.tensor.part
        if part not in self._bound:
            self._bound.clear()
            self._bound[part] = self.compute_of(part)
        self._bound[part](first, last)


@dataclass(frozen=True, slots=True)
class InRound:
    """A node that computes in one round.

    Attributes:
        current: says which one runs.
        number: of the round.
        run: computes.
    """

    current: Current
    number: int
    run: Run

    def __call__(self, first: int, last: int) -> None:
        """Compute tiles of the node, if its round runs."""
        if self.current.strip == self.number:
            self.run(first, last)


@dataclass(frozen=True, slots=True)
class Beginning:
    """The first visit of a strip, if strips are steps of their own: it says which one runs.

    Attributes:
        current: as of the strip's other visits.
        strip: its number.
        run: the visit.
    """

    current: Current
    strip: int
    run: Run

    def __call__(self, first: int, last: int) -> None:
        """Compute tiles of the node."""
        self.current.strip = self.strip
        self.run(first, last)
