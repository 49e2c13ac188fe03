"""How a call runs, and what is remembered of the calls before."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from streamrt.errors import BudgetError
from streamrt.graph import Graph
from streamrt.ops import Shape
from streamrt.plan import Plan
from streamrt.program.compile import Program

#: Kinds of call whose programs and plans are remembered. The number is limited because they lie outside the budget.
REMEMBERED = 32

#: Calls are of one kind if they have the same input shapes and request the same outputs.
CallKey = tuple[tuple[tuple[str, Shape], ...], tuple[str, ...]]
#: A budget in bytes or None, and the kind of a call.
Key = tuple[int | None, CallKey]


def key_of(graph: Graph, shapes: Mapping[str, Shape]) -> CallKey:
    """The input shapes and outputs of a call."""
    return tuple(shapes.items()), tuple(spec.name for spec in graph.outputs)


@dataclass(frozen=True, slots=True)
class Prepared:
    """How calls with inputs of these shapes run.

    Attributes:
        graph: the part of the model's graph that computes the requested outputs.
        shapes: of the inputs, by name.
        program: for the whole batch, or for ``plan.micro_batch`` samples if that is not 0.
        plan: of a pass of ``program``.
    """

    graph: Graph
    shapes: Mapping[str, Shape]
    program: Program
    plan: Plan


class Remembered:
    """The calls that were used last: 32 at most, or fewer with many steps. Not thread-safe.

    Args:
        most_steps: of all programs together. The latest call is kept even if it has more.

    Attributes:
        measured: calls in here whose plan was compared with one from measured times.
    """

    def __init__(self, most_steps: float = math.inf) -> None:
        self._most_steps = most_steps
        self._kept: OrderedDict[Key, Prepared] = OrderedDict()  # the latest at the end
        self.measured: set[Key] = set()

    def get(self, key: Key) -> Prepared | None:
        """What is remembered for ``key``, which becomes the latest."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def put(self, key: Key, prepared: Prepared) -> None:
        """Remember ``prepared`` as the latest, and forget the oldest beyond the limits."""
        self._kept[key] = prepared
        self._kept.move_to_end(key)
        while len(self._kept) > REMEMBERED or (len(self._kept) > 1 and self.steps > self._most_steps):
            self.measured.discard(self._kept.popitem(last=False)[0])

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()
        self.measured.clear()

    def programs(self) -> Iterator[Program]:
        """The program of each call, the oldest first."""
        return (prepared.program for prepared in self._kept.values())

    @property
    def steps(self) -> int:
        """Steps of all programs. With its plan each takes about 1.5 KiB."""
        return sum(len(program.steps) for program in self.programs())


class Refusals:
    """Which calls do not fit in a planner's budget. The last 32 are remembered. Not thread-safe."""

    def __init__(self) -> None:
        self._kept: dict[tuple[CallKey, bool], tuple[str, int]] = {}  # text and minimum; an error would keep its frames

    @contextmanager
    def of(self, call: CallKey, bands: bool) -> Iterator[None]:
        """A context in which a call of this kind is planned, with or without ``bands``.

        Raises:
            BudgetError: it was refused before.
        """
        if (call, bands) in self._kept:
            raise BudgetError(*self._kept[call, bands])
        try:
            yield
        except BudgetError as error:
            self._kept[call, bands] = str(error), error.minimum
            if len(self._kept) > REMEMBERED:
                self._kept.pop(next(iter(self._kept)))
            raise
