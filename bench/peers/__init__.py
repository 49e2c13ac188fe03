"""The contenders, one small file each. A new file with a list ``PEERS`` adds a contender.

The driver imports these modules, too. So they import the packages that they measure inside functions only.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.models import Source
from bench.process.job import TOLERANCE

Array = NDArray[np.float32]

#: Types of weights in fewer bytes, with the largest error of answers. Networks of seeded weights enlarge errors from
#: layer to layer; trained ones do not. An answer of zeros has the error 1.
TOLERANCES: Mapping[str, float] = {"float16": 0.03, "bfloat16": 0.2, "int8": 0.2, "int4": 0.95}


@dataclass(frozen=True, slots=True)
class Setting:
    """How a peer is to run.

    Attributes:
        batch: samples of every call.
        threads: threads that may compute.
        budget: bytes that the model may hold, as streamrt takes it; peers without budgets ignore it.
        verify: whether weights are compared with their checksums as they arrive; only streamrt has checksums.
        cap: bytes of the memory cgroup that the process runs in; None without a cap.
        callers: threads that call at the same time.
    """

    batch: int
    threads: int
    budget: str | None = None
    verify: bool = False
    cap: int | None = None
    callers: int = 1

    @property
    def threads_each(self) -> int:
        """Threads for each caller, for a peer whose calls do not share their work."""
        return max(1, self.threads // self.callers)


@dataclass(frozen=True, slots=True)
class Opened:
    """A model that is ready to be called.

    Attributes:
        run: (batch, *input) float32 in, (batch, *output) float32 out.
        facts: figures of the last call, for the record. They are asked for once; no call follows.
    """

    run: Callable[[Array], Array]
    facts: Callable[[], dict[str, object]] = dict


@dataclass(frozen=True, slots=True)
class NodeTimes:
    """A node of a model as its runtime executes it.

    Attributes:
        names: the names by which it may be known, the surest first: of ONNX nodes or of tensors that they compute.
        op: the runtime's name for its operator.
        seconds: the time of every pass, or one mean of all passes if the runtime tells no more.
    """

    names: tuple[str, ...]
    op: str
    seconds: list[float]


@dataclass(frozen=True, slots=True)
class Profiled:
    """A model that is ready to be called, and tells the times of its nodes.

    Attributes:
        run: as in `Opened`.
        keep: called after every pass, outside the time of the pass. Its results, one for each pass, go to ``nodes``.
        nodes: the nodes in the order of execution, with the times of all passes except the first.
    """

    run: Callable[[Array], Array]
    keep: Callable[[], Any]
    nodes: Callable[[list[Any]], list[NodeTimes]]


@dataclass(frozen=True, slots=True)
class Peer:
    """A way to run a model.

    Attributes:
        name: its name in the tables.
        modules: modules that must be importable; the scenario ``import`` measures importing them.
        packages: distributions whose versions the record names.
        programs: programs on ``PATH`` that it starts.
        families: kinds of models that it runs: ``"mlp"``, ``"cnn"``.
        prepare: writes its own files of a source into a folder; once, unmeasured, in a process of its own.
        open: opens the files that ``prepare`` wrote.
        files: the files that hold the weights, given the source and the folder; they are made cold before a cold start.
        frugal: whether it holds fewer weights at the cost of speed, while the same package has a faster way. It does
            not take part in scenarios with all weights in memory.
        environ: environment variables of its processes, with their values.
        optional: whether it takes part only where it is named: by the scenario, or by ``--peers``.
        tolerance: the largest error of its answers that counts as right, relative to the largest absolute value of the
            reference's. It is larger for a peer that stores weights in fewer bytes.
        arithmetic: the type of the numbers that its products multiply.
        helpers: files of code, beside its module, that ``prepare`` runs: a changed one prepares anew.
        profile: as ``open``, for a model that tells the times of its nodes; None for a peer that cannot.
        function: the folder of a function of AWS Lambda, which has ``handler.py``, and the function's environment
            variables, given the source, the folder and a number of threads; None for a peer without a function.
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
    environ: tuple[tuple[str, str], ...] = ()
    optional: bool = False
    programs: tuple[str, ...] = ()
    tolerance: float = TOLERANCE
    arithmetic: str = "float32"
    helpers: tuple[str, ...] = ()
    profile: Callable[[Source, Path, Setting], Profiled] | None = None
    function: Callable[[Source, Path, int], tuple[Path, dict[str, str]]] | None = None
    module: str = ""


def peers() -> dict[str, Peer]:
    """All peers by name: streamrt first, the others in alphabetical order."""
    found = []
    for name in (info.name for info in pkgutil.iter_modules(__path__)):
        module = importlib.import_module(f"{__name__}.{name}")
        found += [replace(peer, module=str(module.__file__)) for peer in module.PEERS]
    found.sort(key=lambda peer: (not peer.name.startswith("streamrt"), peer.name))
    return {peer.name: peer for peer in found}
