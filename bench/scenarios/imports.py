"""The time and memory that a contender takes before it computes."""

from bench.scenarios.case import Case, Scenario


def _cases(*models: str) -> tuple[Case, ...]:
    return (Case("import", ("seconds",)), *(Case("open", ("seconds",), model, budget="64MiB") for model in models))


SCENARIO = Scenario(
    name="import",
    title="Importing and opening",
    says="Seconds to import a contender into a bare interpreter, and to import it and open a model without calling "
    "it, with the memory that this adds. Each ran once before, unmeasured, so that its files are in the page cache.",
    cases=_cases("mlp-12x8192", "resnet50"),
    quick=_cases("mlp-12x2048"),
    limits=False,
    headlines=("import",),
)
