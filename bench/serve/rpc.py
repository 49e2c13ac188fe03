"""A client of gRPC with many connections in one thread. Messages are bytes that were made before.

Every connection has one call at a time, as with HTTP's client (`bench.serve.client`). Tensors are raw contents.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.serve.client import Played

Array = NDArray[np.float32]
_METHOD = "/inference.GRPCInferenceService/ModelInfer"
#: The name of every network's input.
_INPUT = "x"
#: Channels of one process share a connection otherwise.
_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
_PATIENCE = 60.0  # seconds of a call
_TURN = 0.01  # seconds between two looks at the clock


def request(model: str, x: Array) -> bytes:
    """The message of a call of ``model`` with ``x``."""
    message = _messages().request(model_name=model, raw_input_contents=[x.tobytes()])
    message.inputs.add(name=_INPUT, datatype="FP32", shape=x.shape)
    return bytes(message.SerializeToString())


def answer(body: bytes) -> Array:
    """The first output of an answer, flat."""
    return np.frombuffer(_messages().response.FromString(body).raw_output_contents[0], np.float32)


def ask(port: int, requests: Sequence[bytes]) -> Iterator[bytes]:
    """The answers to requests, one after another.

    Raises:
        ValueError: a call failed.
    """
    import grpc

    with grpc.insecure_channel(f"127.0.0.1:{port}", options=_OPTIONS) as channel:
        call = channel.unary_unary(_METHOD)
        for message in requests:
            try:
                yield call(message, timeout=_PATIENCE)
            except grpc.RpcError as error:
                raise ValueError(f"a call ends with {error.code().name}: {error.details():.200}") from error


def play(
    port: int, requests: Iterator[bytes], connections: int, seconds: float, *, least: int, patience: float
) -> Played:
    """Time calls, see `bench.serve.client.play`. Answers that failed are counted by the numbers of gRPC's codes."""
    return asyncio.run(_Player(port, requests).play(connections, seconds, least=least, patience=patience))


class _Player:
    """Calls over connections, counted in the stretch in which they end."""

    def __init__(self, port: int, requests: Iterator[bytes]) -> None:
        self._port, self._requests = port, requests
        self._found = Played()

    async def play(self, connections: int, seconds: float, *, least: int, patience: float) -> Played:
        from grpc import aio

        async with AsyncExitStack() as stack:
            opened = [aio.insecure_channel(f"127.0.0.1:{self._port}", options=_OPTIONS) for _ in range(connections)]
            for channel in opened:
                await stack.enter_async_context(channel)
            calling = [asyncio.create_task(self._call(index, channel)) for index, channel in enumerate(opened)]
            try:
                await self._stretch(calling, seconds / 4, connections, patience)
                self._found = Played()
                busy = time.process_time()
                await self._stretch(calling, seconds, max(least, 4 * connections), patience)
                found, self._found = self._found, Played()  # what ends from now on does not count
                found.busy = time.process_time() - busy
            finally:
                for task in calling:
                    task.cancel()
                await asyncio.gather(*calling, return_exceptions=True)
        return found

    async def _call(self, index: int, channel: Any) -> None:
        """Call for ever."""
        from grpc import aio

        call = channel.unary_unary(_METHOD)
        answered = 0.0
        while True:
            began, code = perf_counter(), 0
            try:
                await call(next(self._requests), timeout=_PATIENCE)
            except aio.AioRpcError as error:
                code = error.code().value[0]
            found, heard = self._found, perf_counter()
            found.cycles.setdefault(index, []).append(heard - (answered or began))
            answered = heard
            if code:
                found.failed[code] = found.failed.get(code, 0) + 1
            else:
                found.times.append(heard - began)

    async def _stretch(self, calling: list[asyncio.Task[None]], seconds: float, least: int, patience: float) -> None:
        start = now = perf_counter()
        while now - start < seconds or (len(self._found.times) < least and now - start < patience):
            done, _ = await asyncio.wait(calling, timeout=_TURN, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # it calls for ever unless it fails
            now = perf_counter()
        self._found.seconds = now - start


def _messages() -> Any:
    from streamrt.serve.rpc.messages import METHODS

    return METHODS["ModelInfer"]
