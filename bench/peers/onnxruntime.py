"""ONNX Runtime: with its defaults, and with weights that it maps from a file and uses in the file's layout.

Optional peers have weights in fewer bytes and its defaults. `onnxruntime_tuned` sets it for cold starts and caps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench import onnx_weights
from bench.models import Source, mlp
from bench.peers import TOLERANCES, Array, NodeTimes, Opened, Peer, Profiled, Setting

#: The name of an event of the profile that is the time of a node ends in this.
_KERNEL = "_kernel_time"
#: Values of ``accuracy_level`` of MatMulNBits: the type that it computes in.
_FLOAT32, _INT8 = 1, 4
_HANDLER = Path(__file__).parents[1] / "serverless" / "onnx"


def mapped_model(source: Source, folder: Path) -> Path:
    """The model whose weights are in a file of their own, which can be mapped."""
    # An MLP's weights are external data already.
    return folder / "model.onnx" if source.family == "cnn" else source.onnx


def _model(source: Source, folder: Path, mapped: bool) -> Path:
    return mapped_model(source, folder) if mapped else source.onnx


def _files(source: Source, folder: Path, mapped: bool) -> list[Path]:
    if source.family == "mlp":
        return [mlp.weights_file(source)]
    return [folder / "weights.bin"] if mapped else source.onnx_files


def _prepare(source: Source, folder: Path, mapped: bool) -> None:
    if mapped and source.family == "cnn":
        import onnx

        model = onnx.load(source.onnx)
        onnx.save(model, _model(source, folder, mapped), save_as_external_data=True, location="weights.bin")


@dataclass(frozen=True, slots=True)
class Session:
    """The settings of a session, beside its threads.

    Attributes:
        entries: keys and values of its configuration.
        arena: whether an arena keeps memory between calls.
        level: the name of a level of graph optimisation.
    """

    entries: tuple[tuple[str, str], ...] = ()
    arena: bool = True
    level: str = "ORT_ENABLE_ALL"

    def start(self, model: Path, threads: int, *, profile: str | None = None) -> Any:
        """A session of a file."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.enable_cpu_mem_arena = self.arena
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, self.level)
        for key, value in self.entries:
            options.add_session_config_entry(key, value)
        if profile:
            options.enable_profiling, options.profile_file_prefix = True, profile
        return onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])

    def open(self, model: Path, setting: Setting) -> Opened:
        """A session of a file, ready to be called."""
        return Opened(_run(self.start(model, setting.threads_each)))

    def function(self, model: Path, threads: int) -> tuple[Path, dict[str, str]]:
        """A function of AWS Lambda that has such a session, as `Peer.function` returns it."""
        options = json.dumps({"threads": threads} | asdict(self))
        return _HANDLER, {"BENCH_MODEL": str(model), "BENCH_OPTIONS": options}


#: External data is mapped and used in place, unless kernels copy it into a layout of their own:
#: https://github.com/microsoft/onnxruntime/pull/11127
IN_PLACE = ("session.disable_prepacking", "1")
_DEFAULT, _MAPPED = Session(), Session((IN_PLACE,))


def _open(source: Source, folder: Path, setting: Setting, mapped: bool) -> Opened:
    return (_MAPPED if mapped else _DEFAULT).open(_model(source, folder, mapped), setting)


def _open_rewritten(source: Source, folder: Path, setting: Setting) -> Opened:
    return _DEFAULT.open(onnx_weights.model_file(folder), setting)


def _profile(source: Source, folder: Path, setting: Setting) -> Profiled:
    scratch = TemporaryDirectory()
    session = _DEFAULT.start(source.onnx, setting.threads, profile=f"{scratch.name}/profile")

    def nodes(kept: list[None]) -> list[NodeTimes]:
        with scratch:
            return node_times(json.loads(Path(session.end_profiling()).read_text()))

    return Profiled(_run(session), lambda: None, nodes)


def _function(source: Source, folder: Path, threads: int, mapped: bool) -> tuple[Path, dict[str, str]]:
    return (_MAPPED if mapped else _DEFAULT).function(_model(source, folder, mapped), threads)


def _run(session: Any) -> Callable[[Array], Array]:
    return lambda x: session.run(None, {"x": x})[0]


def node_times(events: Iterable[Mapping[str, Any]]) -> list[NodeTimes]:
    """The nodes of a profile, with the times of all runs except the first."""
    found: dict[tuple[str, object], NodeTimes] = {}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(_KERNEL):
            name, arguments = event["name"].removesuffix(_KERNEL), event["args"]
            node = NodeTimes(_names(name), arguments["op_name"], [])
            node = found.setdefault((name, arguments.get("node_index")), node)
            node.seconds.append(event["dur"] * 1e-6)  # microseconds
    for node in found.values():
        del node.seconds[0]
    return list(found.values())


def _names(name: str) -> tuple[str, ...]:
    """A node's name, and the ONNX name in it: of a node after ``fused``, or of a tensor before ``_nchwc``."""
    return tuple(dict.fromkeys((name, name.removeprefix("fused ").removesuffix("_nchwc"))))


def _rewritten(kind: str, weights: str, coding: onnx_weights.Coding, *, level: int = 0) -> Peer:
    """A peer with weights of the type ``weights``. With a ``level`` of MatMulNBits it has no convolutions."""
    return replace(
        _PEERS[0],
        name=f"onnxruntime {kind}",
        packages=("onnxruntime", "onnx"),
        families=frozenset({"mlp"}) if level else _PEERS[0].families,
        prepare=lambda source, folder: onnx_weights.write(source.onnx, folder, coding),
        open=_open_rewritten,
        profile=None,
        function=None,
        files=lambda source, folder: [onnx_weights.weights_file(folder)],
        optional=True,
        tolerance=TOLERANCES[weights],
        arithmetic="int8" if level == _INT8 else "float32",
        helpers=(onnx_weights.__file__,),
    )


def _blocks(bits: int, level: int) -> Peer:
    name = f"MatMulNBits int{bits}" + (f" level {level}" if level == _INT8 else "")
    return _rewritten(name, f"int{bits}", partial(onnx_weights.blocks, bits=bits, level=level), level=level)


_PEERS = [
    Peer(
        name=name,
        modules=("onnxruntime",),
        packages=("onnxruntime",),
        families=frozenset({"mlp", "cnn"}),
        prepare=partial(_prepare, mapped=mapped),
        open=partial(_open, mapped=mapped),
        profile=None if mapped else _profile,
        function=partial(_function, mapped=mapped),
        files=partial(_files, mapped=mapped),
        frugal=mapped,
    )
    for name, mapped in (("onnxruntime", False), ("onnxruntime no-prepack", True))
]
PEERS = [
    *_PEERS,
    _rewritten("float16", "float16", onnx_weights.float16),
    _rewritten("int8", "int8", onnx_weights.int8),
    *(_blocks(bits, level) for bits in (8, 4) for level in (_FLOAT32, _INT8)),
]
