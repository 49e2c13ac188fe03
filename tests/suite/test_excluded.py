"""The list of tests that are not run under qemu names tests that exist."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_every_excluded_test_exists() -> None:
    lines = (TESTS / "aarch64" / "excluded.txt").read_text().splitlines()
    names = [line.partition("  # ")[0] for line in lines if not line.startswith("#")]
    assert names
    for name in names:
        file, _, test = name.partition("::")
        assert f"def {test.partition('[')[0]}(" in (TESTS.parent / file).read_text(), name
