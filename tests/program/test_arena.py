"""The arena: blocks alive together never overlap."""

from hypothesis import given
from hypothesis import strategies as st

from streamrt.program.arena import ALIGNMENT, Block, align, arrange

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
