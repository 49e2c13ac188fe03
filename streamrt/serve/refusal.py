"""Why a request is refused, or a result is not sent, whatever the form of both."""

from __future__ import annotations


class ProtocolError(ValueError):
    """A request breaks the protocol. The text tells the client the form that was expected."""


class UnrepresentableError(ValueError):
    """A result cannot be expressed in the form that the request wants."""
