"""Faults of the room engine."""

from __future__ import annotations

from faults.fault import ENGINE, POOL, Fault

FAULTS = (
    Fault(
        "released-early",
        "engine",
        "streamrt/engine/session.py",
        "last_use[index] = position",
        "last_use.setdefault(index, position)",
        "weights that several tiles share are released after the first of them",
        ENGINE,
    ),
    Fault(
        "verified-once",
        "engine",
        "streamrt/engine/verification.py",
        "block.kept = block.kept and self.plan.ranges[index].pinned",
        "block.kept = block.kept or self.plan.ranges[index].pinned",
        "a block that streams in part is compared with its checksum only once",
        ("tests/model",),
    ),
    Fault(
        "micro-batch-rows",
        "engine",
        "streamrt/engine/inputs.py",
        "first, last = max(start, begin), min(start + len(part), begin + len(whole))",
        "first, last = max(start, begin), min(start + len(part), len(whole))",
        "only the first part of a divided batch is copied",
        ENGINE,
    ),
    Fault(
        "rows-of-groups",
        "engine",
        "streamrt/engine/tables.py",
        "enumerate(rows, 0 if decoder else begin)",
        "enumerate(rows)",
        "rows of a table that are read later take the place of the first ones",
        ("tests/model",),
    ),
    Fault(
        "kept-rows",
        "engine",
        "streamrt/engine/tables.py",
        "os.POSIX_FADV_DONTNEED",
        "os.POSIX_FADV_RANDOM",
        "rows that were read stay in the page cache",
        ("tests/model",),
    ),
    Fault(
        "end-of-table",
        "engine",
        "streamrt/engine/tables.py",
        "for begin in (tensor.offset, tensor.offset + tensor.nbytes - 1):",
        "for begin in (tensor.offset,):",
        "the block behind a table whose rows are read one by one is not compared with its checksum",
        ("tests/model",),
    ),
    Fault(
        "stall-is-computing",
        "engine",
        "streamrt/engine/engine.py",
        "(self._passing - self._stalled) * 1e-9",
        "self._passing * 1e-9",
        "the time in which a call waited for weights counts as computing, too",
        POOL,
    ),
    Fault(
        "out-within-input",
        "engine",
        "streamrt/engine/results.py",
        "if np.may_share_memory(array, each)",
        "if array is each",
        "the first part of a batch overwrites the inputs of the next one",
        ("tests/model",),
    ),
    Fault(
        "bands-fitting",
        "engine",
        "streamrt/engine/bands.py",
        "if program.workspace > budget:",
        "if program.workspace >= budget:",
        "a budget that is exactly enough for bands without weights is refused",
        ("tests/model",),
    ),
)
