"""Starts the process in which torch exports a checked program, with limits of processor time and memory.

An operator with hostile arguments can make torch compute for ever, take all memory, or crash, although it computes no
values. Nothing in the same process could stop it. So torch works in a process of its own, which `replay` describes.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import onnx

from streamrt.convert import limits
from streamrt.convert.exported.program import Extent, Program
from streamrt.convert.exported.tensors import StoredTensor
from streamrt.convert.onnx.data import SourceFiles
from streamrt.errors import FormatError, LimitError, UnsupportedModelError

#: Seconds of processor time that torch may take for each second of ``max_seconds``: so many, more for each node, and
#: the most. Torch took 13 s for ResNet-18 with 69 nodes, and 26 s for ViT-B/16 with 434 nodes; importing takes 9 s.
_SECONDS, _NODE_SECONDS, _MOST = 12, 0.03, 60
#: Bytes of memory that torch may take beside ``max_memory``: with its libraries it takes about 0.7 GiB.
_MEMORY = 2 << 30
#: A process that waits for something takes no processor time; it ends after this multiple of its processor time.
_WAIT = 10


def export(
    program: Program, names: Sequence[str], tensors: Sequence[StoredTensor], path: Path, files: SourceFiles
) -> onnx.ModelProto:
    """The ONNX graph of a checked program, without its weights.

    Args:
        program: the program.
        names: the names that its weights get in the graph.
        tensors: its weights.
        path: the file that has the weights; the exporter may read small ones.
        files: has the file open.

    Raises:
        UnsupportedModelError: torch cannot export the program, or crashed.
        LimitError: torch took too much memory or time.
    """
    limit = limits.current()
    seconds = limit.max_seconds * min(_SECONDS + _NODE_SECONDS * len(program.nodes), _MOST)
    memory = limit.max_memory + _MEMORY
    request = {
        "file": os.path.realpath(path),
        "identity": files.open(path).identity,
        "seconds": math.ceil(seconds) if seconds < 2**31 else None,
        "memory": memory if memory < 2**62 else None,
        "tensors": [[tensor.dtype, tensor.shape, tensor.strides, tensor.offset] for tensor in tensors],
        "weights": names,
        "inputs": [[spec.name, spec.dtype, [_dim(dim) for dim in spec.dims]] for spec in program.inputs],
        "nodes": program.nodes,
        "outputs": program.outputs,
    }
    with tempfile.TemporaryFile() as question, tempfile.TemporaryFile() as answer:
        question.write(json.dumps(request).encode())
        question.seek(0)
        code = _run(question, answer, seconds)
        size = answer.seek(0, os.SEEK_END)
        answer.seek(0)
        if code == -signal.SIGXCPU:
            raise LimitError(
                f"torch would compute for over {seconds:.0f} s to export a program of {len(program.nodes)} nodes: "
                "max_seconds= (--max-seconds) raises the limit"
            )
        if code or not size:
            raise UnsupportedModelError(f"torch crashed while it exported the program (exit code {code})")
        with limit.at("the ONNX graph that torch made of the program"):
            limit.check_memory(size)
        return _read(answer, memory)


def _run(question: IO[bytes], answer: IO[bytes], seconds: float) -> int:
    """Run the process to its end; returns its exit code."""
    if not sys.executable:
        raise UnsupportedModelError("a .pt2 file is packed with a further Python process, and sys.executable is empty")
    command = [sys.executable, "-P", "-W", "ignore", "-m", "streamrt.convert.exported.replay"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdin=question, stdout=answer, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        try:
            return process.wait(_WAIT * seconds if seconds < 2**31 else None)
        except subprocess.TimeoutExpired:
            return -signal.SIGXCPU
        finally:
            process.kill()  # no effect if it has ended


def _read(answer: IO[bytes], memory: int) -> onnx.ModelProto:
    """The model, or the error that the process reports."""
    kind, _, text = answer.readline(1000).decode(errors="replace").strip().partition(" ")
    match kind:
        case "model":
            try:
                model: onnx.ModelProto = onnx.ModelProto.FromString(answer.read())
            except Exception as error:  # protobuf's own kind of error
                raise FormatError(f"torch made a malformed ONNX graph of the program: {error!s:.200}") from error
            return model
        case "memory":
            raise LimitError(
                f"torch would take over {memory >> 20} MiB of memory to export the program: max_memory= "
                "(--max-memory) raises the limit"
            )
    raise UnsupportedModelError(f"torch cannot export the program: {text}")


def _dim(dim: int | Extent) -> Any:
    """An extent as `replay` expects it: a number, or the name and the example of a free extent."""
    return dim if isinstance(dim, int) else [dim.name, dim.example]
