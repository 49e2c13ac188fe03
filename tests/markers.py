"""Marks of single cases of a test, and the reasons for which a test may be left out."""

from __future__ import annotations

from types import ModuleType

import pytest

#: Begins the reason of a skip on a processor that lacks an instruction set. CI accepts such skips.
LACKING_INSTRUCTIONS = "this processor lacks "
#: Begins the reason of a skip if a file of tests needs a package beyond the extra `test`. CI accepts such skips if it
#: deselects the marker `extras`, because files are imported before their tests are deselected.
LACKING_PACKAGE = "these tests need the package "


def thorough(*values: object) -> object:
    """Parameters of a test that only CI tries. Other runs leave them out, because they try similar parameters."""
    return pytest.param(*values, marks=pytest.mark.thorough)


def needs(*packages: str) -> list[ModuleType]:
    """Import the packages. If one is missing, the file of tests that calls this is skipped.

    All tests of that file must have the marker `extras`.
    """
    return [pytest.importorskip(name, reason=LACKING_PACKAGE + name) for name in packages]
