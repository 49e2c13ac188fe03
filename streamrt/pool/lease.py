"""A lease, the object that a user of the pool has: a model that can be called until the lease ends."""

from __future__ import annotations

from streamrt.engine.engine import Engine
from streamrt.engine.face import Face
from streamrt.errors import ModelClosedError
from streamrt.report.stats import Spent


class Term:
    """Whether a lease goes on. The pool ends it; the lease checks this before each call."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.ended = False

    def end(self) -> None:
        """Refuse calls of the lease from now on."""
        self.ended = True

    def require(self) -> None:
        """Raise `ModelClosedError` if the lease has ended, or the model is closed."""
        self._engine.require_open()
        if self.ended:
            raise ModelClosedError("the lease of this model has ended: lease the model again")


class Lease(Face):
    """A model of a pool while it is leased. It is called like a `Model`; the pool sizes and closes it.

    Several leases of one model share its memory, and their calls share passes. After the lease has ended its calls
    raise `ModelClosedError`.
    """

    def __init__(self, engine: Engine, term: Term) -> None:
        super().__init__(engine, term.require)
        self._term = term

    @property
    def spent(self) -> Spent:
        """Seconds that calls of this model took since the pool opened it, calls of other leases included."""
        return self._engine.spent

    def __repr__(self) -> str:
        state = "ended" if self._term.ended else "open"
        return f"<streamrt.pool.Lease of {self._engine.file.path!r}, budget {self.budget}, {state}>"
