"""Time against memory: image networks of 2.4 and 3.2 GiB, from a small budget up to all weights in memory."""

from functools import partial

from bench.scenarios.case import MIB, Case, Scenario

#: MiB that a cap leaves beside the budget, for an interpreter with NumPy, the caller's arrays and the kernel's memory.
_BESIDE = 64
_TUNED = frozenset({"onnxruntime lean", "onnxruntime saved", "openvino cached", "torch compiled"})


def _cases(model: str, *budgets: int, beside: int | None = None) -> tuple[Case, ...]:
    """All contenders with all weights in memory, and streamrt with each of these budgets in MiB.

    In the memory of the budget ``beside`` the others are measured, too.
    """
    case = partial(Case, "passes", ("steady", "first", "opening"), model, cold=True)
    capped = (case(cap=(each + _BESIDE) * MIB, budget=f"{each}MiB", alone=each != beside) for each in budgets)
    return (case(), *capped)


SCENARIO = Scenario(
    name="cnn-large",
    title="Time against memory",
    says="timm's regnety_1280 (645 million parameters, 2.4 GiB of float32, images of 384 x 384) and convnext_xxlarge "
    "(846 million, 3.2 GiB, 256 x 256), batch 1. All contenders run without a cap and a budget. streamrt also runs "
    f"with smaller budgets, each in a memory cgroup of {_BESIDE} MiB more. Peers in such a cgroup have the same "
    "memory. Each process opens the model cold.",
    cases=(
        *_cases("regnety_1280", 160, 320, 640, 1280, beside=1280),
        *_cases("convnext_xxlarge", 200, 400, 800, 1600, beside=1600),
    ),
    quick=_cases("regnety_002", 8),
    seconds=10.0,
    patience=180.0,
    limits=False,
    peers=frozenset({"streamrt", "torch", "torch mmap", "onnxruntime", "openvino", *_TUNED}),
    also=_TUNED,
    chart=True,
)
