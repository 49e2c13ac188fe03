"""The arena: blocks alive together never overlap."""

from hypothesis import given
from hypothesis import strategies as st

from streamrt.program.arena import ALIGNMENT, Block, align, alive, arrange

blocks = st.lists(
    st.builds(lambda n, a, d: Block(n, a, a + d), st.integers(0, 5000), st.integers(0, 20), st.integers(0, 6))
)


@given(blocks)
def test_blocks_alive_together_are_apart(items):
    offsets, total = arrange(items)
    spans = [(o, o + align(b.nbytes)) for o, b in zip(offsets, items, strict=True)]
    for i, a in enumerate(items):
        assert offsets[i] % ALIGNMENT == 0
        assert spans[i][1] <= total
        for j, b in enumerate(items[:i]):
            if a.first <= b.last and b.first <= a.last and a.nbytes and b.nbytes:
                assert spans[i][1] <= spans[j][0] or spans[j][1] <= spans[i][0]
    alive = [sum(align(b.nbytes) for b in items if b.first <= t <= b.last) for t in range(27)]
    assert total >= max(alive)


def test_a_chain_needs_two_buffers():
    offsets, total = arrange([Block(1000, i, i + 1) for i in range(10)])
    assert total == 2 * align(1000)
    assert len(set(offsets)) == 2


def test_a_block_at_the_end_comes_first_in_a_further_order():
    """In the order of their sizes these blocks leave a gap: 960 bytes."""
    offsets, total = arrange([Block(384, 0, 0), Block(256, 1, 4), Block(320, 3, 4), Block(320, 0, 1)])
    assert total == 384 + 320
    assert offsets == [0, 0, 256, 384]


def test_bytes_alive_at_each_step():
    items = [Block(100, -1, 1), Block(64, 1, 3), Block(0, 0, 9), Block(64, 4, 9), Block(64, 6, 9)]
    assert alive(items, 0, 5).tolist() == [128, 192, 64, 64, 64]
