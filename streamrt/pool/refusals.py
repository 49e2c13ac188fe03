"""The errors of models that a pool cannot load or pin, each with the budget or the limit that would help."""

from __future__ import annotations

from streamrt.errors import ModelTooLargeError, PinError, StreamrtError
from streamrt.host.budget import format_size
from streamrt.pool.entry import Entry


def no_thread(name: str) -> StreamrtError:
    """The error of a model that cannot be loaded because no thread can be started. It ends the wait at once."""
    return StreamrtError(
        f"no thread can be started to load the model {name!r:.80}: end some threads of this process or of the system, "
        "or raise their limit (ulimit -u)"
    )


def does_not_fit(entry: Entry, needed: int, budget: int, there: int) -> PinError:
    """The error of a model that cannot be pinned, where a pool of ``budget`` bytes has ``there`` for it."""
    smallest = budget - there + needed
    return PinError(
        f"to be pinned, the model {entry.name!r:.80} needs {needed} bytes, and {there} are there beside the models "
        f"that are pinned already: {_would_work(smallest)}",
        smallest,
        needed,
        there,
    )


def too_large(entry: Entry, needed: int, budget: int, most: int) -> ModelTooLargeError:
    """The error of a model that needs ``needed`` bytes, where a pool of ``budget`` bytes can give it ``most``."""
    smallest = budget - most + needed
    return ModelTooLargeError(
        f"the model {entry.name!r:.80} needs {needed} bytes, and the pool can give {most}: {_would_work(smallest)}",
        smallest,
    )


def _would_work(budget: int) -> str:
    return f"the smallest budget that works is {budget} bytes ({format_size(budget)})"
