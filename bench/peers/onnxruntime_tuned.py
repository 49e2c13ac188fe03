"""ONNX Runtime as its documentation sets it for little memory and for fast starts.

``lean`` holds as little memory as it can: weights are used where they are mapped, no arena keeps memory, threads do not
spin, and no optimisation lays weights out anew. ``saved`` opens a model that was optimised before, with the weights
in the layout of the kernels, so that opening neither optimises nor copies.

https://onnxruntime.ai/docs/performance/tune-performance/memory.html
https://onnxruntime.ai/docs/performance/model-optimizations/graph-optimizations.html#onlineoffline-mode
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.models import Source
from bench.peers import Opened, Setting, onnxruntime

_SPINNING = "session.intra_op.allow_spinning"
_SAVED_WEIGHTS = "weights.bin"
_DEFAULT, _MAPPED = (peer for peer in onnxruntime.PEERS if not peer.optional)


def _saved(folder: Path) -> Path:
    return folder / "model.onnx"


def _options(setting: Setting, *, lean: bool) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = setting.threads, 1
    if lean:
        options.enable_cpu_mem_arena = False
        options.add_session_config_entry(_SPINNING, "0")
    return options


def _open_lean(source: Source, folder: Path, setting: Setting) -> Opened:
    import onnxruntime as runtime

    options = _options(setting, lean=True)
    options.add_session_config_entry("session.disable_prepacking", "1")
    # The level above this one copies the weights of convolutions into blocks of channels.
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    return onnxruntime.opened(onnxruntime.mapped_model(source, folder), options)


def _prepare_saved(source: Source, folder: Path) -> None:
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.optimized_model_filepath = str(_saved(folder))
    for name, value in (
        ("optimized_model_external_initializers_file_name", _SAVED_WEIGHTS),
        ("optimized_model_external_initializers_min_size_in_bytes", "1024"),
        ("save_external_prepacked_constant_initializers", "1"),
    ):
        options.add_session_config_entry(f"session.{name}", value)
    runtime.InferenceSession(source.onnx, options, ["CPUExecutionProvider"])


def _open_saved(source: Source, folder: Path, setting: Setting) -> Opened:
    import onnxruntime as runtime

    options = _options(setting, lean=setting.cap is not None)
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.opened(_saved(folder), options)


PEERS = [
    replace(_MAPPED, name="onnxruntime lean", open=_open_lean, function=None, optional=True),
    replace(
        _DEFAULT,
        name="onnxruntime saved",
        prepare=_prepare_saved,
        open=_open_saved,
        files=lambda source, folder: [folder / _SAVED_WEIGHTS],
        profile=None,
        function=None,
        optional=True,
    ),
]
