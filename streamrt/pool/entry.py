"""A registered model: its state, the memory that it holds, and why it failed. The pool's lock guards all of this."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from streamrt.format import FileIdentity
from streamrt.host.rates import DISK
from streamrt.pool.admission import Holding, Needs
from streamrt.pool.resident import Resident

#: Seconds until a failed load is tried again. The first pause is 0.5 s, for errors that pass soon. Each further failure
#: doubles the pause, up to 60 s, so that a broken file is not read all the time.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
#: Doublings after which a pause has its largest value: 0.5 s * 2**7 is 64 s. Over 1000 doublings overflow a float.
_DOUBLINGS = 7


def pause_after(failures: int) -> float:
    """Seconds until another try, if ``failures`` failures came before the last one."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures, _DOUBLINGS))


class State(enum.Enum):
    """The state of a model in a pool."""

    UNAVAILABLE = "UNAVAILABLE"  # registered, and nothing of it in memory
    LOADING = "LOADING"  # being opened or prefetched
    READY = "READY"  # open: it can be leased at once
    UNLOADING = "UNLOADING"  # closed as soon as its leases have ended
    FAILED = "FAILED"  # could not be loaded; the load will be tried again


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One line of `ModelPool.index`; sizes in bytes.

    Attributes:
        name: under which it was registered.
        path: of its weights file.
        state: see `State`.
        reason: type and text of the error with which it failed; empty if it did not.
        pin: whether its weights are to stay in memory.
        kept: whether the pool keeps memory for that. It does not if the file of a pinned model was replaced by one that
            does not fit beside other pinned models.
        leases: the number of leases now.
        held: bytes of the budget that it holds.
        weights: bytes of all of its weights; None until its header has been read.
        requests: leases and prefetches that were requested.
        hits: requests that found all weights in memory.
        loads: how often it was opened.
        bytes_loaded: weights brought into memory for it.
        identity: of the file that is open; None while none is open.
    """

    name: str
    path: str
    state: State
    reason: str
    pin: bool
    kept: bool
    leases: int
    held: int
    weights: int | None
    requests: int
    hits: int
    loads: int
    bytes_loaded: int
    identity: FileIdentity | None


@dataclass(eq=False, slots=True)
class Flight:
    """A load in progress. Further requests for the model wait for it.

    Attributes:
        waiters: requests that wait. Each gets a lease if the load succeeds.
        done: whether it has ended.
        granted: whether it ended with leases for its waiters.
        error: the error with which it ended, stripped (see `streamrt.pool.failure`), or None.
    """

    waiters: int = 0
    done: bool = False
    granted: bool = False
    error: BaseException | None = None


@dataclass(eq=False, slots=True)
class Entry:
    """A registered model.

    Attributes:
        name: under which it was registered.
        path: of its weights file.
        pin: whether its weights are to stay in memory.
        reserved: the needs for which the pool keeps memory, because it is pinned; None if it is not, or does not fit.
        needs: bytes that it needs, by its header; None until the header has been read.
        most: the most bytes that it could ever have when ``needs`` were found.
        identity: of the file from which the header was read.
        resident: the open model, or None.
        budget: bytes that the open model was given; it holds less while it rests.
        pinned: bytes of weights that it holds; while it is leased, bytes that were granted for weights.
        leases: the number of leases.
        busy: whether a thread is changing it. No other thread may.
        flight: the load in progress, or None.
        preloading: the number of prefetches that are reading.
        unloading: whether to close it when its leases have ended.
        removed: whether to forget it after that.
        error: of the last load or of a call, stripped: see `streamrt.pool.failure`.
        failures: the number of successive loads and calls that failed.
        retry_at: the time from which another load may be tried, by the pool's clock.
        replaced: the number of successive loads that found another file than the header was read from.
        requests, hits, loads: as in `ModelStatus`.
        loaded: as ``bytes_loaded`` of `ModelStatus`.
        counted: bytes of ``resident.loaded`` that ``loaded`` includes already.
        seconds: duration of reading ``loaded``.
        timed: seconds of ``resident.reading`` that ``seconds`` includes already.
    """

    name: str
    path: str
    pin: bool = False
    reserved: Needs | None = None
    needs: Needs | None = None
    most: int = 0
    identity: FileIdentity | None = None
    resident: Resident | None = None
    budget: int = 0
    pinned: int = 0
    leases: int = 0
    busy: bool = False
    flight: Flight | None = None
    preloading: int = 0
    unloading: bool = False
    removed: bool = False
    error: BaseException | None = None
    failures: int = 0
    retry_at: float = 0.0
    replaced: int = 0
    requests: int = 0
    hits: int = 0
    loads: int = 0
    counted: int = 0
    loaded: int = 0
    timed: float = 0.0
    seconds: float = 0.0
    _of: tuple[object, ...] = ()
    _last: Holding | None = None  # of the state ``_of``

    @property
    def state(self) -> State:
        """The state, as `ModelPool.index` tells it."""
        if self.unloading:
            return State.UNLOADING
        if self.flight or self.preloading:
            return State.LOADING
        if self.error is not None:
            return State.FAILED
        return State.READY if self.resident else State.UNAVAILABLE

    @property
    def fixed(self) -> bool:
        """As in `Holding`."""
        return self.busy or self.leases > 0 or self.unloading

    def fail(self, error: BaseException, now: float) -> None:
        """Note that it could not be loaded or that its file changed, and when to try again."""
        self.error = error
        self.retry_at = now + pause_after(self.failures)
        self.failures += 1

    def forget_failure(self) -> None:
        """Forget earlier failures: the model was loaded, or the next load may find a repaired file."""
        self.error, self.failures, self.replaced = None, 0, 0

    def count_loaded(self) -> None:
        """Add the bytes that the open model has read since the last time, and their seconds."""
        if self.resident:
            total = self.resident.loaded
            self.loaded += total - self.counted
            self.counted = total
            reading = self.resident.reading
            self.seconds += reading - self.timed
            self.timed = reading

    def forget_open(self) -> None:
        """Note that the model is closed."""
        self.count_loaded()
        self.resident, self.counted, self.timed, self.pinned, self.budget = None, 0, 0.0, 0, 0
        self._of, self._last = (), None  # most registered models are closed

    def holding(self, held: int) -> Holding:
        """What it holds, of ``held`` bytes that the ledger has of it. Its needs are known.

        The last answer is kept: between two grants few models change, and a grant looks at all that are open.
        """
        fixed = self.fixed
        of = held, self.pinned, fixed, self.needs, self.reserved
        if self._last is None or of != self._of:
            assert self.needs
            pinned = min(self.pinned, held)
            self._of, self._last = of, Holding(self.needs, pinned, held - pinned, fixed, self.reserved is not None)
        return self._last

    def cost(self) -> float:
        """Measured seconds that reading all of its weights takes, rounded to a power of 2: smaller steps are chance."""
        assert self.needs
        usual = self.needs.weights / DISK
        if not self.loaded or self.seconds <= 0:
            return usual
        return float(usual * 2.0 ** round(math.log2(self.seconds / self.loaded * DISK)))
