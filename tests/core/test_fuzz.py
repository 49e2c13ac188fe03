"""Random schedules with random calls, compared with a simple model of the granules."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.files import PAGE, MakeFile, content, opened

SIZE = 40 * PAGE + 123
Item = tuple[int, int, bool]


@dataclass
class Model:
    """The granules that each item holds, once the prefetch thread has nothing left to do."""

    items: list[Item]
    window: int
    live: dict[int, set[int]] = field(default_factory=dict)  # of streamed items begun and not done, by number
    head: int = 0
    passes: int = 0

    def __post_init__(self) -> None:
        self.streams = [i for i, (_, _, pinned) in enumerate(self.items) if not pinned]
        self.pinned: set[int] = set()
        for i, (_, _, pinned) in enumerate(self.items):
            if pinned:
                self.pinned |= self.granules(i)
        self.settle()

    def granules(self, i: int) -> set[int]:
        at, length, _ = self.items[i]
        return set(range(at // PAGE, (at + length - 1) // PAGE + 1))

    @staticmethod
    def bytes_of(granules: set[int]) -> int:
        return sum(min(PAGE, SIZE - g * PAGE) for g in granules)

    def streamed(self) -> set[int]:
        return set().union(*self.live.values()) - self.pinned

    def held(self) -> int:
        return self.bytes_of(self.pinned | self.streamed())

    def settle(self) -> None:
        """The thread reads on until the window is full, or the oldest item that is not done is one pass behind."""
        while self.streams and self.head < min(self.live, default=self.head) + len(self.streams):
            granules = self.granules(self.streams[self.head % len(self.streams)])
            if self.streamed() and self.bytes_of(self.streamed() | granules - self.pinned) > self.window:
                break
            self.live[self.head] = granules
            self.head += 1

    def number(self, i: int) -> int:
        return self.passes * len(self.streams) + self.streams.index(i)

    def comes(self, i: int) -> bool:
        return self.items[i][2] or self.number(i) < self.head

    def done(self, i: int) -> None:
        if not self.items[i][2]:
            del self.live[self.number(i)]
            self.settle()

    def finish(self) -> None:
        self.passes += 1
        end = self.passes * len(self.streams)
        self.live = {number: granules for number, granules in self.live.items() if number >= end}
        self.head = max(self.head, end)
        self.settle()

    def rewind(self) -> None:
        self.live.clear()
        self.head = self.passes * len(self.streams)
        self.settle()


@st.composite
def an_item(draw: st.DrawFn) -> Item:
    at = draw(st.integers(0, SIZE - 1))
    return at, draw(st.integers(1, min(SIZE - at, 9 * PAGE))), draw(st.integers(0, 3)) == 0


@st.composite
def a_schedule(draw: st.DrawFn) -> tuple[list[Item], int]:
    if draw(st.booleans()):  # tiles one after the other, as a plan has them
        tile, start = draw(st.integers(500, 6 * PAGE)), draw(st.integers(0, 2 * PAGE))
        cuts = range(start, SIZE, tile)
        items = [(at, min(tile, SIZE - at), draw(st.integers(0, 3)) == 0) for at in cuts]
    else:
        items = draw(st.lists(an_item(), min_size=1, max_size=12))
    return items, draw(st.integers(1, 25 * PAGE))


@pytest.mark.parametrize("io", ["mmap", "pread"])
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_the_prefetcher_holds_as_many_bytes_as_the_model(make_file: MakeFile, io: str, data: st.DataObject) -> None:
    with opened(make_file(SIZE), io) as (mapping, prefetcher):
        model = Model([], 1)

        def agree() -> None:
            expected, give_up = model.held(), time.monotonic() + 20
            while (held := prefetcher.held()) != expected and time.monotonic() < give_up:
                time.sleep(0.0002)
            assert held == expected  # not asked again: if the thread still works, the next value may differ

        for _ in range(data.draw(st.integers(1, 3), "schedules")):
            model = Model(*data.draw(a_schedule(), "schedule"))
            prefetcher.schedule(model.items, model.window, PAGE)
            agree()
            for _ in range(data.draw(st.integers(1, 3), "passes")):
                using: list[int] = []
                lag = data.draw(st.integers(0, 4), "items in use at once")
                last = data.draw(st.integers(0, len(model.items)), "items of this pass")
                for i in range(last):
                    while not model.comes(i):
                        with pytest.raises(RuntimeError):
                            prefetcher.wait(i)
                        oldest = next(j for j in using if not model.items[j][2])
                        using.remove(oldest)
                        prefetcher.done(oldest)
                        model.done(oldest)
                    prefetcher.wait(i)
                    at, length, _ = model.items[i]
                    assert io == "pread" or mapping.resident(at, length) == length
                    with memoryview(mapping) as view:
                        assert view[at : at + length] == content(at, length)
                    using.append(i)
                    if len(using) > lag:
                        j = using.pop(data.draw(st.integers(0, min(1, lag)), "which is done"))
                        prefetcher.done(j)
                        model.done(j)
                    if data.draw(st.integers(0, 9), "compare now?") == 0:
                        agree()
                if data.draw(st.integers(0, 4), "rewind?") == 0:
                    prefetcher.rewind()
                    model.rewind()
                else:
                    prefetcher.finish()
                    model.finish()
                agree()
            limit = max(model.window, max((model.bytes_of(model.granules(i)) for i in model.streams), default=0))
            assert prefetcher.peak() <= limit + model.bytes_of(model.pinned)
