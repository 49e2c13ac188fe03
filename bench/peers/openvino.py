"""OpenVINO on the CPU: an IR file whose weights are mapped, compiled for its one batch.

Optional peers have weights in float16 and int8: the layers decode them, or compiling does. ``cached`` opens a model
that was compiled before.

https://docs.openvino.ai/2025/openvino-workflow/running-inference/optimize-inference/optimizing-memory-usage.html
https://docs.openvino.ai/2025/openvino-workflow/running-inference/inference-request/python-api-advanced-inference.html
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any

from bench import onnx_weights
from bench.models import Source
from bench.peers import TOLERANCES, Array, NodeTimes, Opened, Peer, Profiled, Setting


def _ir(folder: Path) -> Path:
    return folder / "model.xml"


def _prepare(source: Source, folder: Path, *, float16: bool = False) -> None:
    import openvino

    openvino.save_model(openvino.convert_model(source.onnx), _ir(folder), compress_to_fp16=float16)


def _prepare_int8(source: Source, folder: Path) -> None:
    import openvino

    with TemporaryDirectory(dir=folder) as scratch:
        onnx_weights.write(source.onnx, Path(scratch), onnx_weights.int8)
        model = openvino.convert_model(onnx_weights.model_file(Path(scratch)))
        openvino.save_model(model, _ir(folder), compress_to_fp16=False)


def _compiled(
    source: Source, folder: Path, setting: Setting, *, profile: bool = False, exact_inputs: bool = False
) -> Any:
    import openvino

    core = openvino.Core()
    core.set_property({"ENABLE_MMAP": True})  # the default
    model = core.read_model(_ir(folder))
    model.reshape([setting.batch, *source.shape])
    return core.compile_model(
        model,
        "CPU",
        {
            **_properties(setting.threads),
            **({"NUM_STREAMS": setting.callers} if setting.callers > 1 else {}),
            "PERF_COUNT": profile,
            **({"DYNAMIC_QUANTIZATION_GROUP_SIZE": 0} if exact_inputs else {}),
        },
    )


def _properties(threads: int) -> dict[str, object]:
    return {
        "INFERENCE_PRECISION_HINT": "f32",  # or it computes in bfloat16 where the CPU can
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }


def _open(source: Source, folder: Path, setting: Setting, *, exact_inputs: bool = False) -> Opened:
    compiled = _compiled(source, folder, setting, exact_inputs=exact_inputs)
    return _called(compiled) if setting.callers == 1 else _called_together(compiled, setting.callers)


def _called(compiled: Any) -> Opened:
    def run(x: Array) -> Array:
        # Nothing is copied: the answer is a view of memory that the next call overwrites.
        return compiled(x, share_inputs=True, share_outputs=True)[0]

    return Opened(run)


def _called_together(compiled: Any, callers: int) -> Opened:
    """Each call takes one of ``callers`` requests. The answer is a copy, for the next call gets the same request."""
    free: SimpleQueue[Any] = SimpleQueue()
    for _ in range(callers):
        free.put(compiled.create_infer_request())
    # OpenVINO makes a table of types when it is first asked for one, and two threads that ask together wait for ever.
    compiled.input(0).get_element_type().to_dtype()

    def run(x: Array) -> Array:
        request = free.get()
        try:
            return request.infer(x, share_inputs=True)[0]
        finally:
            free.put(request)

    return Opened(run)


def _cache(folder: Path) -> Path:
    """Compiled models with their weights. A name in it depends on the IR's path, and not on the number of threads."""
    return folder / "cache"


def _prepare_cached(source: Source, folder: Path) -> None:
    """Keep the compiled model for one sample, as a process that starts cold is asked for."""
    import openvino

    model = openvino.convert_model(source.onnx)
    model.reshape([1, *source.shape])
    openvino.save_model(model, _ir(folder), compress_to_fp16=False)
    _from_cache(folder, 1)


def _open_cached(source: Source, folder: Path, setting: Setting) -> Opened:
    if setting.batch != 1:
        return _open(source, folder, setting)
    return _called(_from_cache(folder, setting.threads))


def _from_cache(folder: Path, threads: int) -> Any:
    import openvino

    core = openvino.Core()
    core.set_property({"CACHE_DIR": str(_cache(folder))})
    return core.compile_model(_ir(folder), "CPU", _properties(threads))


def _profile(source: Source, folder: Path, setting: Setting) -> Profiled:
    compiled = _compiled(source, folder, setting, profile=True)
    request = compiled.create_infer_request()
    original = {op.get_friendly_name(): _original_names(op) for op in compiled.get_runtime_model().get_ops()}

    def run(x: Array) -> Array:
        return request.infer(x, share_inputs=True, share_outputs=True)[0]

    def keep() -> dict[str, tuple[str, float]]:
        return {node.node_name: (node.node_type, node.real_time.total_seconds()) for node in request.profiling_info}

    def nodes(kept: list[dict[str, tuple[str, float]]]) -> list[NodeTimes]:
        # A node's time is its mean over all passes so far.
        passes, first, last = len(kept), kept[0], kept[-1]
        mean = {name: (passes * seconds - first[name][1]) / (passes - 1) for name, (_, seconds) in last.items()}
        return [
            NodeTimes((*_names(name), *original.get(name, ())), op, [max(0.0, mean[name])])
            for name, (op, _) in last.items()
        ]

    return Profiled(run, keep, nodes)


def _original_names(op: Any) -> tuple[str, ...]:
    """The names of all nodes of the model that a node of the compiled model computes."""
    info = op.get_rt_info()
    found = str(info["originalLayersNames"].astype(str)) if "originalLayersNames" in info else ""
    return tuple(spelling for name in found.split(",") for spelling in _names(name))


def _names(name: str) -> list[str]:
    """A node's name and its beginnings: an ONNX node that becomes several has names such as ``node/WithoutBiases``."""
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]


_OPENVINO = Peer(
    name="openvino",
    modules=("openvino",),
    packages=("openvino",),
    families=frozenset({"mlp", "cnn"}),
    prepare=_prepare,
    open=_open,
    profile=_profile,
    files=lambda source, folder: [_ir(folder).with_suffix(".bin")],
)
_CACHED = replace(
    _OPENVINO,
    name="openvino cached",
    prepare=_prepare_cached,
    open=_open_cached,
    profile=None,
    files=lambda source, folder: sorted(_cache(folder).iterdir()),
    optional=True,
)
_FLOAT16 = replace(
    _OPENVINO,
    name="openvino float16",
    prepare=partial(_prepare, float16=True),
    optional=True,
    tolerance=TOLERANCES["float16"],
)
# By default a dense layer with int8 weights rounds its inputs to int8, too.
_DYNAMIC = replace(
    _OPENVINO,
    name="openvino int8 dynamic",
    packages=("openvino", "onnx"),
    families=frozenset({"mlp"}),
    prepare=_prepare_int8,
    profile=None,
    optional=True,
    tolerance=TOLERANCES["int8"],
    arithmetic="int8",
    helpers=(onnx_weights.__file__,),
)
_INT8 = replace(
    _DYNAMIC,
    name="openvino int8",
    families=_OPENVINO.families,
    open=partial(_open, exact_inputs=True),
    arithmetic="float32",
)
PEERS = [_OPENVINO, _CACHED, _FLOAT16, _INT8, _DYNAMIC]
