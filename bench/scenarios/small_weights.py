"""Weights in fewer bytes than float32: the same models and budgets for every type."""

from bench.models.vision import NAMES
from bench.scenarios.case import MIB, Case, Scenario

_MLP = "mlp-12x8192"
_WAYS = frozenset({f"streamrt {weights}" for weights in ("float16", "bfloat16", "int8", "int4")})
_PEERS = frozenset(
    {
        "onnxruntime float16",
        "onnxruntime int8",
        *(f"onnxruntime MatMulNBits {kind}" for kind in ("int8", "int8 level 4", "int4", "int4 level 4")),
        "openvino float16",
        "openvino int8",
        "openvino int8 dynamic",
        "torch bfloat16",
    }
)


def _streamed(model: str, batch: int, cap: int, budget: str) -> Case:
    # Peers have no budget. Under these caps they are killed, or take minutes.
    return Case("passes", ("steady", "first", "to_first_output"), model, batch, cap, budget, cold=True, alone=True)


def _in_memory(model: str, batch: int) -> Case:
    return Case("passes", ("steady",), model, batch)


SCENARIO = Scenario(
    name="small-weights",
    title="Weights in fewer bytes",
    says="The same models with weights in float32, float16, bfloat16, int8 and int4. First streamrt under memory caps, "
    "with the same budget for every type and no page of the weights in the page cache at the start; then with "
    "everything in memory, beside peers that store weights in fewer bytes. streamrt computes in float32.",
    cases=(
        *(_streamed(_MLP, batch, 300 * MIB, "128MiB") for batch in (1, 64)),
        _streamed("vgg16", 1, 256 * MIB, "128MiB"),
        _streamed("resnet50", 1, 160 * MIB, "48MiB"),
        *(_in_memory(_MLP, batch) for batch in (1, 4, 16, 64, 256)),
        *(_in_memory(model, 1) for model in NAMES),
    ),
    quick=(
        _streamed("mlp-12x2048", 1, 160 * MIB, "32MiB"),
        _in_memory("mlp-12x2048", 1),
        _in_memory("resnet18", 1),
    ),
    seconds=3.0,
    patience=180.0,  # the first pass of a peer may read 1.5 GiB, decode them, and lay them out anew
    limits=False,
    peers=frozenset({"streamrt"}) | _WAYS | _PEERS,
    also=_WAYS | _PEERS,
    coded=True,
)
