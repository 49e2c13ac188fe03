"""Marks of single cases of a test."""

from __future__ import annotations

import pytest


def thorough(*values: object) -> object:
    """Parameters of a test that CI tries, and that a run of all tests leaves out: others like them are tried there."""
    return pytest.param(*values, marks=pytest.mark.thorough)
