"""What the pool knows of one model: its state, what it holds, why it failed. No locks here: all is under the pool's."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from streamrt.format import FileIdentity
from streamrt.pool.admission import Needs
from streamrt.pool.resident import Resident

#: Bytes per second at which a model is taken to be read before it was.
SPEED = 2.5e9
#: Seconds until a load that failed is tried again; twice as long each time that it fails again, up to the second.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
#: Doublings after which a pause is the longest: far more would be too large for a float.
_DOUBLINGS = 7


def pause_after(failures: int) -> float:
    """Seconds until another try, when there were so many failures before the last one."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures, _DOUBLINGS))


class State(enum.Enum):
    """Of a model in a pool."""

    UNAVAILABLE = "UNAVAILABLE"  # registered, and nothing of it in memory
    LOADING = "LOADING"  # being opened, or prefetched
    READY = "READY"  # open: it can be leased at once
    UNLOADING = "UNLOADING"  # on its way out, as soon as its leases have ended
    FAILED = "FAILED"  # could not be loaded, and will be tried again


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One line of `ModelPool.index`; sizes in bytes.

    Attributes:
        name: under which it was registered.
        path: of its weights file.
        state: see `State`.
        reason: why it failed; else empty.
        pin: whether its weights are to stay.
        leases: how many there are now.
        held: what of the budget it holds.
        weights: all of its weights; None until its header has been read.
        requests: leases and prefetches that were asked for.
        hits: of these, those that found all weights in memory.
        loads: how often it was opened.
        bytes_loaded: weights brought into memory for it.
    """

    name: str
    path: str
    state: State
    reason: str
    pin: bool
    leases: int
    held: int
    weights: int | None
    requests: int
    hits: int
    loads: int
    bytes_loaded: int


@dataclass(eq=False, slots=True)
class Flight:
    """A load in progress: whoever wants the model meanwhile waits for this one.

    Attributes:
        waiters: how many do; each of them gets a lease when it ends well.
        done: it has ended.
        granted: it ended with leases for its waiters.
        error: it ended with this, stripped: see `streamrt.pool.failure`.
    """

    waiters: int = 0
    done: bool = False
    granted: bool = False
    error: BaseException | None = None


@dataclass(eq=False, slots=True)
class Entry:
    """A registered model.

    Attributes:
        needs: from its header; None before that was read.
        identity: of the file whose header that was.
        resident: the open model, or None.
        budget: that the open model was given; it holds less while it rests.
        pinned: the part of what it holds that are weights; while it is leased, what they were granted.
        leases: how many there are.
        busy: a thread is changing it: nobody else may.
        flight: that thread loads it.
        preloading: how many prefetches are reading.
        unloading: it is to be closed when its leases have ended.
        removed: and then forgotten.
        error: what the last load, or a call, failed with, stripped: see `streamrt.pool.failure`.
        failures: in a row.
        retry_at: when another load may be tried.
        replaced: loads in a row that found another file than was measured.
    """

    name: str
    path: str
    pin: bool = False
    needs: Needs | None = None
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
    counted: int = 0  # of `resident.loaded`, what is in `loaded` already
    loaded: int = 0
    timed: float = 0.0  # of `resident.reading`, what is in `seconds` already
    seconds: float = 0.0  # that reading `loaded` took

    @property
    def state(self) -> State:
        """What `ModelPool.index` tells."""
        if self.unloading:
            return State.UNLOADING
        if self.flight or self.preloading:
            return State.LOADING
        if self.error is not None:
            return State.FAILED
        return State.READY if self.resident else State.UNAVAILABLE

    def fail(self, error: BaseException, now: float) -> None:
        """It could not be loaded, or is not what it was: `retry_at` says when to try again."""
        self.error = error
        self.retry_at = now + pause_after(self.failures)
        self.failures += 1

    def forget_failure(self) -> None:
        """It was loaded, or is to be loaded from what may be another file: failures before do not count any more."""
        self.error, self.failures, self.replaced = None, 0, 0

    def count_loaded(self) -> None:
        """Take note of what the open model has brought in."""
        if self.resident:
            total = self.resident.loaded
            self.loaded += total - self.counted
            self.counted = total
            reading = self.resident.reading
            self.seconds += reading - self.timed
            self.timed = reading

    def cost(self) -> float:
        """Seconds that reading all of its weights takes, as measured: to a power of two, for the rest is chance."""
        assert self.needs
        usual = self.needs.weights / SPEED
        if not self.loaded or self.seconds <= 0:
            return usual
        return float(usual * 2.0 ** round(math.log2(self.seconds / self.loaded * SPEED)))
