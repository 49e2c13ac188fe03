"""ONNX Runtime: with its defaults, and with weights that it maps from a file and uses in the file's layout."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from bench.models import Source, mlp
from bench.peers import Array, Opened, Peer, Setting


def _model(source: Source, folder: Path, mapped: bool) -> Path:
    # An MLP's weights are external data already.
    return folder / "model.onnx" if mapped and source.family == "cnn" else source.onnx


def _files(source: Source, folder: Path, mapped: bool) -> list[Path]:
    if source.family == "mlp":
        return [mlp.weights_file(source)]
    return [folder / "weights.bin"] if mapped else source.onnx_files


def _prepare(source: Source, folder: Path, mapped: bool) -> None:
    if mapped and source.family == "cnn":
        import onnx

        model = onnx.load(source.onnx)
        onnx.save(model, _model(source, folder, mapped), save_as_external_data=True, location="weights.bin")


def _open(source: Source, folder: Path, setting: Setting, mapped: bool) -> Opened:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = setting.threads
    options.inter_op_num_threads = 1
    if mapped:
        # External data is mapped and used in place, unless kernels copy it into a layout of their own:
        # https://github.com/microsoft/onnxruntime/pull/11127
        options.add_session_config_entry("session.disable_prepacking", "1")
    session = onnxruntime.InferenceSession(_model(source, folder, mapped), options, ["CPUExecutionProvider"])

    def run(x: Array) -> Array:
        return session.run(None, {"x": x})[0]

    return Opened(run)


PEERS = [
    Peer(
        name=name,
        modules=("onnxruntime",),
        packages=("onnxruntime",),
        families=frozenset({"mlp", "cnn"}),
        prepare=partial(_prepare, mapped=mapped),
        open=partial(_open, mapped=mapped),
        files=partial(_files, mapped=mapped),
        frugal=mapped,
    )
    for name, mapped in (("onnxruntime", False), ("onnxruntime no-prepack", True))
]
