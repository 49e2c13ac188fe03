"""The process that exports a checked program: ``python -m streamrt.convert.exported.replay``, started by `process`.

stdin has the program, which `streamrt.convert.exported.program` has checked. stdout gets a line and, after the line
``model``, a serialised ONNX model without weights. Other lines are an error: its kind and its text.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import IO, Any

#: Bytes of the largest file that the process may write: the answer.
_MAX_ANSWER = 1 << 30


def main() -> None:
    """Read a program from stdin and write its model to stdout."""
    request = json.load(sys.stdin)
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # torch and its exporter print
    _limit(request)
    try:
        _answer(answer, request)
    except MemoryError:
        _end(answer, "memory")
    except BaseException as error:  # tracing can raise anything
        # Torch's own allocators and C++ report a failed allocation as an error of another type.
        texts = f"{error} {error.__cause__} {error.__context__}"
        short = any(sign in texts for sign in ("bad_alloc", "allocate memory", "MemoryError"))
        _end(answer, "memory" if short else f"error {' '.join(_reason(error).split())}")


def _limit(request: dict[str, Any]) -> None:
    """Set the limits of this process, unless it has lower ones."""
    for kind, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, _MAX_ANSWER),
        (resource.RLIMIT_CPU, request["seconds"]),
        (resource.RLIMIT_DATA, request["memory"]),
    ):
        _, hard = resource.getrlimit(kind)
        if most is not None and (hard == resource.RLIM_INFINITY or most < hard):
            resource.setrlimit(kind, (most, hard))


def _answer(answer: IO[bytes], request: dict[str, Any]) -> None:
    from streamrt.convert.exported.trace import onnx_model

    model = onnx_model(request)
    answer.write(b"model\n")
    answer.write(model)
    answer.flush()


def _reason(error: BaseException) -> str:
    from streamrt.convert.torch import cause

    return cause(error)


def _end(answer: IO[bytes], line: str) -> None:
    answer.write(f"{line[:400]}\n".encode())
    answer.flush()


if __name__ == "__main__":
    main()
