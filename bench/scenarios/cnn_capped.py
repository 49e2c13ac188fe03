"""Image networks larger than memory."""

from bench.scenarios.case import MIB, Case, Scenario


def _case(model: str, cap: int, budget: str) -> Case:
    return Case("passes", ("steady", "first", "opening"), model, 1, cap, budget, cold=True)


SCENARIO = Scenario(
    name="cnn-capped",
    title="Image networks larger than memory",
    says="vgg16 (528 MiB) and resnet50 (98 MiB) in a memory cgroup, batch 1. An interpreter with NumPy leaves "
    "little of 48 MiB, and streamrt has 16 MiB of it. Under the other caps it finds its budget by itself.",
    cases=(_case("vgg16", 128 * MIB, "auto"), _case("vgg16", 256 * MIB, "auto"), _case("resnet50", 48 * MIB, "16MiB")),
    quick=(_case("resnet50", 64 * MIB, "auto"),),
    also=frozenset({"onnxruntime lean", "onnxruntime saved"}),
    headlines=("vgg16, cap 256 MiB, batch 1",),
)
