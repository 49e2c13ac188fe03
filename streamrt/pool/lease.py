"""A lease as its holder has it: a model that can be called until the lease ends."""

from __future__ import annotations

from streamrt.engine.engine import Engine
from streamrt.engine.face import Face
from streamrt.errors import ModelClosedError


class Lease(Face):
    """A model of a pool, for as long as it is leased: callable as a `Model` is, and sized and closed by the pool.

    Several leases of one model share its memory, and their calls share passes. Once a lease has ended its calls raise
    `ModelClosedError`.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine, self._require_lent)
        self._ended = False

    def end(self) -> None:
        """The lease is over. The pool calls this."""
        self._ended = True

    def __repr__(self) -> str:
        state = "ended" if self._ended else "open"
        return f"<streamrt.pool.Lease of {self._engine.file.path!r}, budget {self.budget}, {state}>"

    def _require_lent(self) -> None:
        self._engine.require_open()
        if self._ended:
            raise ModelClosedError("the lease of this model has ended")
