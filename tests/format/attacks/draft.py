"""The good file that all attacks start from, and functions that spoil one part of it.

Checksums are right unless they are attacked: an attacker can compute them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamrt._core import crc32c
from streamrt.format.header import seal

FOLDER = Path(__file__).parent
SUFFIX = ".safetensors"


@dataclass
class Draft:
    """A weights file before it becomes bytes: y = relu(x @ w.T + b), with w (4, 3) and b (4,)."""

    graph: Any = field(
        default_factory=lambda: {
            "inputs": [{"name": "x", "dims": ["N", 3]}],
            "outputs": [{"name": "y", "dims": ["N", 4]}],
            "nodes": [
                {"name": "dense", "op": "Gemm", "inputs": ["x", "w", "b"], "outputs": ["h"]},
                {"name": "relu", "op": "Relu", "inputs": ["h"], "outputs": ["y"]},
            ],
        }
    )
    tensors: dict[str, Any] = field(
        default_factory=lambda: {
            "w": {"dtype": "F32", "shape": [4, 3], "data_offsets": [0, 48]},
            "streamrt.pad.1": {"dtype": "U8", "shape": [16], "data_offsets": [48, 64]},
            "b": {"dtype": "F32", "shape": [4], "data_offsets": [64, 80]},
            "streamrt.pad.3": {"dtype": "U8", "shape": [4016], "data_offsets": [80, 4096]},
        }
    )
    data: bytes = bytes(4096)
    metadata: dict[str, Any] = field(default_factory=dict)
    version: str = "2"

    def header(self) -> dict[str, Any]:
        """The header as an object. Entries of ``metadata`` replace the usual ones, and None leaves a key out."""
        metadata = {
            "streamrt.format": self.version,
            "streamrt.header_crc32c": "0" * 8,
            "streamrt.block_size": "4096",
            "streamrt.block_crc32c": "".join(
                f"{crc32c(self.data[i : i + 4096]):08x}" for i in range(0, len(self.data), 4096)
            ),
            "streamrt.graph": self.graph if isinstance(self.graph, str) else json.dumps(self.graph),
        } | self.metadata
        return {"__metadata__": {k: v for k, v in metadata.items() if v is not None}} | self.tensors

    def text(self) -> bytes:
        """The header as JSON."""
        return compact(self.header())

    def build(self) -> bytes:
        """The file."""
        return join(self.text(), self.data)


def compact(value: object) -> bytes:
    """JSON as the format's writer writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def join(text: bytes, data: bytes = bytes(4096), align: int = 4096) -> bytes:
    """A file of a header and a data section, with its header sealed."""
    size = -(-(8 + len(text)) // align) * align - 8
    return seal(size.to_bytes(8, "little") + text.ljust(size)) + data


Attack = Callable[[], bytes]
#: By name: the function, and a regular expression for the reason that the reader must give.
ATTACKS: dict[str, tuple[Attack, str]] = {}


def attack(reason: str) -> Callable[[Attack], Attack]:
    """Register an attack that must be refused for ``reason``."""

    def register(function: Attack) -> Attack:
        ATTACKS[function.__name__] = function, reason
        return function

    return register


def with_tensor(name: str, **changes: Any) -> bytes:
    """A file in which parts of one tensor's entry are replaced."""
    draft = Draft()
    draft.tensors[name] |= changes
    return draft.build()


def with_metadata(key: str, value: Any) -> bytes:
    """A file in which one string of the metadata is replaced, or left out when it is None."""
    return Draft(metadata={key: value}).build()


def with_text(old: str, new: str) -> bytes:
    """A file in whose header the text ``old`` is replaced."""
    text = Draft().text()
    assert text.count(old.encode()) == 1, f"{old} occurs {text.count(old.encode())} times"
    return join(text.replace(old.encode(), new.encode()))
