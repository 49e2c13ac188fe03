"""Pictures whose activations are larger than the budget."""

from bench.scenarios.case import MIB, Case, Scenario

#: MiB that a cap leaves beside the budget, for an interpreter with NumPy and the kernel's memory.
_BESIDE = 48
#: MiB of the weights of ResNet-18.
_RESNET18 = 45


def _cases(model: str, budget: int) -> tuple[Case, ...]:
    """All contenders with everything in memory, and streamrt with a budget in MiB."""
    measures = ("steady", "first", "opening")
    capped = Case("passes", measures, model, 1, (budget + _BESIDE) * MIB, f"{budget}MiB", alone=True)
    return Case("passes", measures, model), capped


SCENARIO = Scenario(
    name="large-pictures",
    title="Large pictures",
    says="Networks whose activations take gigabytes. All contenders run without a cap and a budget. streamrt also runs "
    f"with a budget, in a memory cgroup of {_BESIDE} MiB more; its input and its answer are mapped files.",
    cases=(
        *_cases("unet-2048x2048", 128),
        *_cases("resnet18-4096x4096", 96 + _RESNET18),
        *_cases("fcn_resnet50-2048x2048", 256),
        *_cases("deeplabv3_resnet50-2048x2048", 448),
        *_cases("superresolution-1080x1920", 192),
        *_cases("decoder-64x64", 420),
    ),
    quick=_cases("unet-128x128", 4),
    seconds=10.0,
    patience=600.0,
    limits=False,
    peers=frozenset({"streamrt", "torch", "onnxruntime", "openvino", "ncnn"}),
)
