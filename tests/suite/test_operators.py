"""docs/operators.md says what the code says, and errors point to it."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

import streamrt
from streamrt.convert.refused import REFUSED
from streamrt.convert.support import DOCUMENT, unsupported


def test_the_document_is_up_to_date(checkout: Path) -> None:
    """If it is not: python -P docs/operators.py."""
    made = runpy.run_path(str(checkout / "docs/operators.py"))["document"]()
    assert (checkout / DOCUMENT).read_text() == made


def test_the_document_has_every_operator(checkout: Path) -> None:
    supported, refused = (checkout / DOCUMENT).read_text().split("## Refused")
    assert {op for op in streamrt.operators() if f"**{op}**" not in supported} == set()
    assert {op for op in REFUSED if f"**{op}**" not in refused} == set()
    assert REFUSED.keys().isdisjoint(streamrt.operators())


@pytest.mark.parametrize("op", ["NonZero", "Loop", "SequenceAt", "RandomNormal"])
def test_an_operator_that_is_refused(op: str) -> None:
    text = unsupported(op, "onnx")
    assert f"the operator is not supported: {REFUSED[op]}; {DOCUMENT}" in text
    assert DOCUMENT not in unsupported(op, "layers")
