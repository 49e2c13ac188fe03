"""The memory of a process beside its budget, from the smallest budget that works up."""

from bench.scenarios.case import Case, Scenario


def _case(model: str, budget: str, batch: int = 1) -> Case:
    return Case("passes", ("first",), model, batch, cold=True, budget=budget)


SCENARIO = Scenario(
    name="mlp-memory",
    title="Memory beyond the budget",
    says="12 layers of 8192 x 8192 with ReLU, 3 GiB of float32 weights, without a cap: whether a budget is kept where "
    "no kernel enforces it. Memory is sampled during two passes.",
    cases=(
        *(_case("mlp-12x8192", budget) for budget in ("least", "8MiB", "32MiB", "128MiB", "512MiB", "1GiB", "2GiB")),
        *(_case("mlp-12x8192", budget, batch) for batch in (64, 256) for budget in ("128MiB", "1GiB")),
    ),
    quick=tuple(_case("mlp-12x2048", budget) for budget in ("least", "48MiB")),
    seconds=0.0,
    limits=False,
    peers=frozenset({"streamrt"}),
    memory=True,
)
