"""Which models are served, under which names: what the pool has, and what else the repository could give.

All of it may block: on files, and `load`, `unload` and `unregister` on the pool.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from streamrt.engine.inputs import batch_of
from streamrt.errors import StreamrtError, UnknownModelError
from streamrt.format import FileIdentity, read_header
from streamrt.graph import TensorSpec
from streamrt.ops import Array
from streamrt.pool import ModelPool, ModelStatus, State
from streamrt.pool.entry import pause_after
from streamrt.pool.failure import anew, strip
from streamrt.serve.folder import Folder, check_name, file_of, model_of


class NameTakenError(StreamrtError):
    """A model of that name is registered already."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a model takes and gives.

    Attributes:
        version: of its file (`streamrt.Model.checksum`). There is one at a time, and another content has another.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    version: str

    def samples(self, inputs: Mapping[str, Array]) -> int:
        """How many samples inputs of this model have; 1 where it has no axis for them."""
        return batch_of({name: array.shape for name, array in inputs.items()}, self.inputs) or 1


@dataclass(frozen=True, slots=True)
class _Broken:
    """A header that could not be read, with this stripped error, so many times in a row; not again before then."""

    error: Exception
    failures: int
    until: float


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """A line of the repository's index: ``state`` is READY if requests for the model are served, loaded or not."""

    name: str
    state: str
    reason: str = ""


