"""The contenders, one small file each; a new file with a list ``PEERS`` is all there is to adding one.

These modules are imported by the driver too, so they import what they measure inside their functions only.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.models import Source

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Setting:
    """How a peer is to run.

    Attributes:
        batch: samples of a call; the only batch that it will be called with.
        threads: threads that may compute.
        budget: bytes that the model may hold, as streamrt takes it; peers that know no budget ignore it.
        verify: whether weights are compared with their checksums as they arrive; only streamrt has any.
    """

    batch: int
    threads: int
    budget: str | None = None
    verify: bool = False


@dataclass(frozen=True, slots=True)
class Opened:
    """A model that is ready to be called.

    Attributes:
        run: (batch, *input) float32 in, (batch, *output) float32 out.
        facts: what the peer tells of its last call, for the record.
    """

    run: Callable[[Array], Array]
    facts: Callable[[], dict[str, object]] = dict


@dataclass(frozen=True, slots=True)
class Peer:
    """A way to run a model.

    Attributes:
        name: as the tables show it.
        modules: what must be importable; ``import`` of these is what the scenario ``import`` measures.
        packages: distributions whose versions the record names.
        families: kinds of models that it runs: ``"mlp"``, ``"cnn"``.
        prepare: writes what it needs of a source into a folder; once, unmeasured, in a process of its own.
        open: opens what ``prepare`` wrote.
        files: the files that hold the weights, given the source and the folder; they are cold before a cold start.
        frugal: whether it is a way of a package to hold fewer weights at the cost of speed, with a faster one beside
            it; it has no place where everything is in memory.
        module: the file that it is written in; `peers` fills it in.
    """

    name: str
    modules: tuple[str, ...]
    packages: tuple[str, ...]
    families: frozenset[str]
    prepare: Callable[[Source, Path], None]
    open: Callable[[Source, Path, Setting], Opened]
    files: Callable[[Source, Path], list[Path]]
    frugal: bool = False
    module: str = ""


def peers() -> dict[str, Peer]:
    """Every peer by its name: streamrt first, the others in alphabetical order."""
    found = []
    for name in (info.name for info in pkgutil.iter_modules(__path__)):
        module = importlib.import_module(f"{__name__}.{name}")
        found += [replace(peer, module=str(module.__file__)) for peer in module.PEERS]
    found.sort(key=lambda peer: (not peer.name.startswith("streamrt"), peer.name))
    return {peer.name: peer for peer in found}
