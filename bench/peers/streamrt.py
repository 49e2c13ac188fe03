"""streamrt itself, packed from the same ONNX file as the other runtimes.

Optional peers force an instruction set, or store the weights in fewer bytes.
"""

from __future__ import annotations

from collections.abc import Callable
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

    def facts() -> dict[str, object]:
        plan, stats = model.plan, model.stats
        one = (1, *source.shape)
        least_workspace = model.plan_for(one).workspace
        return {
            "budget": model.budget,
            "least_workspace": least_workspace,
            # 0 where bands need less than whole activations: T* may then take any window.
            "least_window": max(0, model.min_budget(one) - least_workspace),
            "weights": plan.pinned_bytes + plan.streamed_bytes,
            "pinned": plan.pinned_bytes,
            "window": plan.window,
            "workspace": plan.workspace,
            "stall": stats.stall,
            "bytes_read": stats.bytes_read,
            "layers": [[layer.name, layer.weights, layer.compute] for layer in stats.layers],
        }

    return Opened(run, facts)


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