class Catalog:
    """The models that are served. Any thread may call anything.

    Args:
        folder: where they come from.
        pool: that has them.
    """

    def __init__(self, folder: Folder, pool: ModelPool) -> None:
        self._folder = folder
        self._pool = pool
        self._changing = threading.Lock()  # one registration or removal at a time
        self._lock = threading.Lock()  # over the two below; never held while anything waits
        self._files: dict[str, str] = {}  # of the models that are served, by name
        self._specs: dict[str, tuple[FileIdentity, ModelSpec | _Broken]] = {}

    def register_all(self) -> int:
        """Serve every model of the folder; returns how many these are."""
        names = self._folder.models()
        for name in names:
            self.register(file_of(name))
        return len(names)

    def has(self, name: str) -> bool:
        """Whether a model of this name is served."""
        with self._lock:
            return name in self._files

    def served(self) -> list[tuple[str, str]]:
        """Name and file of every model that is served, sorted."""
        with self._lock:
            return sorted(self._files.items())

    def register(self, file: str, name: str | None = None) -> str:
        """Serve a file of the folder, by its own name or another; returns the name.

        Raises:
            InputError: ``name`` or ``file`` is none.
            NameTakenError: another model is served by that name, or would be if it were loaded.
            UnknownModelError: the folder has no such file.
        """
        own = model_of(file)
        name = own if name is None else check_name(name)
        with self._changing:
            path = self._folder.place(file)
            if self.has(name) or (name != own and name in self._folder.models()):
                raise NameTakenError(f"the name {name!r} is taken")
            self._pool.register(name, path)
            with self._lock:
                self._files[name] = file
        return name

    def unregister(self, name: str) -> None:
        """Serve a model no more; returns when requests that have it are done and its memory is given back.

        Raises:
            UnknownModelError: none of that name is served.
        """
        with self._changing:
            with self._lock:
                if self._files.pop(name, None) is None:
                    raise UnknownModelError(f"no model named {name!r:.140} is served")
                self._specs.pop(name, None)
            self._pool.unregister(name)

    def load(self, name: str) -> None:
        """Serve a model and bring its weights in, as many as it is granted; anew, if it is served already.

        Raises:
            InputError, UnknownModelError: as `register`.
            Exception: what a lease of the pool raises.
        """
        check_name(name)
        if self.has(name):
            self._folder.path(self.status(name)[0])
            with self._lock:
                self._specs.pop(name, None)
            self._pool.unload(name)  # its file may be another by now
        else:
            self.register(file_of(name))
        self.prefetch(name).result()

    def prefetch(self, name: str) -> Future[None]:
        """Begin to bring in the weights of a model that is served, as many as it is granted.

        Returns:
            A future that is done when they are in memory, or has the error that a lease of the pool raises.

        Raises:
            UnknownModelError: none of that name is served.
        """
        with suppress(Exception):  # the pool meets the same error, if there is one
            self.spec(name)  # notes which file this is, so that a later call sees that it was replaced
        return self._pool.prefetch(name)

    def spec(self, name: str, version: str | None = None) -> ModelSpec:
        """What a model takes and gives, from the header of its file.

        Args:
            name: of the model.
            version: that it must have; None takes it as it is.

        Raises:
            UnknownModelError: none of that name is served, or its file is gone, or has another version.
            FormatError, WeightsIOError: its file cannot be used. It is read again when it is another one, and after a
                pause that grows as that of a load does.
        """
        with self._lock:
            file, known = self._files.get(name), self._specs.get(name)
        if file is None:
            raise UnknownModelError(f"no model named {name!r:.140} is served")
        path = self._folder.path(file)
        identity = FileIdentity.of(path)
        spec = known[1] if known and known[0] == identity else None
        if spec is None or (isinstance(spec, _Broken) and spec.until <= monotonic()):
            identity, spec = _read(path, identity, 0 if spec is None else spec.failures)
            with self._lock:
                if name in self._files:
                    self._specs[name] = identity, spec
            if known and isinstance(spec, ModelSpec):
                self._forget_failure(name)
        if isinstance(spec, _Broken):
            raise anew(spec.error)
        if version not in (None, spec.version):
            raise UnknownModelError(f"the model {name!r:.140} has version {spec.version}, and no other")
        return spec

    def status(self, name: str) -> tuple[str, ModelStatus]:
        """The file of a model that is served, and what the pool says of it.

        Raises:
            UnknownModelError: none of that name is served.
        """
        with self._lock:
            file = self._files.get(name)
        status = next((status for status in self._pool.index() if status.name == name), None)
        if file is None or status is None:
            raise UnknownModelError(f"no model named {name!r:.140} is served")
        return file, status

    def entry(self, name: str) -> IndexEntry:
        """Whether a model that is served is ready.

        Raises:
            UnknownModelError: none of that name is served.
        """
        trouble = self._trouble(name)
        return _entry(self.status(name)[1], trouble)

    def index(self) -> list[IndexEntry]:
        """Every model that is served, or could be, sorted by name."""
        troubles = {name: self._trouble(name) for name, _ in self.served()}
        entries = {
            status.name: _entry(status, troubles[status.name])
            for status in self._pool.index()
            if status.name in troubles
        }
        for name in self._folder.models():
            entries.setdefault(name, IndexEntry(name, "UNAVAILABLE", "unloaded"))
        return [entries[name] for name in sorted(entries)]

    def _trouble(self, name: str) -> str:
        """The type of the error for which the header of a model cannot be read; empty where it can."""
        try:
            self.spec(name)
        except Exception as error:  # whatever it is: the index has other models, too
            return type(error).__name__
        return ""

    def _forget_failure(self, name: str) -> None:
        """Have the pool load a model again that it could not load: its file was mended or replaced."""
        with suppress(UnknownModelError):  # it was unregistered meanwhile
            if self.status(name)[1].state is State.FAILED:
                self._pool.unload(name, wait=False)


def _entry(status: ModelStatus, trouble: str) -> IndexEntry:
    # Of reasons the type alone: their texts have paths.
    if failed := trouble or (status.reason.partition(":")[0] if status.state is State.FAILED else ""):
        return IndexEntry(status.name, "UNAVAILABLE", f"{failed}: it cannot be loaded")
    if status.state is State.UNLOADING:
        return IndexEntry(status.name, "UNLOADING")
    return IndexEntry(status.name, "READY", "" if status.held else "its weights are read when it is asked for")


def _read(path: Path, identity: FileIdentity, failures: int) -> tuple[FileIdentity, ModelSpec | _Broken]:
    """What a header says, of which file; ``identity`` and ``failures`` tell what was known of the file before."""
    try:
        header = read_header(path)
    except Exception as error:
        return identity, _Broken(strip(error), failures + 1, monotonic() + pause_after(failures))
    return header.identity, ModelSpec(header.graph.inputs, header.graph.outputs, header.checksum)
