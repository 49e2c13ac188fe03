"""Outputs that pages show."""

from __future__ import annotations

import pytest

from guides.pages import matches


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("(1, 4)\n", "(1, 4)\n"),
        ("took 12.5 ms\n", "took 3 us\n"),
        ("at 2.5 GiB/s", "at 800 MiB/s"),
        ("first\n...\nlast", "first\n1\n2\nlast"),
        ("first\n...", "first\n1\n2\n"),
        ("first\n...", "first\n"),
        ("float32  42 ms", "float32  1.25 s"),
        ("a|b", "a|b"),
    ],
)
def test_an_output_that_fits(shown: str, printed: str) -> None:
    assert matches(shown, printed)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("(1, 4)", "(1, 5)"),
        ("took 12.5 ms", "took long"),
        ("8.00 MiB", "9.00 MiB"),
        ("first\n...\nlast", "first\nlast\nmore"),
        ("first", "first\nsecond"),
        ("a|b", "a"),
        ("a b", "ab"),
    ],
)
def test_an_output_that_does_not_fit(shown: str, printed: str) -> None:
    assert not matches(shown, printed)
