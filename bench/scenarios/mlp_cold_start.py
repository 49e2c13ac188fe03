"""From the start of a process to its first answer: the 3 GiB MLP, cold, without a cap."""

from bench.scenarios.case import Case, Scenario


def _case(model: str, budget: str) -> Case:
    return Case("passes", ("to_first_output",), model, 1, cold=True, budget=budget)


SCENARIO = Scenario(
    name="mlp-cold-start",
    title="Cold start of the 3 GiB model",
    says="From the start of the process to its first output, batch 1, with no cap and no page of the weights in the "
    "page cache; the interpreter and the libraries are in it for every contender. streamrt finds its budget by itself, "
    "and then has 150 MiB, 5 % of the model. Peers have no budget.",
    cases=(_case("mlp-12x8192", "auto"), _case("mlp-12x8192", "150MiB")),
    quick=(_case("mlp-12x2048", "auto"), _case("mlp-12x2048", "48MiB")),
    seconds=0.0,
    also=frozenset({"numpy.memmap ahead", "onnxruntime saved", "openvino cached"}),
    headlines=("mlp-12x8192, batch 1",),
)
