"""OpenVINO on the CPU: an IR file whose weights are mapped, compiled for its one batch.

https://docs.openvino.ai/2025/openvino-workflow/running-inference/optimize-inference/optimizing-memory-usage.html
https://docs.openvino.ai/2025/openvino-workflow/running-inference/inference-request/python-api-advanced-inference.html
"""

from __future__ import annotations

from pathlib import Path

from bench.models import Source
from bench.peers import Array, Opened, Peer, Setting


def _ir(folder: Path) -> Path:
    return folder / "model.xml"


def _prepare(source: Source, folder: Path) -> None:
    import openvino

    openvino.save_model(openvino.convert_model(source.onnx), _ir(folder), compress_to_fp16=False)


def _open(source: Source, folder: Path, setting: Setting) -> Opened:
    import openvino

    core = openvino.Core()
    core.set_property({"ENABLE_MMAP": True})  # the default
    model = core.read_model(_ir(folder))
    model.reshape([setting.batch, *source.shape])
    compiled = core.compile_model(
        model,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "f32",  # or it computes in bfloat16 where the CPU can
            "INFERENCE_NUM_THREADS": setting.threads,
            "PERFORMANCE_HINT": "LATENCY",
        },
    )

    def run(x: Array) -> Array:
        # Nothing is copied: the answer is a view of memory that the next call overwrites.
        return compiled(x, share_inputs=True, share_outputs=True)[0]

    return Opened(run)


PEERS = [
    Peer(
        name="openvino",
        modules=("openvino",),
        packages=("openvino",),
        families=frozenset({"mlp", "cnn"}),
        prepare=_prepare,
        open=_open,
        files=lambda source, folder: [_ir(folder).with_suffix(".bin")],
    )
]
