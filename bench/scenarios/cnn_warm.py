"""Plain speed: image networks with everything in memory."""

from bench.models.vision import NAMES
from bench.scenarios.case import Case, Scenario


def _case(model: str, batch: int) -> Case:
    return Case("passes", ("steady", "first", "opening"), model, batch)


SCENARIO = Scenario(
    name="cnn-warm",
    title="Image networks, all weights in memory",
    says="224 x 224 images, float32, no cap, no budget; the median of the passes after the first in one process. "
    "T* is left out: with nothing to read it would be the time of streamrt itself.",
    cases=tuple(_case(model, batch) for model in NAMES for batch in (1, 8)),
    quick=(_case("resnet18", 1), _case("squeezenet1_1", 8)),
    limits=False,
    frugal=False,
    also=frozenset({"streamrt numpy", "torch compiled"}),
    headlines=("resnet50, batch 1", "mobilenet_v2, batch 1"),
)
