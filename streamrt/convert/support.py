"""Which operators are supported, for users, and the text of the error for any other operator."""

from __future__ import annotations

from difflib import get_close_matches
from functools import lru_cache
from typing import Literal

from streamrt.convert.refused import REFUSED
from streamrt.ops import supported

#: Letters of a name that are compared with the operators' names. The name in a hostile file may have many millions.
_LONGEST = 64

#: The document about all operators, from the top folder of a checkout.
DOCUMENT = "docs/operators.md"

Source = Literal["onnx", "layers"]


def operators(source: Source = "onnx") -> list[str]:
    """The names of all operators that `pack` supports, sorted.

    Args:
        source: ``"onnx"`` for operators of an ONNX model or a torch module; ``"layers"`` for operators of a `Layer` or
            a weights file.

    Raises:
        ValueError: ``source`` is neither of the two.
        ImportError: ``"onnx"`` needs the ``onnx`` package.
    """
    if source == "layers":
        return sorted(supported())
    if source != "onnx":
        raise ValueError(f"source is {source!r:.80}, expected 'onnx' or 'layers'")
    try:
        from streamrt.convert.onnx.ops import CONVERSIONS
    except ImportError as error:
        raise ImportError("the list of ONNX operators needs the onnx package: pip install 'streamrt[onnx]'") from error
    return sorted(CONVERSIONS)


def unsupported(op: str, source: Source) -> str:
    """The text of the error for operator ``op``: the reason or similar names, and where all operators are listed."""
    return _unsupported(op[:_LONGEST], source)


@lru_cache(256)  # a model may have thousands of nodes of one operator
def _unsupported(op: str, source: Source) -> str:
    near = get_close_matches(op, operators(source), 3)
    hint = f" (near: {', '.join(near)})" if near and op not in REFUSED else ""
    if source == "layers":
        return f'the operator is not supported{hint}; streamrt.operators("layers") lists those that are'
    reason = f": {REFUSED[op]}" if op in REFUSED else hint
    return f"the operator is not supported{reason}; {DOCUMENT} and streamrt.operators() list those that are"
