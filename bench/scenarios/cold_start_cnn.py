"""From the start of a process to its first answer: vgg16, cold."""

from bench.scenarios.case import Case, Scenario


def _case(model: str) -> Case:
    return Case("passes", ("to_first_output",), model, 1, cold=True, budget="auto")


SCENARIO = Scenario(
    name="cold-start-cnn",
    title="Cold start of vgg16",
    says="From the start of the process to its first output, batch 1, with no cap and no page of the weights in the "
    "page cache.",
    cases=(_case("vgg16"),),
    quick=(_case("resnet18"),),
    seconds=0.0,
    also=frozenset({"onnxruntime saved", "openvino cached"}),
)
