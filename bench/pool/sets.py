"""The sets of models that pools are measured with."""

from __future__ import annotations

from dataclasses import dataclass

from bench.pool.models import sizes

MIB = 1 << 20
#: Numbers of threads that make requests at the same time, where hits are measured.
CALLERS = (1, 4)


@dataclass(frozen=True, slots=True)
class ModelSet:
    """Models, and how many requests for them are measured.

    Attributes:
        name: of the set, as ``--set`` takes it.
        models: how many models there are.
        least: bytes of the smallest model in float32.
        most: bytes of the largest model in float32.
        requests: requests of a trace.
        fixed_budget: bytes of the budget; None is 1/5 of the models' bytes in float32.
        registered: numbers of registered models with which hits are measured; empty if hits are not measured.
        calls: hits of one stretch whose times are measured.
    """

    name: str
    models: int
    least: int
    most: int
    requests: int
    fixed_budget: int | None = None
    registered: tuple[int, ...] = ()
    calls: int = 500

    @property
    def shape(self) -> tuple[int, int, int]:
        """The arguments of `bench.pool.models.sizes`."""
        return self.models, self.least, self.most

    @property
    def budget(self) -> int:
        """Bytes of the budget, which is the same for all types of weights."""
        return sum(sizes(*self.shape)) // 5 if self.fixed_budget is None else self.fixed_budget


SMALL = ModelSet("small", 200, MIB, 8 * MIB, 5000, registered=(200, 10_000))
LARGE = ModelSet("large", 40, 30 * MIB, 300 * MIB, 300, fixed_budget=1024 * MIB)
QUICK = ModelSet("quick", 24, MIB // 2, 4 * MIB, 150, registered=(24, 200), calls=50)

#: The sets that ``--set`` chooses from.
SETS = {models.name: models for models in (SMALL, LARGE)}
