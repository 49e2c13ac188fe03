"""streamrt itself, packed from the same ONNX file as the other runtimes.

Optional peers force an instruction set, or store the weights in fewer bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.models import Source
from bench.peers import TOLERANCES, Array, NodeTimes, Opened, Peer, Profiled, Setting

#: The budget of a case that asks for the smallest that works.
LEAST = "least"
#: The budget of a case that asks for a part of the bytes of the weights file.
SIXTEENTH = "1/16 of the file"
_EXAMPLE = Path(__file__).parents[2] / "examples" / "serverless"


def packed(folder: Path) -> Path:
    """The weights file."""
    return folder / "model.safetensors"


def _prepare(source: Source, folder: Path, weights: str | None = None) -> None:
    import streamrt

    streamrt.pack(source.onnx, packed(folder), weights=weights)


def _budget(folder: Path, setting: Setting) -> str | int | None:
    """A budget that a model can be opened with."""
    if setting.budget == SIXTEENTH:
        return packed(folder).stat().st_size // 16
    return "auto" if setting.budget == LEAST else setting.budget


def _open(source: Source, folder: Path, setting: Setting) -> Opened:
    import streamrt

    verify = "read" if setting.verify else None
    model = streamrt.Model(packed(folder), _budget(folder, setting), threads=setting.threads, verify=verify)
    run: Callable[[Array], Array] = model
    if source.input_file(setting.batch).exists():
        run = partial(model, out=_mapped(source, folder, setting.batch))
    if setting.budget == LEAST:
        model.set_budget(model.min_budget((setting.batch, *source.shape)))
    return Opened(run, partial(_facts, model, packed(folder), source.shape))


def _facts(model: Any, path: Path, shape: tuple[int, ...]) -> dict[str, object]:
    """Figures of the last call of a model with this file. One sample of its input has this shape.

    The model is closed: finding the least budget takes memory, which a cap may not leave beside the weights.
    """
    plan, stats, budget = model.plan, model.stats, model.budget
    model.close()
    workspace, window = _least(path, (1, *shape))
    return {
        "budget": budget,
        "least_workspace": workspace,
        "least_window": window,
        "weights": plan.pinned_bytes + plan.streamed_bytes,
        "pinned": plan.pinned_bytes,
        "window": plan.window,
        "workspace": plan.workspace,
        "stall": stats.stall,
        "bytes_read": stats.bytes_read,
        "layers": _layers(path, plan, stats.layers),
    }


def _least(path: Path, shape: tuple[int, ...]) -> tuple[int, int]:
    """The bytes of the workspace and of the window in the smallest budget for inputs of this shape.

    A workspace in bands depends on the budget. No plan has more room for weights than its budget less this workspace.
    """
    import streamrt

    with streamrt.Model(path) as model:
        least = model.min_budget(shape)
        model.set_budget(least)
        window = model.plan_for(shape).window
    return least - window, window


def _layers(path: Path, plan: Any, layers: Sequence[Any]) -> list[tuple[str, int, float]]:
    """Name, bytes of weights and seconds of computing of each layer. Weights that are read again count once.

    Layers in bands read their ranges in each band, and some layers run again.
    """
    if not plan.bands:
        return [(layer.name, layer.weights, layer.compute) for layer in layers]
    from streamrt.format import read_header

    file = read_header(path)
    inputs = {node.name: node.inputs for node in file.graph.all_nodes}
    left = {name: tensor.nbytes for name, tensor in file.tensors.items()}
    sizes = [sum(left.pop(name, 0) for name in inputs.get(layer.name, ())) for layer in layers]
    return [(layer.name, size, layer.compute) for layer, size in zip(layers, sizes, strict=True)]


def _mapped(source: Source, folder: Path, batch: int) -> Array:
    """A mapped array for the answer of a model whose input is mapped."""
    import numpy as np

    shape = np.load(source.answer(batch), mmap_mode="r").shape
    return np.lib.format.open_memmap(folder / f"output-{batch}.npy", "w+", np.float32, shape)


def _profile(source: Source, folder: Path, setting: Setting) -> Profiled:
    import streamrt

    model = streamrt.Model(packed(folder), _budget(folder, setting), threads=setting.threads)

    def nodes(kept: list[Any]) -> list[NodeTimes]:
        by_layer = zip(*(stats.layers for stats in kept[1:]), strict=True)
        return [NodeTimes((of[0].name,), of[0].op, [layer.compute for layer in of]) for of in by_layer]

    return Profiled(model, lambda: model.stats, nodes)


def _function(source: Source, folder: Path, threads: int) -> tuple[Path, dict[str, str]]:
    return _EXAMPLE, {"STREAMRT_MODEL": str(packed(folder))}  # it uses the processors that its process may use


_STREAMRT = Peer(
    name="streamrt",
    modules=("streamrt",),
    packages=("streamrt", "numpy"),
    families=frozenset({"mlp", "cnn"}),
    prepare=_prepare,
    open=_open,
    profile=_profile,
    function=_function,
    files=lambda source, folder: [packed(folder)],
)
_INSTRUCTIONS = [
    replace(_STREAMRT, name=f"streamrt {isa}", environ=(("STREAMRT_ISA", isa),), optional=True)
    for isa in ("avx2", "numpy")
]
_WEIGHTS = [
    replace(
        _STREAMRT,
        name=f"streamrt {weights}",
        prepare=partial(_prepare, weights=weights),
        tolerance=tolerance,
        optional=True,
    )
    for weights, tolerance in TOLERANCES.items()
]
PEERS = [_STREAMRT, *_INSTRUCTIONS, *_WEIGHTS]
