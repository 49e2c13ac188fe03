"""A model larger than memory: the 3 GiB MLP under three caps."""

from bench.scenarios.case import MIB, Case, Scenario

_MODEL, _SMALL = "mlp-12x8192", "mlp-12x2048"
#: Caps in bytes with streamrt's budgets: a small fixed budget under the smallest cap, else the budget that it finds.
_CAPS = ((300 * MIB, "128MiB"), (1024 * MIB, "auto"), (2765 * MIB, "auto"))
_MEASURES = ("steady", "first", "opening")


def _case(model: str, batch: int, cap: int, budget: str) -> Case:
    return Case("passes", _MEASURES, model, batch, cap, budget, cold=True)


SCENARIO = Scenario(
    name="mlp-capped",
    title="A model larger than memory",
    says="12 layers of 8192 x 8192 with ReLU, 3 GiB of float32 weights, in a memory cgroup. A process opens the model "
    "cold and calls it several times: opening, the first pass, and the median of the steady ones after it. "
    "streamrt has 128 MiB of the smallest cap, and finds its budget by itself under the others.",
    cases=tuple(_case(_MODEL, batch, *cap) for cap in _CAPS for batch in (1, 4, 16, 64, 256)),
    seconds=5.0,
    quick=tuple(_case(_SMALL, batch, 160 * MIB, "48MiB") for batch in (1, 64)),
    also=frozenset({"numpy.memmap ahead", "onnxruntime lean", "onnxruntime saved"}),
    headlines=("mlp-12x8192, cap 300 MiB, batch 1",),
)
