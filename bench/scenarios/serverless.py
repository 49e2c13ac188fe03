"""A function of AWS Lambda whose model is larger than its memory, and the same with up to four times the memory."""

from bench.scenarios.case import MIB, SERVERLESS, Case, Scenario

#: Start to first answer, its two parts, and warm answers.
_MEASURES = ("to_first_output", "opening", "first", "steady")
_TUNED = frozenset({"onnxruntime lean", "onnxruntime saved"})


def _case(model: str, cap: int) -> Case:
    return Case(SERVERLESS, _MEASURES, model, 1, cap, cold=True)


SCENARIO = Scenario(
    name="serverless",
    title="A serverless function",
    says="8 layers of 4096 x 4096 with ReLU, 512 MiB of float32 weights, in a function of AWS Lambda with 256, 512, "
    "768 and 1024 MB: under Lambda's own runtime client for Python, in a memory cgroup. A pass is an event of one "
    "sample with its answer. The first event waits from the start of the process on. Opening is the time until "
    "the function asks for it; no page of the weights is in the page cache then. streamrt's function is "
    "examples/serverless, which takes its budget from the memory. ONNX Runtime has a function for each of its "
    "settings, with the same events. Lambda bills time and the memory that is configured. The cgroup's peak has "
    "the page cache in it, which the kernel takes back where memory is short.",
    cases=tuple(_case("mlp-8x4096", cap * MIB) for cap in (256, 512, 768, 1024)),
    quick=(_case("mlp-12x2048", 160 * MIB),),
    limits=False,
    peers=frozenset({"streamrt", "onnxruntime", "onnxruntime no-prepack", *_TUNED}),
    also=_TUNED,
)
