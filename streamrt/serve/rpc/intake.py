"""Room for messages before they arrive.

grpcio hands a message over whole, and tells its size only then. Until a message is asked for, grpcio takes at most 64
KiB of it from the client, see `streamrt.serve.rpc.server`. So a call asks for its message only when the largest message
would have room, and holds that room until the message is there. The calls that wait for room stand in a line.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from streamrt.serve.access import Gate, Held, OverloadedError

#: Bytes of messages that arrive before free memory is given back to the system.
_KEPT = 16 << 20
#: Gives it back; None if the C library is not GNU's.
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


class Intake:
    """Gives calls room for their messages, from the memory that all requests share. It is used on the event loop only.

    Args:
        gate: has the memory.
        most: the most bytes of a message.
        seconds: how long a call waits for room at most.
    """

    def __init__(self, gate: Gate, most: int, seconds: float) -> None:
        self._gate = gate
        self._most, self._seconds = most, seconds
        self._line = asyncio.Lock()
        self._arriving = 0
        self._ended = asyncio.Event()  # a message has arrived, or its call has ended
        self._kept = 0  # bytes of messages since free memory was given back

    @asynccontextmanager
    async def room(self) -> AsyncIterator[None]:
        """A context with room for one message. At its end the caller holds the bytes of the message itself.

        Raises:
            OverloadedError: requests and answers hold the memory, or messages of others arrived for all of `seconds`.
        """
        held = Held(self._gate)
        try:
            async with asyncio.timeout(self._seconds), self._line:
                while not self._taken(held):
                    self._ended.clear()
                    await self._ended.wait()
        except TimeoutError:
            text = f"other messages took all room (--max-held) while they arrived, for {self._seconds:g} s (--timeout)"
            raise OverloadedError(f"{text}: try again later") from None
        self._arriving += 1
        try:
            yield
        finally:
            self._arriving -= 1
            held.add(-held.total)
            self._ended.set()

    def arrived(self, count: int) -> None:
        """A message of ``count`` bytes has arrived. Call it at once, before other messages are taken from grpcio.

        A message arrives in pieces of 8 KiB, which grpcio joins and frees. The allocator keeps small pieces for later,
        so that the process would have twice the memory of its messages. Giving it back takes about 0.2 ms for each MiB.
        A thread would not do: meanwhile grpcio would join the next messages.
        """
        self._kept += count
        if self._kept >= _KEPT and _trim is not None:
            _trim(0)
            self._kept = 0

    def _taken(self, held: Held) -> bool:
        """Whether the room was taken. If no message arrives, none will make room, and the error is raised."""
        try:
            held.add(self._most)
        except OverloadedError:
            if not self._arriving:
                raise
        return held.total > 0
