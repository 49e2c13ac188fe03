"""Laying out tensors without files: the promises hold for all sizes, and the check accepts the result."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from format.models import chain
from streamrt.errors import FormatError
from streamrt.format.layout import Group, byte_size, check_coverage, check_groups, check_layout, group, lay_out
from streamrt.graph import Graph, Node, TensorSpec

KIB, MIB = 1 << 10, 1 << 20
SIZES = st.one_of(
    st.integers(0, 40),
    st.sampled_from([15, 16, 17, 1023, 1024, 1025]),
    st.integers(MIB // 8 - 20, MIB),
    st.just(MIB // 4),
)


@given(
    st.lists(st.lists(SIZES, min_size=1, max_size=4), max_size=8), st.integers(1, 1100).map(lambda page: 4096 * page)
)
def test_layouts_keep_their_promises(sizes: Sequence[Sequence[int]], data_offset: int) -> None:
    names = [[f"t{i}.{j}" for j in range(len(segment))] for i, segment in enumerate(sizes)]
    segments = [[(name, (size,)) for name, size in zip(*pair, strict=True)] for pair in zip(names, sizes, strict=True)]
    entries = lay_out(segments, data_offset)

    assert [e.begin for e in entries] == [0, *(e.end for e in entries)][: len(entries)]
    assert all(e.end - e.begin == e.shape[0] * {"F32": 4, "U8": 1}[e.dtype] for e in entries)
    params = {e.name: e for e in entries if e.dtype == "F32"}
    assert list(params) == [name for segment in names for name in segment]
    assert all(e.begin % 64 == 0 for e in params.values())
    assert all(0 < e.end - e.begin < 2 * MIB for e in entries if e.dtype == "U8")
    largest = 0
    for segment in names:
        begin, end = params[segment[0]].begin, params[segment[-1]].end
        assert (data_offset + begin) % (2 * MIB if end - begin >= MIB else 4096) == 0
        largest = max(largest, end - begin)
        inside = [e for e in entries if begin <= e.begin and e.end <= end and e.dtype == "U8"]
        assert all(e.end - e.begin < 64 for e in inside)
    data_size = entries[-1].end if entries else 0
    assert data_size % 4096 == 0
    check_coverage(entries, data_size)
    assert check_layout(entries, group(chain(*names), params), data_offset, data_size) == largest


def test_a_parameter_belongs_to_the_first_node_that_reads_it() -> None:
    graph = Graph(
        (TensorSpec("x", ()),),
        (TensorSpec("z", ()), TensorSpec("table", ())),
        (
            Node("first", "Gemm", ("x", "w", ""), ("y",)),
            Node("second", "Relu", ("y",), ("r",)),
            Node("third", "Gemm", ("r", "w", "b", "b"), ("z",)),
        ),
    )
    assert group(graph, {"w", "b", "table"}) == [
        Group("node 'first'", frozenset({"w"})),
        Group("node 'third'", frozenset({"b"})),
        Group("the graph's outputs", frozenset({"table"})),
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
