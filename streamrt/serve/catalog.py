"""Which models are served, and under which names: the models of the pool, and other files of the repository.

All methods but `known_spec` may block: on files, and `load` and `unregister` on the pool. `Catalog.refresh` compares
the folder with the models that are served. A new file is served once it is complete, and a model whose file is gone
ends with its requests.
"""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic

from streamrt.engine.inputs import Given, batch_of
from streamrt.errors import ModelClosedError, StreamrtError, UnknownModelError
from streamrt.format import FileIdentity, WeightsFile, check_end, read_header
from streamrt.graph import TensorSpec
from streamrt.pool import ModelPool, ModelStatus, State
from streamrt.pool.entry import pause_after
from streamrt.pool.failure import anew, strip, told
from streamrt.serve.folder import Folder, check_name, file_of, model_of


class NameTakenError(StreamrtError):
    """A model of this name is registered already."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The inputs and outputs of a model.

    Attributes:
        inputs: specification of every input.
        outputs: specification of every output.
        version: checksum of its file (`streamrt.Model.checksum`). A file of other content has another version.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    version: str

    def samples(self, inputs: Mapping[str, Given]) -> int:
        """How many samples the inputs have; 1 for a model without an axis for samples."""
        return batch_of({name: array.shape for name, array in inputs.items()}, self.inputs) or 1


@dataclass(frozen=True, slots=True)
class _Broken:
    """A header that could not be read.

    Attributes:
        error: of the last try, stripped: see `streamrt.pool.failure`.
        failures: how many tries in a row have failed.
        until: time of the next try, in monotonic seconds.
    """

    error: Exception
    failures: int
    until: float


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """A line of the repository's index.

    Attributes:
        name: of the model.
        state: READY if requests for the model are served, whether it is in memory or not; UNLOADING or UNAVAILABLE.
        reason: more about the state, or empty.
    """

    name: str
    state: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Changes:
    """The result of `Catalog.refresh`.

    Attributes:
        added: names of models that are served now.
        replaced: names of models whose files were replaced.
        removed: names of models that are served no more.
        refused: names of files that cannot be served, with type and text of the error. A file that was refused before
            for the same reason is left out.
        loose: names of models that were to be pinned again and cannot be, in the same form.
        left: whether something may be possible later: a file is not complete, or another model of its name is ending,
            or a model cannot be pinned.
    """

    added: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    loose: list[tuple[str, str]] = field(default_factory=list)
    left: bool = False


class Catalog:
    """The models that are served. Any thread may call anything.

    Args:
        folder: the repository.
        pool: the pool with the models that are served.
        drain: returns when the requests for the model of a name, which is no longer served, have ended.
    """

    def __init__(self, folder: Folder, pool: ModelPool, drain: Callable[[str], None] = lambda name: None) -> None:
        self._folder = folder
        self._pool = pool
        self._drain = drain
        self._changing = threading.Lock()  # one registration, or one comparison with the folder, at a time
        self._refused: dict[str, str] = {}  # files that `refresh` has refused, with the error; under the lock above,
        self._loose: dict[str, str] = {}  # and models that it could not pin again
        self._lock = threading.Lock()  # over everything below; nothing waits while it is held
        self._files: dict[str, str] = {}  # names of files, by the names of the models that are served
        self._specs: dict[str, tuple[FileIdentity, ModelSpec | _Broken]] = {}
        self._leaving: dict[str, Future[None]] = {}  # models that end with their requests; done when they have ended
        self._pins: set[str] = set()  # models that are to be pinned whenever they are served
        self._unloaded: set[str] = set()  # models that a client has unloaded: `refresh` does not serve them again

    def register_all(self) -> int:
        """Serve every model of the folder; returns their number."""
        names = self._folder.models()
        for name in names:
            self.register(file_of(name))
        return len(names)

    def has(self, name: str) -> bool:
        """Whether a model of this name is served."""
        with self._lock:
            return name in self._files

    def require(self, name: str) -> None:
        """Raise `UnknownModelError` unless a model of this name is served. This touches no file."""
        if not self.has(name):
            raise _unknown(name)

    def served(self) -> list[tuple[str, str]]:
        """Name and file of every model that is served, sorted."""
        with self._lock:
            return sorted(self._files.items())

    def register(self, file: str, name: str | None = None) -> str:
        """Serve a file of the folder under its own name or another; returns the name.

        Raises:
            InputError: ``name`` or ``file`` is not a valid name.
            NameTakenError: another model is served under that name, or a file of the folder has it.
            UnknownModelError: the folder has no such file.
        """
        own = model_of(file)
        name = own if name is None else check_name(name)
        with self._changing:
            path = self._folder.place(file)
            if self.has(name) or (name != own and name in self._folder.models()):
                raise NameTakenError(
                    f"the name {name!r} is taken by another model: unregister that, or pass another model_name"
                )
            self._add(name, file, path)
        return name

    def unregister(self, name: str) -> None:
        """Stop serving a model; returns when its requests have ended and its memory is free.

        Raises:
            UnknownModelError: no model of this name is served.
        """
        self._leave(name, unloaded=True).result()

    def refresh(self) -> Changes:
        """Serve new files of the folder, end models whose files are gone, and close models whose files were replaced.

        A file that is not complete, or no weights file, is refused. A model that a client has unloaded stays unloaded
        as long as the folder has its file.

        Raises:
            OSError: the folder cannot be read. Nothing has changed then.
        """
        changes = Changes()
        with self._changing:
            names = dict.fromkeys(self._folder.models())
            with self._lock:
                self._unloaded.intersection_update(names)
            opened = {status.name: status.identity for status in self._pool.index()}
            refused: dict[str, str] = {}
            for name, file in self.served():
                try:
                    if model_of(file) not in names and self._folder.has_lost(file):
                        self._leave(name)
                        changes.removed.append(name)
                    elif self._is_replaced(name, file, opened.get(name)):
                        changes.replaced.append(name)
                except UnknownModelError:  # a client has unloaded it just now, or its file is gone just now
                    continue
                except Exception as error:  # of any type, for a new file that is not complete
                    refused[name] = told(error)
            ending = False
            for name in names:
                if self.has(name) or name in self._unloaded:
                    continue
                if name in self._leaving:  # a model of this name ends with its requests: do not wait for them
                    ending = True
                    continue
                try:
                    self._take(name)
                    changes.added.append(name)
                except Exception as error:  # of any type: other files must be served
                    refused[name] = told(error)
            loose = self._pin_again()
            changes.refused.extend(sorted(refused.items() - self._refused.items()))
            changes.loose.extend(sorted(loose.items() - self._loose.items()))
            self._refused, self._loose = refused, loose
        return replace(changes, left=ending or bool(refused or loose))

    def _add(self, name: str, file: str, path: Path) -> None:
        """Serve a file. If a model of this name is ending, this waits for its end."""
        with self._lock:
            leaving = self._leaving.get(name)
        if leaving:
            leaving.result()
        self._pool.register(name, path)
        with self._lock:
            self._files[name] = file
            self._unloaded.discard(name)

    def _take(self, name: str) -> None:
        """Serve a new file of the folder.

        Raises:
            FormatError, WeightsIOError: it is not complete, or no weights file.
            UnknownModelError: it is gone.
        """
        file = file_of(name)
        header = read_header(self._folder.path(file))
        check_end(header)
        self._add(name, file, self._folder.place(file))
        with self._lock:
            self._specs[name] = header.identity, _spec(header)

    def _is_replaced(self, name: str, file: str, opened: FileIdentity | None) -> bool:
        """Whether the file of a model was replaced. The pool then closes the model if it has the old file open.

        Args:
            name: of the model.
            file: its name.
            opened: the file that the pool has open.

        Raises:
            FormatError, WeightsIOError: the new file cannot be used.
            UnknownModelError: the file or the model is gone.
        """
        identity = FileIdentity.of(self._folder.path(file))
        with self._lock:
            known = self._specs.get(name)
        if not (known and known[0] != identity) and opened in (None, identity):
            return False
        self.spec(name)
        if opened not in (None, identity):
            self._pool.unload(name, wait=name in self._pins)  # it is pinned by its new size, once it is closed
        return True

    def _pin_again(self) -> dict[str, str]:
        """Pin models whose files came back or were replaced. Returns the errors of those that do not fit, by name."""
        loose = {status.name for status in self._pool.index() if not (status.kept and status.identity)}
        errors = {}
        for name in sorted(loose & self._pins):
            try:
                if self.has(name):
                    self._pool.pin(name)
            except Exception as error:  # of any type: other models must be pinned
                errors[name] = told(error)
        return errors

    def _leave(self, name: str, *, unloaded: bool = False) -> Future[None]:
        """Take no more requests for a model, and remove it when those in progress have ended.

        Args:
            name: of the model.
            unloaded: whether it stays unloaded although the folder has its file.

        Returns:
            A future that is done when its memory is free.

        Raises:
            UnknownModelError: no model of this name is served.
        """
        left: Future[None] = Future()
        with self._lock:
            if self._files.pop(name, None) is None:
                raise _unknown(name)
            self._specs.pop(name, None)
            self._leaving[name] = left
            if unloaded:
                self._unloaded.add(name)
                self._pins.discard(name)
        try:
            _thread.start_new_thread(self._end, (name, left))
        except RuntimeError:  # no thread can be started
            self._end(name, left)
        return left

    def _end(self, name: str, left: Future[None]) -> None:
        try:
            self._drain(name)
            self._pool.unregister(name)
        except (ModelClosedError, UnknownModelError):  # the pool is closed
            pass
        finally:
            with self._lock:
                del self._leaving[name]
            left.set_result(None)

    def load(self, name: str) -> None:
        """Serve a model, and read as many of its weights as the pool grants; again, if it is served already.

        Raises:
            InputError, UnknownModelError: as `register`.
            Exception: an error of a lease of the pool.
        """
        check_name(name)
        if self.has(name):
            self._folder.path(self.status(name)[0])
            with self._lock:
                self._specs.pop(name, None)
            self._pool.unload(name)  # its file may have been replaced
        else:
            self.register(file_of(name))
        self.prefetch(name).result()

    def prefetch(self, name: str) -> Future[None]:
        """Begin to read as many weights of a model that is served as the pool grants.

        Returns:
            A future that is done when they are in memory, or has the error of a lease of the pool.

        Raises:
            UnknownModelError: no model of this name is served.
        """
        with suppress(Exception):  # the pool meets the same error, if any
            self.spec(name)  # notes which file this is, so that a later call sees that it was replaced
        return self._pool.prefetch(name)

    def pin(self, name: str) -> Future[None]:
        """Serve a model, and keep all of its weights in memory. If its file comes back later, it is pinned again.

        Returns:
            A future that is done when they are in memory, or has the error of a lease of the pool.

        Raises:
            InputError, UnknownModelError: as `register`.
            PinError, FormatError, WeightsIOError: as `ModelPool.pin`. It is served then, and not pinned.
        """
        check_name(name)
        if not self.has(name):
            self.register(file_of(name))
        with suppress(Exception):  # the pool meets the same error, if any
            self.spec(name)  # as for `prefetch`
        pinned = self._pool.pin(name)
        with self._lock:
            self._pins.add(name)
        return pinned

    def unpin(self, name: str) -> None:
        """Make a pinned model an ordinary one.

        Raises:
            UnknownModelError: no model of this name is served.
        """
        with self._lock:
            if name not in self._files:
                raise _unknown(name)
            self._pins.discard(name)
        self._pool.unpin(name)

    def spec(self, name: str, version: str | None = None) -> ModelSpec:
        """The inputs and outputs of a model, from the header of its file.

        Args:
            name: of the model.
            version: that the file must have; None allows any.

        Raises:
            UnknownModelError: no model of this name is served, or its file is gone or has another version.
            FormatError, WeightsIOError: the file cannot be used. It is read again when it was replaced, and after a
                pause, which grows with every failure as the pause of a load does.
        """
        return self.known_spec(name, version) or _checked(self._read_spec(name), name, version)

    def known_spec(self, name: str, version: str | None = None) -> ModelSpec | None:
        """The result of `spec`, if no file has to be read for it; None otherwise. It takes one ``stat``.

        Raises:
            UnknownModelError: the file has another version.
        """
        with self._lock:
            file, known = self._files.get(name), self._specs.get(name)
        if file is None or known is None or not isinstance(known[1], ModelSpec):
            return None
        # It is the file that was found to be one that may be served, unchanged. So links need not be followed again,
        # even if they lead to another place where it lies now.
        return _checked(known[1], name, version) if known[0].is_at(self._folder.join(file)) else None

    def _read_spec(self, name: str) -> ModelSpec:
        with self._lock:
            file, known = self._files.get(name), self._specs.get(name)
        if file is None:
            raise _unknown(name)
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
        return spec

    def status(self, name: str) -> tuple[str, ModelStatus]:
        """The file of a model that is served, and its state in the pool.

        Raises:
            UnknownModelError: no model of this name is served.
        """
        with self._lock:
            file = self._files.get(name)
        status = next((status for status in self._pool.index() if status.name == name), None)
        if file is None or status is None:
            raise _unknown(name)
        return file, status

    def entry(self, name: str) -> IndexEntry:
        """The line of the index about a model that is served.

        Raises:
            UnknownModelError: no model of this name is served.
        """
        trouble = self._trouble(name)
        return _entry(self.status(name)[1], trouble)

    def index(self) -> list[IndexEntry]:
        """A line for every model that is served, and for every other file of the folder, sorted by name."""
        troubles = {name: self._trouble(name) for name, _ in self.served()}
        entries = {
            status.name: _entry(status, troubles[status.name])
            for status in self._pool.index()
            if status.name in troubles
        }
        refused = self._refused
        for name in self._folder.models():
            reason = f"{refused[name].partition(':')[0]}: it cannot be loaded" if name in refused else "unloaded"
            entries.setdefault(name, IndexEntry(name, "UNAVAILABLE", reason))
        return [entries[name] for name in sorted(entries)]

    def _trouble(self, name: str) -> str:
        """The type of the error for which the header of a model cannot be read; empty if it can be read."""
        try:
            self.spec(name)
        except Exception as error:  # of any type, because the index must show the other models
            return type(error).__name__
        return ""

    def _forget_failure(self, name: str) -> None:
        """Let the pool load a model again that it could not load: its file was repaired or replaced."""
        with suppress(UnknownModelError):  # it was unregistered meanwhile
            if self.status(name)[1].state is State.FAILED:
                self._pool.unload(name, wait=False)


def _checked(spec: ModelSpec, name: str, version: str | None) -> ModelSpec:
    if version not in (None, spec.version):
        raise UnknownModelError(
            f"the model {name!r:.140} has version {spec.version}, found a request for {version!r:.40}"
        )
    return spec


def _unknown(name: str) -> UnknownModelError:
    return UnknownModelError(
        f"no model named {name!r:.140} is served; a model has the name of its file, without the ending"
    )


def _entry(status: ModelStatus, trouble: str) -> IndexEntry:
    # Only the type of an error: its text may have paths.
    if failed := trouble or (status.reason.partition(":")[0] if status.state is State.FAILED else ""):
        return IndexEntry(status.name, "UNAVAILABLE", f"{failed}: it cannot be loaded")
    if status.state is State.UNLOADING:
        return IndexEntry(status.name, "UNLOADING")
    return IndexEntry(status.name, "READY", "" if status.held else "its weights are read when it is asked for")


def _read(path: Path, identity: FileIdentity, failures: int) -> tuple[FileIdentity, ModelSpec | _Broken]:
    """Read the header of a file.

    Args:
        path: of the file.
        identity: of the file, if its header cannot be read.
        failures: how many reads of this file have failed in a row.

    Returns:
        The identity of the file that was read, and its specification or the error.
    """
    try:
        header = read_header(path)
    except Exception as error:
        return identity, _Broken(strip(error), failures + 1, monotonic() + pause_after(failures))
    return header.identity, _spec(header)


def _spec(header: WeightsFile) -> ModelSpec:
    return ModelSpec(header.graph.inputs, header.graph.outputs, header.checksum)
