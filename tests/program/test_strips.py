"""Strips of sections: together they compute each column once, from columns that are right."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrt.ops.strip import Columns
from streamrt.program.strips import NARROWEST, Link, Strips, divided


def window(size: int = 3, stride: int = 1, before: int = 1, dilation: int = 1, ends: int = 0) -> Columns:
    return Columns(Fraction(stride), Fraction(-before), Fraction((size - 1) * dilation - before), ends)


def width_after(columns: Columns, width: int, after: int) -> int:
    """The columns of an output, of which ``after`` read padding behind the input."""
    return math.floor((width - 1 + after - columns.high) / columns.step) + 1


WINDOWS = st.builds(
    window, st.integers(1, 5), st.integers(1, 3), st.integers(0, 3), st.integers(1, 2), st.integers(0, 4)
)
LARGER = st.builds(lambda factor, low: Columns(Fraction(1, factor), -low, 1 - low), st.integers(2, 3),
                   st.sampled_from([Fraction(0), Fraction(1, 4), Fraction(1, 3)]))  # fmt: skip


@st.composite
def chains(draw: st.DrawFn) -> tuple[list[Link], dict[str, int]]:
    """Windows one after the other, with some resampling, and sums with tensors of the same scale and width."""
    widths, scales, links = {"t0": draw(st.integers(30, 400))}, {"t0": Fraction(1)}, []
    for index in range(draw(st.integers(1, 7))):
        source, target = f"t{index}", f"t{index + 1}"
        columns = draw(st.one_of(WINDOWS, WINDOWS, LARGER))
        larger = columns.step < 1
        width = (
            int(widths[source] / columns.step)
            if larger
            else width_after(columns, widths[source], draw(st.integers(0, 2)))
        )
        if width < 2:
            break
        links.append(Link(source, target, columns))
        widths[target], scales[target] = width, scales[source] / columns.step
        alike = [name for name in list(widths)[:-1] if (widths[name], scales[name]) == (width, scales[target])]
        if alike and draw(st.booleans()):
            links.append(Link(draw(st.sampled_from(alike)), target, Columns()))
    return links, widths


def found_strips(
    links: list[Link], widths: dict[str, int], results: list[str], multiples: dict[str, int], count: int
) -> Strips | None:
    strips = divided(links, widths, results, multiples, count)
    if strips is not None:
        assert 2 <= strips.count <= count
        assert min(strips.widths.values()) >= NARROWEST
        for strip in range(strips.count):
            for name, width in widths.items():
                held = strips.held(strip, name)
                assert 0 <= held.start < held.stop <= width
                assert held.stop == width or strip < strips.count - 1
                assert held.start % multiples.get(name, 1) == 0
    return strips


@given(made=chains(), count=st.sampled_from([2, 3, 4, 8, 64]), data=st.data())
def test_each_column_of_a_result_is_computed_once_from_right_columns(
    made: tuple[list[Link], dict[str, int]], count: int, data: st.DataObject
) -> None:
    links, widths = made
    if not links:
        return
    results = sorted({links[-1].target, *data.draw(st.lists(st.sampled_from(sorted(widths)), max_size=2))})
    multiples = {name: data.draw(st.sampled_from([2, 8])) for name in data.draw(st.sets(st.sampled_from(results)))}
    strips = found_strips(links, widths, results, multiples, count)
    if strips is None:
        return
    for name in results:
        owned = [strips.own(strip, name) for strip in range(strips.count)]
        assert [each.start for each in owned] == [0, *(each.stop for each in owned[:-1])]
        assert owned[-1].stop == widths[name]
    for strip in range(strips.count):
        right = {name: set(range(strips.held(strip, name).start, strips.held(strip, name).stop)) for name in widths}
        for source, target, (step, low, high, ends, _) in links:
            held, end = strips.held(strip, target), strips.held(strip, source).stop
            # A column is right if all that it needs are in the strip and right, or lie beyond the picture.
            right[target] &= {
                column
                for column in range(held.start, held.stop)
                if all(
                    each in right[source] or not 0 <= each < widths[source]
                    for each in range(math.floor(column * step + low), math.floor(column * step + high) + 1)
                )
                and (column < held.stop - ends or end == widths[source])
            }
        for name in results:
            own = strips.own(strip, name)
            assert own.start < own.stop
            assert set(range(own.start, own.stop)) <= right[name]


def test_strips_overlap_by_what_windows_need() -> None:
    links = [Link("x", "a", window()), Link("a", "b", window(5, before=2))]
    strips = divided(links, dict.fromkeys("xab", 103), ["b"], {}, 4)
    assert strips is not None
    assert strips.begins == (0, 25, 50, 72)
    assert strips.widths == dict.fromkeys("xab", 31)
    owned = [strips.own(strip, "b") for strip in range(4)]
    assert owned == [slice(0, 28), slice(28, 53), slice(53, 75), slice(75, 103)]


def test_strips_begin_where_strides_begin() -> None:
    links = [Link("x", "a", window(stride=2)), Link("a", "b", window(stride=3))]
    strips = divided(links, {"x": 600, "a": 300, "b": 100}, ["b"], {}, 5)
    assert strips is not None
    assert all(begin % 6 == 0 for begin in strips.begins)
    aligned = divided(links, {"x": 600, "a": 300, "b": 100}, ["b"], {"b": 4}, 5)
    assert aligned is not None
    assert all(begin % 24 == 0 for begin in aligned.begins)


@pytest.mark.parametrize(
    ("links", "widths"),
    [
        ([Link("x", "y", window(41, before=20))], {"x": 100, "y": 100}),  # less than half of a strip is its own
        ([Link("x", "y", window())], {"x": 2 * NARROWEST - 4, "y": 2 * NARROWEST - 4}),  # too narrow
        ([Link("x", "y", window(stride=64))], {"x": 640, "y": 10}),  # one of them would be too narrow
        # the way over a halves the columns, the way over b cuts half of them off
        (
            [
                *(Link("x", "b", Columns()), Link("x", "a", window(61, stride=2, before=30))),
                *(Link("a", "y", Columns()), Link("b", "y", Columns())),
            ],
            {"x": 400, "a": 200, "b": 200, "y": 200},
        ),
    ],
)
def test_other_sections_have_no_strips(links: list[Link], widths: dict[str, int]) -> None:
    assert divided(links, widths, ["y"], {}, 2) is None


def test_inputs_that_no_node_joins_have_strips_of_their_own() -> None:
    links = [Link("x", "a", window()), Link("y", "b", window(stride=2))]
    strips = divided(links, {"x": 90, "a": 90, "y": 101, "b": 51}, ["a", "b"], {}, 3)
    assert strips is not None
    assert strips.widths["y"] - strips.widths["x"] == 11
    assert strips.own(strips.count - 1, "b").stop == 51
