"""Bytes that wait are handed to the parser in parts of at most one request."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamrt.serve.waiting import MAX_HEAD, HeadError, Waiting

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@given(
    bodies=st.lists(st.binary(max_size=40) | st.sampled_from([b"\r\n\r\n", b"\r\n", b"\r\n\r\n\r\n"]), max_size=6),
    cuts=st.lists(st.integers(1, 30), min_size=1),
)
def test_parts_are_heads_and_bodies_however_they_arrive(bodies: list[bytes], cuts: list[int]) -> None:
    sent = b"".join(HEAD + body for body in bodies)
    waiting, left, parts, begin, step = Waiting(), 0, [], 0, 0
    bodies_left = list(bodies)
    while begin < len(sent) or len(waiting):
        waiting.add(sent[begin : (begin := begin + cuts[step % len(cuts)])])
        step += 1
        while part := bytes(waiting.take(left)):
            if left:
                assert len(part) <= left
                left -= len(part)
            else:
                assert part == HEAD
                left = len(bodies_left.pop(0))
            parts.append(part)
    assert b"".join(parts) == sent
    assert left == 0


def test_a_body_of_chunks_is_cut_where_it_may_end() -> None:
    waiting = Waiting()
    waiting.add(b"4\r\n\r\n\r\n\r\n0\r\n\r\n" + HEAD)
    parts = [bytes(waiting.take(None)) for _ in range(3)]
    assert parts == [b"4\r\n\r\n", b"\r\n\r\n", b"0\r\n\r\n"]
    assert bytes(waiting.take(0)) == HEAD
    assert len(waiting) == 0


@pytest.mark.parametrize("whole", [True, False])
def test_a_long_head_is_refused(whole: bool) -> None:
    waiting = Waiting()
    waiting.add(b"x" * (MAX_HEAD - 4) + b"\r\n\r\n")
    assert len(waiting.take(0)) == MAX_HEAD
    waiting.add(b"x" * (MAX_HEAD - 3) + b"\r\n\r\n" * whole + b"yyyy" * (not whole))
    with pytest.raises(HeadError, match="too long"):
        waiting.take(0)


@pytest.mark.parametrize("wrong", [b"\x16\x03\x01", b"\r\n\x80", b"GET / HTTP/1.0\n", b"GET / HTTP/1.1\r\nHost: x\ny"])
@pytest.mark.parametrize("part", [1, 3, 100])
def test_what_cannot_become_a_head_is_refused_before_its_end(wrong: bytes, part: int) -> None:
    waiting = Waiting()
    *good, last = (wrong[begin : begin + part] for begin in range(0, len(wrong), part))
    with contextlib.suppress(HeadError):
        for piece in good:
            waiting.add(piece)
            assert not waiting.take(0)
    waiting.add(last)
    with pytest.raises(HeadError, match=r"HTTP/1\.1"):
        waiting.take(0)


@pytest.mark.parametrize("part", [1, 3, 100])
def test_blank_lines_before_a_head_are_dropped(part: int) -> None:
    waiting, sent, found = Waiting(), b"\r\n\r\n\r\n" + HEAD + b"\r\n", b""
    for begin in range(0, len(sent), part):
        waiting.add(sent[begin : begin + part])
        while taken := bytes(waiting.take(0)):
            found += taken
    assert found == HEAD
    assert len(waiting) == 0
