"""A lease as its holder has it: a model that can be called until the lease ends."""

from __future__ import annotations

from streamrt.engine.engine import Engine
from streamrt.engine.face import Face
from streamrt.errors import ModelClosedError


class Term:
    """How long a lease lasts. The pool has it, and ends it; the lease has it, and asks."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.ended = False

    def end(self) -> None:
        """Calls of the lease are refused from now on."""
        self.ended = True

    def require(self) -> None:
        """Raise `ModelClosedError` when it has ended, or the model is closed."""
        self._engine.require_open()
        if self.ended:
            raise ModelClosedError("the lease of this model has ended")


class Lease(Face):
    """A model of a pool, for as long as it is leased: callable as a `Model` is, and sized and closed by the pool.

    Several leases of one model share its memory, and their calls share passes. Once a lease has ended its calls raise
    `ModelClosedError`.
    """

    def __init__(self, engine: Engine, term: Term) -> None:
        super().__init__(engine, term.require)
        self._term = term

    def __repr__(self) -> str:
        state = "ended" if self._term.ended else "open"
        return f"<streamrt.pool.Lease of {self._engine.file.path!r}, budget {self.budget}, {state}>"
