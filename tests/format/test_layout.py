"""Laying out tensors without files: the promises hold for all sizes, and the check accepts the result."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from format import version1
from format.models import chain
from streamrt.errors import FormatError
from streamrt.format.layout import (
    Entry,
    Group,
    byte_size,
    check_coverage,
    check_groups,
    check_layout,
    group,
    lay_out,
)
from streamrt.graph import Graph, Node, TensorSpec

KIB, MIB = 1 << 10, 1 << 20
SIZES = st.one_of(
    st.integers(0, 40),
    st.sampled_from([15, 16, 17, 1023, 1024, 1025]),
    st.integers(MIB // 8 - 20, MIB),
    st.just(MIB // 4),
)


#: Sizes of the tensors of each segment, in floats; also many small segments, or many of the same size.
SEGMENTS = st.one_of(
    st.lists(st.lists(SIZES, min_size=1, max_size=4), max_size=8),
    st.lists(st.lists(st.integers(0, 3000), min_size=1, max_size=3), max_size=60),
    st.builds(lambda segment, count: [segment] * count, st.lists(SIZES, min_size=1, max_size=3), st.integers(1, 200)),
)
OFFSETS = st.integers(1, 1100).map(lambda page: 4096 * page)


def named(sizes: Sequence[Sequence[int]]) -> list[list[tuple[str, str, tuple[int, ...]]]]:
    return [[(f"t{i}.{j}", "F32", (size,)) for j, size in enumerate(segment)] for i, segment in enumerate(sizes)]


def check_promises(
    entries: Sequence[Entry], sizes: Sequence[Sequence[int]], data_offset: int, version: str
) -> list[tuple[int, int]]:
    """Check what all versions promise; returns where each segment begins and ends in the file."""
    names = [[name for name, *_ in segment] for segment in named(sizes)]
    assert [e.begin for e in entries] == [0, *(e.end for e in entries)][: len(entries)]
    assert all(e.end - e.begin == e.shape[0] * {"F32": 4, "U8": 1}[e.dtype] for e in entries)
    params = {e.name: e for e in entries if e.dtype == "F32"}
    assert list(params) == [name for segment in names for name in segment]
    assert all(e.begin % 64 == 0 for e in params.values())
    assert all(0 < e.end - e.begin < 2 * MIB for e in entries if e.dtype == "U8")
    spans = []
    for segment in names:
        begin, end = params[segment[0]].begin, params[segment[-1]].end
        spans.append((data_offset + begin, data_offset + end))
        inside = [e for e in entries if begin <= e.begin and e.end <= end and e.dtype == "U8"]
        assert all(e.end - e.begin < 64 for e in inside)
    data_size = entries[-1].end if entries else 0
    assert data_size % 4096 == 0
    check_coverage(entries, data_size)
    largest = max((end - begin for begin, end in spans), default=0)
    assert check_layout(entries, group(chain(*names), params), data_offset, data_size, version) == largest
    return spans


@given(SEGMENTS, OFFSETS)
def test_promises_of_version_1(sizes: Sequence[Sequence[int]], data_offset: int) -> None:
    entries = version1.lay_out(named(sizes), data_offset)
    for begin, end in check_promises(entries, sizes, data_offset, "1"):
        assert begin % (2 * MIB if end - begin >= MIB else 4096) == 0


@settings(max_examples=300)
@given(SEGMENTS, OFFSETS)
def test_promises(sizes: Sequence[Sequence[int]], data_offset: int) -> None:
    entries = lay_out(named(sizes), data_offset)
    spans = check_promises(entries, sizes, data_offset, "2")
    size = data_offset + (entries[-1].end if entries else 0)
    tensors = sum(e.end - e.begin for e in entries if e.dtype == "F32")
    # Header, 64 bytes for each tensor, and a page at the end are all that may go beyond the limit.
    tight = data_offset + sum(-(-4 * n // 64) * 64 for segment in sizes for n in segment)
    assert size <= max(tensors + max(64 * KIB, tensors // 100), -(-tight // 4096) * 4096)
    assert size <= data_offset + max((e.end for e in version1.lay_out(named(sizes), data_offset)), default=0)
    inside = max((end - begin for begin, end in spans if begin % 4096), default=0)
    previous = data_offset
    for begin, end in spans:
        assert begin % 4096 == 0 or end - begin <= inside
        assert begin - previous < 4096 or 128 * (begin - previous) <= end - begin
        previous = end


def test_large_segments_begin_on_pages() -> None:
    """Segments of 504 KiB or more always begin on pages: before each less than 1/128 of it is padding."""
    sizes = [[126 * KIB + 17 * i] for i in range(100)]
    spans = check_promises(lay_out(named(sizes), 4096), sizes, 4096, "2")
    assert all(begin % 4096 == 0 for begin, _ in spans)


def test_large_segments_begin_on_the_largest_boundary_that_costs_little() -> None:
    sizes = [[5], [4 * MIB], [2048, 4 * MIB], [2048, 4 * MIB], [MIB // 4]]  # 16 MiB allow 128 KiB of padding
    spans = check_promises(lay_out(named(sizes), 4096), sizes, 4096, "2")
    begins = [128 * KIB, 16 * MIB + 256 * KIB, 32 * MIB + 384 * KIB, 48 * MIB + 400 * KIB]
    assert [begin for begin, _ in spans[1:]] == begins


def test_a_huge_segment_begins_on_a_block() -> None:
    sizes = [[5], [64 * MIB], [64 * MIB], [5], [MIB // 4], [40 * MIB]]
    spans = check_promises(lay_out(named(sizes), 4096), sizes, 4096, "2")
    assert [begin % (2 * MIB) == 0 for begin, _ in spans] == [False, True, True, True, False, True]


def test_a_parameter_belongs_to_the_first_node_that_reads_it() -> None:
    graph = Graph(
        (TensorSpec("x", ()),),
        (TensorSpec("z", ()),),
        (
            Node("first", "Gemm", ("x", "w", ""), ("y",)),
            Node("second", "Relu", ("y",), ("r",)),
            Node("third", "Gemm", ("r", "w", "b", "b"), ("z",)),
        ),
    )
    assert group(graph, {"w", "b"}) == [
        Group("node 'first'", frozenset({"w"})),
        Group("node 'third'", frozenset({"b"})),
    ]


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ([["b"], ["w", "v"]], "'b' are stored where 'v', 'w' of node 'n0'"),
        ([["w", "v"], ["b", "b"]], "'b', 'b' are stored where 'b' of node 'n1'"),
        ([["w", "v"]], "'b' of node 'n1' are missing"),
        ([["w", "v"], ["b"], list("cdefghi")], "no node reads the tensors 'c', 'd', 'e', 'f', 'g' and 2 more"),
    ],
)
def test_groups_that_do_not_fit(names: list[list[str]], reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        check_groups(names, group(chain(["w", "v"], ["b"]), {"w", "v", "b"}))


@pytest.mark.parametrize(("shape", "size"), [((), 4), ((0,), 0), ((3, 0, 5), 0), ((2, 3), 24), ((2**58,), 2**60)])
def test_byte_size(shape: tuple[int, ...], size: int) -> None:
    assert byte_size("F32", shape) == size


@pytest.mark.parametrize("shape", [(-1,), (2**58 + 1,), (2**30, 2**30), (0, 2**40, 2**40), (1,) * 33, (1.0,), (True,)])
def test_no_byte_size(shape: tuple[int, ...]) -> None:
    with pytest.raises(FormatError):
        byte_size("F32", shape)
