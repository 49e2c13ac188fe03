"""Plain speed: the 3 GiB MLP with everything in memory."""

from bench.scenarios.case import Case, Scenario


def _case(model: str, batch: int, callers: int = 1) -> Case:
    return Case("passes", ("steady", "first", "opening"), model, batch, callers=callers)


SCENARIO = Scenario(
    name="mlp-warm",
    title="An MLP, all weights in memory",
    says="12 layers of 8192 x 8192 with ReLU, float32, no cap, no budget; the median of the passes after the first in "
    "one process. T* is left out: with nothing to read it would be the time of streamrt itself. With two callers, each "
    "a thread with one sample, a pass is over when both have their answers.",
    cases=(*(_case("mlp-12x8192", batch) for batch in (1, 4, 16, 64, 256)), _case("mlp-12x8192", 1, callers=2)),
    seconds=4.0,
    quick=(*(_case("mlp-12x2048", batch) for batch in (1, 4)), _case("mlp-12x2048", 1, callers=2)),
    limits=False,
    frugal=False,
    also=frozenset({"streamrt numpy", "torch compiled"}),
    headlines=("mlp-12x8192, batch 16",),
)
