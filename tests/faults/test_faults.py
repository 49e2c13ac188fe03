"""The list of planted faults fits the code: each can be planted at exactly one place."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from faults.fault import Fault
from faults.planted import FAULTS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_can_be_planted_at_one_place(fault: Fault) -> None:
    text = (ROOT / fault.file).read_text()
    assert text.count(fault.before) == 1
    planted = text.replace(fault.before, fault.after)
    assert planted != text
    if fault.file.endswith(".py"):
        ast.parse(planted)
    assert all((ROOT / folder).is_dir() for folder in fault.tests)


def test_names_are_unique() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 30
