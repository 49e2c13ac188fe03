"""Marks of single cases of a test, and the reasons for which a test may be left out."""

from __future__ import annotations

from types import ModuleType

import pytest

#: How the reason of a skip begins where the processor cannot run the kernels of an instruction set. CI accepts it.
LACKING_INSTRUCTIONS = "this processor lacks "
#: How the reason of a skip begins where a file of tests needs a package beyond the extra `test`. CI accepts it in a run
#: that deselects the marker `extras`: such a file must be imported before its tests can be deselected.
LACKING_PACKAGE = "these tests need the package "


def thorough(*values: object) -> object:
    """Parameters of a test that CI tries, and that a run of all tests leaves out: others like them are tried there."""
    return pytest.param(*values, marks=pytest.mark.thorough)


def needs(*packages: str) -> list[ModuleType]:
    """The packages, imported; without one of them, the file of tests that calls this is skipped.

    All tests of that file must have the marker `extras`.
    """
    return [pytest.importorskip(name, reason=LACKING_PACKAGE + name) for name in packages]
