"""Faults of the room pool."""

from __future__ import annotations

from faults.fault import POOL, Fault

FAULTS = (
    Fault(
        "floor-of-all",
        "pool",
        "streamrt/pool/admission.py",
        "return self.weights if size >= self.weights else max(0, min(size // step, STEPS - 1)) * step",
        "return self.weights if size >= self.weights else max(0, min(size // step + 1, STEPS - 1)) * step",
        "more weights are granted than there is room for",
        POOL,
    ),
    Fault(
        "kept-given",
        "pool",
        "streamrt/pool/admission.py",
        "take(name, weights=not holdings[name].kept)",
        "take(name, weights=True)",
        "a model that was registered to stay gives up weights",
        POOL,
    ),
    Fault(
        "keeps-too-much",
        "pool",
        "streamrt/pool/admission.py",
        "keeps = holding.needs.floor(max(0, holding.pinned - wanted))",
        "keeps = holding.needs.ceil(max(0, holding.pinned - wanted))",
        "a model that shrinks gives up fewer bytes than are needed",
        POOL,
    ),
    Fault(
        "ledger-over",
        "pool",
        "streamrt/pool/ledger.py",
        "if not 0 <= size <= self.free:",
        "if not 0 <= size <= self.budget:",
        "more bytes may be taken than are free",
        POOL,
    ),
    Fault(
        "ledger-peak",
        "pool",
        "streamrt/pool/ledger.py",
        "self.peak = max(self.peak, self._total)",
        "self.peak = self._total",
        "the peak is the number of bytes that are held now",
        POOL,
    ),
    Fault(
        "lease-ends",
        "pool",
        "streamrt/pool/keeper.py",
        "        if entry.leases == 0:\n            self._to_idle(entry)\n            self.settle(entry)\n",
        "        if entry.leases <= 1:\n            self._to_idle(entry)\n            self.settle(entry)\n",
        "a model is idle although one lease is left",
        POOL,
    ),
    Fault(
        "given-up",
        "pool",
        "streamrt/pool/keeper.py",
        "self.given_up += victim.pinned - min(kept, victim.pinned)",
        "self.given_up += victim.pinned",
        "weights that a model keeps are counted as given up",
        POOL,
    ),
    Fault(
        "pauses",
        "pool",
        "streamrt/pool/entry.py",
        "FIRST_PAUSE * 2.0 ** min(failures, _DOUBLINGS)",
        "FIRST_PAUSE * 2.0 ** min(failures + 1, _DOUBLINGS)",
        "the first pause after a failed load is twice as long",
        POOL,
    ),
    Fault(
        "half-life",
        "pool",
        "streamrt/pool/policy.py",
        "return float(worth * 0.5 ** ((self._now - then) / self._half_life))",
        "return float(worth * 0.25 ** ((self._now - then) / self._half_life))",
        "after one half-life a request counts 25 % instead of 50 %",
        POOL,
    ),
)
