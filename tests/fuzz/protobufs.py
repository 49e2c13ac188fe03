"""`pack` gets mutants of ONNX models: it refuses them with a typed error, or makes weights files that run."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import suppress
from errno import EFBIG, ENOSPC
from pathlib import Path
from zlib import crc32

from google.protobuf.message import DecodeError
from onnx import ModelProto

from fuzz.failed_models import FAILED
from fuzz.headers import run
from fuzz.hunt import MIB, Entry, Finding, Hunt, bounded, check_text
from fuzz.mutate_onnx import mutate
from fuzz.spell import spell
from fuzz.zoo import grow
from streamrt import Model, StreamrtError, WeightsIOError, pack

_SOURCE, _DEST = Path("model.onnx"), Path("model.safetensors")
#: Bytes for ``max_memory``. Constants of 8 times as many may go into the file, and alignment to 2 MiB may double them.
#: That is 192 MiB; a file of a worker may have 256 MiB.
_MAX_MEMORY = 12 * MIB
#: Bytes that packing may take: 64 MiB are for the interpreter, NumPy and the model's own weights.
_PACKING = _MAX_MEMORY + 64 * MIB


class _Protobufs(Hunt):
    name = "protobufs"
    space = 4096 * MIB
    #: Packing may compute for 10 s.
    seconds = 12.0

    def start(self) -> None:
        warnings.simplefilter("ignore")  # they say that extents were fixed

    def make(self, rng: random.Random) -> bytes:
        return mutate(rng, spell(rng, grow(rng)))

    def corpus(self) -> Iterator[Entry]:
        yield from super().corpus()
        for name, (build, reason) in FAILED.items():
            yield Entry(name, reason, build().SerializeToString())

    def check(self, data: bytes) -> str:
        digest = crc32(data)
        _DEST.unlink(missing_ok=True)
        source: Path | ModelProto = _SOURCE
        _SOURCE.write_bytes(data)
        if digest & 1:
            with suppress(DecodeError):  # then the file is refused
                source = ModelProto.FromString(data)
        try:
            with bounded(_PACKING, "packing"):
                pack(source, _DEST, max_memory=_MAX_MEMORY)
        except StreamrtError as error:
            check_text(str(error))
            if isinstance(error, WeightsIOError) and error.errno in (EFBIG, ENOSPC):
                raise Finding("a small model makes a large file", str(error)) from error
            if left := {path.name for path in Path().iterdir()} - {_SOURCE.name}:
                raise Finding("a refused model leaves files behind", ", ".join(sorted(left))) from None
            return "refused"
        if left := {path.name for path in Path().iterdir()} - {_SOURCE.name, _DEST.name}:
            raise Finding("packing leaves files behind", ", ".join(sorted(left)))
        outcome = run(_DEST, random.Random(digest))
        if outcome == "refused":
            try:
                Model(_DEST, None).close()
            except StreamrtError as error:
                raise Finding("packed, and does not open", str(error)) from error
        return outcome if outcome == "passed" else f"packed, {outcome}"


HUNT = _Protobufs()
