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

from bench.models import Source
from bench.peers import Opened, Setting, onnxruntime
from bench.peers.onnxruntime import IN_PLACE, Session, mapped_model

_SAVED_WEIGHTS = "weights.bin"
_DEFAULT, _MAPPED = (peer for peer in onnxruntime.PEERS if not peer.optional)
_QUIET = ("session.intra_op.allow_spinning", "0")
# The level above this one copies the weights of convolutions into blocks of channels.
_LEAN = Session((_QUIET, IN_PLACE), arena=False, level="ORT_ENABLE_EXTENDED")
# The file is optimised already.
_SAVED = Session(level="ORT_DISABLE_ALL")
_SAVED_CAPPED = replace(_SAVED, entries=(_QUIET,), arena=False)


def _saved(folder: Path) -> Path:
    return folder / "model.onnx"


def _open_lean(source: Source, folder: Path, setting: Setting) -> Opened:
    return _LEAN.open(mapped_model(source, folder), setting)


def _lean_function(source: Source, folder: Path, threads: int) -> tuple[Path, dict[str, str]]:
    return _LEAN.function(mapped_model(source, folder), threads)


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
    return (_SAVED if setting.cap is None else _SAVED_CAPPED).open(_saved(folder), setting)


def _saved_function(source: Source, folder: Path, threads: int) -> tuple[Path, dict[str, str]]:
    return _SAVED_CAPPED.function(_saved(folder), threads)  # a function has a memory limit


PEERS = [
    replace(_MAPPED, name="onnxruntime lean", open=_open_lean, function=_lean_function, optional=True),
    replace(
        _DEFAULT,
        name="onnxruntime saved",
        prepare=_prepare_saved,
        open=_open_saved,
        files=lambda source, folder: [folder / _SAVED_WEIGHTS],
        profile=None,
        function=_saved_function,
        optional=True,
    ),
]
