"""A file with an operator that does not exist, and with free extents."""

from __future__ import annotations

from pathlib import Path

import pytest

import streamrt
from streamrt.format import write
from streamrt.graph import Graph, Node, TensorSpec
from streamrt.ops import NO_SUCH_OPERATOR


def test_the_error_names_file_and_node(tmp_path: Path) -> None:
    path = tmp_path / "strange.safetensors"
    size = Node("size", "Shape", ("x",), ("s",), {})
    nodes = (size, Node("plain", "Relu", ("x",), ("h",), {}), Node("odd", "Frob\x1b[2J", ("h",), ("y",), {}))
    specs = (TensorSpec("x", ("N", 4)),), (TensorSpec("y", ("N", 4)),)
    write(path, Graph(*specs, nodes), [])
    with pytest.raises(streamrt.FormatError) as caught:
        streamrt.Model(path)
    assert str(caught.value) == f"{path}: node 'odd' (Frob\\x1b[2J): {NO_SUCH_OPERATOR}"
