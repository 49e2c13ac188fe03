"""Many threads with one sample each, on a model larger than memory."""

from bench.scenarios.case import MIB, Case, Scenario

_MODEL, _SMALL = "mlp-12x8192", "mlp-12x2048"


def _case(model: str, callers: int, cap: int, budget: str) -> Case:
    return Case("passes", ("steady", "first", "opening"), model, 1, cap, budget, cold=True, callers=callers)


SCENARIO = Scenario(
    name="mlp-callers",
    title="Concurrent callers of a model larger than memory",
    says="12 layers of 8192 x 8192 with ReLU, 3 GiB of float32 weights, in a memory cgroup of 1 GiB. A pass is over "
    "when all callers, each a thread with one sample, have their answers; the median of the passes after the first.",
    cases=tuple(_case(_MODEL, callers, 1024 * MIB, "auto") for callers in (1, 8)),
    seconds=5.0,
    quick=tuple(_case(_SMALL, callers, 160 * MIB, "48MiB") for callers in (1, 8)),
    limits=False,
    also=frozenset({"numpy.memmap ahead", "onnxruntime lean", "onnxruntime saved"}),
    headlines=("mlp-12x8192, cap 1024 MiB, batch 1, 8 callers",),
)
