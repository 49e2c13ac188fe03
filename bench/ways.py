"""The ways of streamrt among the contenders: by itself, with weights in fewer bytes, with another instruction set.

Each way has a T* of its own, so each has a limit: the time that it computes with all weights in memory.
"""

from __future__ import annotations

#: The contender that the others are compared with, and whose layers are the rows of `bench.layers`.
US = "streamrt"
_COMPUTE = "compute"


def is_way(peer: str) -> bool:
    """Whether a contender is streamrt, in whichever way."""
    return peer.split()[0] == US


def computing(way: str) -> str:
    """The name of the limit of a way."""
    return _COMPUTE if way == US else f"{_COMPUTE}, {way}"


def computed_by(limit: str) -> str | None:
    """The way whose limit has this name; None for a limit of the machine."""
    name, _, way = limit.partition(", ")
    return (way or US) if name == _COMPUTE else None
