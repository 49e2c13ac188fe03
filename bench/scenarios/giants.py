"""Networks of billions of bytes, in 1/16 of the bytes of their file."""

from bench.peers.streamrt import SIXTEENTH
from bench.scenarios.case import Case, Scenario

_MEASURES = ("steady", "first", "opening")
#: `onnxruntime lean` is for caps, and here no peer has one.
_ALSO = frozenset({"streamrt int8", "onnxruntime saved", "torch compiled"})


def _cases(*models: str) -> tuple[Case, ...]:
    return tuple(
        Case("passes", _MEASURES, model, batch, budget=SIXTEENTH, cold=True, alone=True)
        for model in models
        for batch in (1, 16)
    )


def _in_memory(model: str) -> Case:
    return Case("passes", _MEASURES, model, cold=True)


SCENARIO = Scenario(
    name="giants",
    title="Giants in 1/16 of their bytes",
    says="timm's regnety_1280 (2.4 GiB of float32, images of 384 x 384), convnext_xxlarge (3.2 GiB, 256 x 256) and "
    "vit_huge_patch14_224 (2.4 GiB, 224 x 224) with seeded weights, in float32 and in int8. The budget is 1/16 of the "
    "bytes of the weights file, which int8 makes four times smaller. Each has T* of the moment below its table. "
    "All contenders also run regnety_1280 with batch 1 and all weights in memory.",
    cases=(*_cases("regnety_1280", "convnext_xxlarge", "vit_huge_patch14_224"), _in_memory("regnety_1280")),
    quick=(*_cases("mlp-12x2048"), _in_memory("mlp-12x2048")),
    seconds=10.0,
    patience=300.0,  # a pass of 16 samples takes 16 times as long as one of the scenario cnn-large
    peers=frozenset({"streamrt", "torch", "torch mmap", "onnxruntime", "openvino", *_ALSO}),
    also=_ALSO,
    chart=True,
)
