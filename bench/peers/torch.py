"""PyTorch: with a state dict that is loaded, or one that stays in its file and is mapped; compiled; and in bfloat16."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.models import Source, mlp, vision
from bench.peers import TOLERANCES, Array, Opened, Peer, Setting


def network(source: Source, *, meta: bool = False) -> Any:
    """The model as a module in evaluation mode, without its weights, and with ``meta`` without memory for them."""
    import torch

    if source.family == "cnn":
        return vision.module(source, meta=meta)
    shape = mlp.Shape.of(source)
    with torch.device("meta" if meta else "cpu"):
        pairs = [(torch.nn.Linear(shape.width, shape.width), torch.nn.ReLU()) for _ in range(shape.layers)]
    return torch.nn.Sequential(*[layer for pair in pairs for layer in pair][:-1]).eval()


def state_dict(source: Source) -> dict[str, Any]:
    """The weights for `network`, mapped."""
    import torch

    if source.family == "cnn":
        return torch.load(vision.state_file(source), mmap=True)
    warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # no code writes to it
    state: dict[str, Any] = {}
    for index, (weights, bias) in enumerate(mlp.layers(source)):
        state |= {f"{2 * index}.weight": torch.from_numpy(weights), f"{2 * index}.bias": torch.from_numpy(bias)}
    return state


def opened(module: Any, setting: Setting, dtype: Any = None) -> Opened:
    """A module with weights, ready to be called. It computes in ``dtype``, or in float32."""
    import torch

    torch.set_num_threads(setting.threads_each)  # of a call

    def run(x: Array) -> Array:
        with torch.inference_mode():
            return module(torch.from_numpy(x).to(dtype or torch.float32)).float().numpy()

    return Opened(run)


def _file(source: Source, folder: Path) -> Path:
    return vision.state_file(source) if source.family == "cnn" else folder / "model.pt"


def _prepare(source: Source, folder: Path) -> None:
    import torch

    if source.family == "mlp":
        torch.save(state_dict(source), _file(source, folder))


def _open(source: Source, folder: Path, setting: Setting) -> Opened:
    import torch

    module = network(source, meta=True).to_empty(device="cpu")  # random weights would only take time
    module.load_state_dict(torch.load(_file(source, folder)))
    return opened(module, setting)


def _open_mapped(source: Source, folder: Path, setting: Setting) -> Opened:
    import torch

    # As in https://docs.pytorch.org/tutorials/recipes/recipes/module_load_state_dict_tips.html
    module = network(source, meta=True)
    module.load_state_dict(torch.load(_file(source, folder), mmap=True), assign=True)
    return opened(module, setting)


def _open_compiled(source: Source, folder: Path, setting: Setting) -> Opened:
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "compiled")  # the check before timing fills it
    import torch

    module = network(source, meta=True).to_empty(device="cpu")
    module.load_state_dict(torch.load(_file(source, folder)))
    # With frozen weights the compiler folds them, and lays them out for its kernels.
    return opened(torch.compile(module, dynamic=False, options={"freezing": True}), setting)


def _bfloat16_file(source: Source, folder: Path) -> Path:
    return folder / "model.pt"


def _prepare_bfloat16(source: Source, folder: Path) -> None:
    import torch

    state = state_dict(source)
    rounded = {name: tensor.bfloat16() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    torch.save(rounded, _bfloat16_file(source, folder))


def _open_bfloat16(source: Source, folder: Path, setting: Setting) -> Opened:
    import torch

    module = network(source, meta=True).bfloat16()
    module.load_state_dict(torch.load(_bfloat16_file(source, folder)), assign=True)  # holds the weights once
    return opened(module, setting, torch.bfloat16)


_PEERS = [
    Peer(
        name=name,
        modules=("torch",),
        packages=("torch", "torchvision"),
        families=frozenset({"mlp", "cnn"}),
        prepare=_prepare,
        open=open_,
        files=lambda source, folder: [_file(source, folder)],
        frugal=mapped,
        environ=environ,
        optional=bool(environ),
    )
    for name, open_, mapped, environ in (
        ("torch", _open, False, ()),
        ("torch avx2", _open, False, (("ONEDNN_MAX_CPU_ISA", "AVX2"), ("ATEN_CPU_CAPABILITY", "avx2"))),
        ("torch mmap", _open_mapped, True, ()),
    )
]
_BFLOAT16 = replace(
    _PEERS[0],
    name="torch bfloat16",
    prepare=_prepare_bfloat16,
    open=_open_bfloat16,
    files=lambda source, folder: [_bfloat16_file(source, folder)],
    optional=True,
    tolerance=TOLERANCES["bfloat16"],
    arithmetic="bfloat16",
)
_COMPILED = replace(
    _PEERS[0],
    name="torch compiled",
    open=_open_compiled,
    files=lambda source, folder: [_file(source, folder)],
    programs=("g++",),
    optional=True,
)
PEERS = [*_PEERS, _COMPILED, _BFLOAT16]
