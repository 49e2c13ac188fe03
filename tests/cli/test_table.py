"""Tables of text, and how they fit into a terminal."""

from __future__ import annotations

import pytest

from streamrt.report.table import facts, format_seconds, items, shorten, table


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        ("block.0.weight", 14, "block.0.weight"),
        ("block.0.weight", 13, "block...eight"),
        ("block.0.weight", 7, "blo..ht"),
        ("block.0.weight", 4, "b..t"),
        ("block.0.weight", 3, "b.."),
        ("block.0.weight", 1, "."),
        ("block.0.weight", 0, ""),
    ],
)
def test_the_middle_of_a_name_is_left_out(text: str, width: int, expected: str) -> None:
    assert shorten(text, width) == expected
    assert len(expected) <= width


def test_columns_are_aligned() -> None:
    rows = [("name", "size"), ("a", "1"), ("long name\x1b", "12345")]
    assert table(rows, right=(1,)) == ["name            size", "a                  1", "long name\\x1b  12345"]
    assert table([("a", "")]) == ["a"]


def test_facts_are_wrapped_beside_their_names() -> None:
    rows = [("file", "one two three four five"), ("a longer", "six")]
    assert facts(rows) == ["file      one two three four five", "a longer  six"]
    assert facts(rows, 26) == ["file      one two three", "          four five", "a longer  six"]
    assert max(map(len, facts([("file", "x" * 100)], 30))) == 30


def test_items_are_wrapped() -> None:
    assert items(["one two three four", "five"]) == ["* one two three four", "* five"]
    assert items(["one two three four five", "six"], 18) == ["* one two three", "  four five", "* six"]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 s"),
        (1.234e-6, "1.23 us"),
        (9.996e-6, "10.0 us"),
        (0.000999, "999 us"),
        (0.0009996, "1.00 ms"),
        (0.4119, "412 ms"),
        (0.9996, "1.00 s"),
        (12.34, "12.3 s"),
        (1234.5, "1234 s"),
    ],
)
def test_times_have_three_digits(seconds: float, expected: str) -> None:
    assert format_seconds(seconds) == expected
