"""The memory of a pool: which model holds how many bytes, and which bytes a request can have.

The rules of threads, for all files of the pool:

* One lock, `Memory.changed`, guards all state. It is never held while a file is read, a model is opened, resized or
  closed, or a call runs.
* A thread that changes a model marks it busy under the lock, works without the lock, and takes it again to settle the
  accounts.
* Whatever takes long and only reads is done without the lock, too: a policy has another lock, and a grant is decided by
  what models held a moment before. It is carried out if they still do.
* Loads run in threads of their own. So every request that waits for a load, even the first, can leave at its deadline.
* Bytes are taken in the ledger before memory is allocated, and given back after the memory was freed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from streamrt.errors import PoolBusyError
from streamrt.pool.admission import Grant, Holding, Shrink, Slack, decide, freely, make_room
from streamrt.pool.entries import Entries
from streamrt.pool.entry import Entry
from streamrt.pool.ledger import Ledger
from streamrt.pool.pins import Pins
from streamrt.pool.policy import Policy
from streamrt.pool.runtime import LONGEST_WAIT, Runtime
from streamrt.pool.shared import SharedPolicy
from streamrt.pool.stats import Counts

#: A workspace that a call needed is granted from the start the next time, up to 1/4 of the budget: one large call must
#: not make a model take all memory for ever.
_WORKSPACE_SHARE = 4


@dataclass(frozen=True, slots=True)
class Situation:
    """What a grant is decided by. It does not change.

    Attributes:
        name: the model that a request is for. It is idle.
        whole: as for `decide`.
        holdings: of all models that hold memory, and of this model, by name.
        free: bytes that no model holds.
        slack: as for `decide`.
    """

    name: str
    whole: bool
    holdings: Mapping[str, Holding]
    free: int
    slack: int


class Memory:
    """The models of a pool and the bytes that they hold.

    Except for `most` and `decided`, the lock is held when a method is called.

    Args:
        budget: bytes for all models.
        policy: says which weights are worth their memory.
        runtime: has the clock and the lock.
        pinned_again: see `Pins`.

    Attributes:
        changed: the lock. It is notified when something under it changes.
        entries: the models by name.
        pins: the memory that is kept for pinned models.
        ledger: bytes of the budget by model.
        policy: as above, with a lock of its own.
        counts: of things that happened.
        seekers: the number of requests and calls that wait for memory, or for a model that is changed.
        idled: how often a model became idle. The collector may end an abandoned lease in a thread that decides with the
            lock, and that will then wait.
    """

    def __init__(self, budget: int, policy: Policy, runtime: Runtime, pinned_again: Callable[[Entry], None]) -> None:
        self.changed = runtime.condition()
        self.entries = Entries()
        self.pins = Pins(budget, self.entries, pinned_again)
        self.ledger = Ledger(budget)
        self.policy = SharedPolicy(policy, runtime.lock())
        self.counts = Counts()
        self.seekers = 0
        self.idled = 0
        self._runtime = runtime
        self._slack = Slack(budget)

    def most(self, entry: Entry) -> int:
        """The most bytes that ``entry`` can ever have, as things are."""
        with self.changed:
            return self.pins.capacity(entry)

    def wait(
        self, deadline: float, reason: str, idled: int, longest: float = LONGEST_WAIT, loads: bool = False
    ) -> None:
        """Wait for a change, for at most ``longest`` seconds. A request whose model ``loads`` waits for nothing else.

        It does not wait if a model became idle since `idled` was read.

        Raises:
            PoolBusyError: the deadline has passed; its text is ``reason``.
        """
        left = deadline - self._runtime.now()
        if left <= 0:
            self.counts.busy += 1
            raise PoolBusyError(reason)
        if idled != self.idled:
            return
        self.seekers += not loads
        try:
            self.changed.wait(min(left, longest))
        finally:
            self.seekers -= not loads

    def freely(self, entry: Entry) -> Grant | None:
        """The grant of all weights if free bytes are enough. It can be carried out now, and nothing is decided."""
        held = self.ledger.held(entry.name)
        return freely(entry.holding(held), self.ledger.free, self._slack.size(self.entries.full))

    def situation(self, entry: Entry, whole: bool) -> Situation:
        """The situation of a request for ``entry`` now."""
        slack = self._slack.size(self.entries.full)
        return Situation(entry.name, whole, self._holdings(entry), self.ledger.free, slack)

    def decided(self, situation: Situation) -> Grant | None:
        """The bytes that a model may have; None if it has to wait until leased models give memory back."""
        name, holdings, policy = situation.name, situation.holdings, self.policy
        kept = holdings[name].kept
        return decide(
            self.ledger.budget,
            situation.slack,
            holdings,
            name,
            policy.worths(_idle(holdings, name)).__getitem__,
            lambda other: kept or policy.admits(name, other),
            situation.whole,
        )

    def lasts(self, situation: Situation, grant: Grant) -> bool:
        """Whether a grant that was decided in this situation can be carried out now."""
        if self.ledger.free < situation.free:
            return False
        for name in (situation.name, *(shrink.name for shrink in grant.shrinks)):
            entry = self.entries.get(name)
            if not (entry and entry.needs and entry.holding(self.ledger.held(name)) is situation.holdings[name]):
                return False
        return True

    def note(self, grant: Grant) -> None:
        """Note the working memory of a grant that is carried out, beside that of the models in use."""
        holders = ((self.entries[name], held) for name, held in self.ledger.holders.items())
        self._slack.note(grant.working + sum(entry.holding(held).working for entry, held in holders if entry.fixed))

    def room_for(self, entry: Entry, total: int) -> tuple[Shrink, ...] | None:
        """The shrinks that give ``entry`` ``total`` bytes; None when idle models have too little."""
        holdings = self._holdings(entry)
        missing = total - self.ledger.held(entry.name) - self.ledger.free
        idle = _idle(holdings, entry.name)
        idle.sort(key=self.policy.worths(idle).__getitem__)
        return make_room(holdings, idle, [name for name in idle if not holdings[name].kept], missing)

    def _holdings(self, entry: Entry) -> dict[str, Holding]:
        """The holdings of all models that hold memory, and of ``entry``."""
        found = {}
        for name, held in self.ledger.holders.items():
            other = self.entries[name]
            if other.needs:
                found[name] = other.holding(held)
        if entry.name not in found:
            found[entry.name] = entry.holding(0)
        return found

    def take(self, entry: Entry, total: int, shrinks: Sequence[Shrink]) -> None:
        """Take free bytes for ``entry``, towards ``total``, and mark the models that shrink as busy."""
        missing = max(0, total - self.ledger.held(entry.name))
        self.ledger.take(entry.name, min(self.ledger.free, missing))
        self.mark(shrinks, True)

    def mark(self, shrinks: Sequence[Shrink], busy: bool) -> None:
        """Mark the models of ``shrinks`` as being changed by this thread, or as free again."""
        for shrink in shrinks:
            self.entries[shrink.name].busy = busy

    def to_idle(self, entry: Entry) -> None:
        """Refuse calls of a model without leases; others may take its memory from now on."""
        resident, needs = entry.resident, entry.needs
        assert resident
        assert needs
        resident.lent = False
        self.idled += 1
        entry.count_loaded()
        pinned, complete = min(resident.pinned, self.ledger.held(entry.name)), resident.complete
        # A model may have all its weights in its window: then only those that it was granted to keep are pinned.
        entry.pinned = min(entry.pinned, pinned) if complete else pinned
        if complete and pinned != needs.weights:  # smaller granules may take fewer bytes than assumed
            needs = replace(needs, weights=pinned)
            self.entries.know(entry, needs)
            entry.reserved = entry.reserved and replace(entry.reserved, weights=pinned)
        workspace = min(resident.workspace, self.ledger.budget // _WORKSPACE_SHARE)
        if workspace > needs.workspace:  # the next call may need as much
            more = workspace - needs.workspace
            self.entries.know(entry, replace(needs, workspace=workspace, spare=needs.spare + more))

    def remove(self, entry: Entry) -> None:
        """Forget a model that holds nothing."""
        self.entries.remove(entry)
        self.policy.forget(entry.name)
        self.counts.keep(entry)
        self.pins.pin_again()


def _idle(holdings: Mapping[str, Holding], name: str) -> list[str]:
    """The models but ``name`` that can give memory now."""
    return [other for other, holding in holdings.items() if other != name and not holding.fixed]
