"""Hugging Face Accelerate: weights on disk; those of a layer are in memory while it runs on the CPU."""

from __future__ import annotations

from pathlib import Path

from bench.models import Source
from bench.peers import Opened, Peer, Setting
from bench.peers.torch import network, opened, state_dict


def _offloaded(folder: Path) -> Path:
    """A file for each tensor, and ``index.json``."""
    return folder / "offloaded"


def _prepare(source: Source, folder: Path) -> None:
    from accelerate.utils import offload_state_dict

    offload_state_dict(_offloaded(folder), state_dict(source))


def _open(source: Source, folder: Path, setting: Setting) -> Opened:
    from accelerate import disk_offload

    # "Disk offload only" in the documentation's guide to big model inference. A folder with an index is used as it is.
    # BatchNorm's statistics are buffers, and they come from there, too.
    module = network(source, meta=True)
    disk_offload(module, _offloaded(folder), execution_device="cpu", offload_buffers=True)
    return opened(module, setting)


PEERS = [
    Peer(
        name="accelerate",
        modules=("accelerate",),
        packages=("accelerate", "torch", "torchvision"),
        families=frozenset({"mlp", "cnn"}),
        prepare=_prepare,
        open=_open,
        frugal=True,
        files=lambda source, folder: sorted(_offloaded(folder).glob("*.dat")),
    )
]
