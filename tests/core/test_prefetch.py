"""Prefetcher: the right bytes are in memory when they are needed, and no more bytes than the window allows."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from core.files import BLOCK, PAGE, MakeFile, cached, content, evict, opened, until
from streamrt._core import Mapping, Prefetcher
from streamrt.errors import ModelClosedError

Items = list[tuple[int, int, bool]]

#: Bytes in the page cache that no item holds: opening reads one page to learn whether the kernel can populate.
PROBE = PAGE


def cut(size: int, tile: int, start: int = 0, pinned: int = 0) -> Items:
    """Tiles from ``start`` to the end of a file; the first ``pinned`` tiles are pinned."""
    return [(at, min(tile, size - at), i < pinned) for i, at in enumerate(range(start, size, tile))]


def covered(items: Items, granule: int, size: int) -> int:
    """Bytes of the granules that the items touch."""
    granules = {g for at, length, _ in items for g in range(at // granule, (at + length - 1) // granule + 1)}
    return sum(min(granule, size - g * granule) for g in granules)


def use(mapping: Mapping, item: tuple[int, int, bool]) -> None:
    """Checks that an item is in memory before it is read, and that it has the bytes of the file."""
    at, length, _ = item
    assert mapping.resident(at, length) == length
    with memoryview(mapping) as view:
        assert view[at : at + length] == content(at, length)


def one_pass(prefetcher: Prefetcher, mapping: Mapping, items: Items) -> None:
    for i, item in enumerate(items):
        prefetcher.wait(i)
        use(mapping, item)
        prefetcher.done(i)
    prefetcher.finish()


SHAPES = {  # granule, tile, start, window
    "aligned blocks": (BLOCK, 2 * BLOCK, 0, 2 * BLOCK),
    "blocks in a wide window": (BLOCK, BLOCK, 0, 3 * BLOCK),
    "begins off the blocks": (BLOCK, 2 * BLOCK, 3 * PAGE, 4 * BLOCK),
    "tiles smaller than a block": (BLOCK, 300_000, 3 * PAGE, 2 * BLOCK),
    "aligned pages": (PAGE, 64 * PAGE, 0, 128 * PAGE),
    "pages, larger than a block": (PAGE, 700 * PAGE, 5 * PAGE, 1500 * PAGE),
    "off the pages": (PAGE, 50_000, 100, 200_000),
    "window of one tile": (PAGE, 40 * PAGE, 0, 40 * PAGE),
}


@pytest.mark.parametrize("pinned", [0, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_pass_reads_right_and_stays_within_the_window(make_file: MakeFile, shape: str, pinned: int) -> None:
    granule, tile, start, window = SHAPES[shape]
    size = 5 * BLOCK + 12_345
    items = cut(size, tile, start, pinned)
    limit = window + covered(items[:pinned], granule, size)
    with opened(make_file(size)) as (mapping, prefetcher):
        prefetcher.schedule(items, window, granule)
        for _ in range(3):
            for i, item in enumerate(items):
                prefetcher.wait(i)
                assert item[1] <= prefetcher.held() <= limit
                # Not at once, because the thread goes on while the pages are counted.
                until(lambda: mapping.resident() <= limit + PROBE, lambda: (prefetcher.held(), cached(mapping)))
                use(mapping, item)
                prefetcher.done(i)
            prefetcher.finish()
        assert prefetcher.peak() <= limit
    with Mapping(mapping.path) as mapping:
        assert mapping.resident() <= PROBE  # closing released everything


def test_files_that_were_written_in_large_folios_are_released(make_file: MakeFile) -> None:
    """A file that was just written lies in the page cache in folios that are larger than a tile."""
    size = 4 * BLOCK
    items = cut(size, 37 * PAGE)
    with opened(make_file(size, cold=False)) as (mapping, prefetcher):
        prefetcher.schedule(items, 100 * PAGE, PAGE)
        one_pass(prefetcher, mapping, items)
        one_pass(prefetcher, mapping, items)
        prefetcher.schedule([], 0, PAGE)  # releases the rest
        assert mapping.resident() == 0


def test_pinned_items_are_read_once(make_file: MakeFile) -> None:
    size = 6 * BLOCK
    items = cut(size, BLOCK, pinned=6)
    with opened(make_file(size)) as (mapping, prefetcher):
        prefetcher.schedule(items, 0, BLOCK)
        for _ in range(3):
            one_pass(prefetcher, mapping, items)
        assert prefetcher.held() == prefetcher.peak() == size
        assert [(r.bytes_read, r.read_start, r.read_end) for r in prefetcher.report()] == [(0, 0, 0)] * 6


def test_the_report_has_the_bytes_and_times_of_each_item(make_file: MakeFile) -> None:
    size = 6 * BLOCK
    items = cut(size, BLOCK, pinned=2)
    path = make_file(size)
    with opened(path) as (mapping, prefetcher):
        prefetcher.schedule(items, 2 * BLOCK, BLOCK)
        assert list(prefetcher.report()) == []
        one_pass(prefetcher, mapping, items)
        first = prefetcher.report()
        assert [r[:3] for r in first] == items
        assert all(0 < r.read_start < r.read_end for r in first)
        assert all(a.read_end <= b.read_start for a, b in pairwise(first))
        assert sum(r.stall for r in first) > 0
        assert size - PROBE <= sum(r.bytes_read for r in first) <= size
        one_pass(prefetcher, mapping, items)
        second = prefetcher.report()
        assert [r.bytes_read for r in second] == [0, 0, BLOCK, BLOCK, BLOCK, BLOCK]
        assert second[2].read_start < second[3].read_start
        assert second[2].read_start > first[2].read_start
        prefetcher.schedule(items, 2 * BLOCK, BLOCK)
        assert list(prefetcher.report()) == []


def test_the_head_of_the_next_pass_is_read_before_this_one_ends(make_file: MakeFile) -> None:
    size = 4 * BLOCK
    items = cut(size, BLOCK)
    with opened(make_file(size)) as (mapping, prefetcher):
        prefetcher.schedule(items, 2 * BLOCK, BLOCK)
        for i in range(4):
            prefetcher.wait(i)
            if i < 3:
                prefetcher.done(i)
        until(lambda: mapping.resident(0, BLOCK) == BLOCK)  # while the last item is in use
        prefetcher.done(3)
        prefetcher.finish()
        one_pass(prefetcher, mapping, items)


@pytest.mark.parametrize("pinned", [0, 2])
def test_nothing_is_read_for_a_pass_that_may_never_come(make_file: MakeFile, pinned: int) -> None:
    size = 8 * BLOCK
    items = cut(size, BLOCK, pinned=pinned)
    kept = pinned * BLOCK
    with opened(make_file(size)) as (mapping, prefetcher):
        prefetcher.read_across(False)
        prefetcher.schedule(items, 3 * BLOCK, BLOCK)
        until(lambda: prefetcher.held() == kept)
        for _ in range(2):
            one_pass(prefetcher, mapping, items)
            until(lambda: prefetcher.held() == kept)
            assert prefetcher.peak() <= kept + 3 * BLOCK
            assert sum(record.bytes_read for record in prefetcher.report()) <= size
        prefetcher.wait(0)
        prefetcher.rewind()
        until(lambda: prefetcher.held() == kept)
        prefetcher.read_across(True)
        until(lambda: prefetcher.held() == kept + 3 * BLOCK)
        one_pass(prefetcher, mapping, items)


def test_a_granule_that_the_next_item_needs_is_not_read_again(make_file: MakeFile) -> None:
    items = [(0, 3 * BLOCK, False), (2 * BLOCK, 3 * BLOCK, False)]
    with opened(make_file(5 * BLOCK)) as (_, prefetcher):
        prefetcher.schedule(items, 5 * BLOCK, BLOCK)
        for _ in range(2):
            prefetcher.wait(0)
            prefetcher.wait(1)
            prefetcher.finish()  # both items wait for their release at once
        assert prefetcher.report()[0].bytes_read == 2 * BLOCK
        assert prefetcher.peak() == 5 * BLOCK


def test_items_may_overlap_and_repeat(make_file: MakeFile) -> None:
    size = 40 * PAGE
    items = [(0, 10 * PAGE, False), (5 * PAGE, 10 * PAGE, False), (0, 10 * PAGE, False), (2, 5, False), (0, PAGE, True)]
    with opened(make_file(size)) as (mapping, prefetcher):
        prefetcher.schedule(items, 15 * PAGE, PAGE)
        for _ in range(3):
            prefetcher.wait(0)
            prefetcher.wait(1)
            prefetcher.done(0)
            use(mapping, items[1])  # the pages that both items have are still there
            prefetcher.wait(2)
            prefetcher.done(1)
            use(mapping, items[2])
            prefetcher.wait(3)
            prefetcher.wait(4)
            for i in (2, 3, 4):
                prefetcher.done(i)
            prefetcher.finish()
        assert prefetcher.peak() <= 15 * PAGE + PAGE


def test_items_may_be_done_out_of_order(make_file: MakeFile) -> None:
    size = 12 * PAGE
    items = cut(size, PAGE)
    with opened(make_file(size)) as (mapping, prefetcher):
        prefetcher.schedule(items, 5 * PAGE, PAGE)
        for _ in range(3):
            for base in range(0, 12, 4):
                for i in range(base, base + 4):
                    prefetcher.wait(i)
                for i in (base + 2, base, base + 3, base + 1):
                    use(mapping, items[i])
                    prefetcher.done(i)
            prefetcher.finish()
        assert prefetcher.peak() <= 5 * PAGE


def test_an_item_larger_than_the_window_is_let_in_alone(make_file: MakeFile) -> None:
    size = 30 * PAGE
    items = cut(size, 10 * PAGE)
    with opened(make_file(size)) as (mapping, prefetcher):
        prefetcher.schedule(items, PAGE, PAGE)
        one_pass(prefetcher, mapping, items)
        one_pass(prefetcher, mapping, items)
        assert prefetcher.peak() == 10 * PAGE


def test_a_wait_that_could_never_end_is_an_error(make_file: MakeFile) -> None:
    items = cut(10 * PAGE, PAGE)
    with opened(make_file(10 * PAGE)) as (mapping, prefetcher):
        prefetcher.schedule(items, 2 * PAGE, PAGE)
        prefetcher.wait(0)
        prefetcher.wait(1)
        with pytest.raises(RuntimeError, match="fill the window"):
            prefetcher.wait(2)
        prefetcher.done(0)
        prefetcher.wait(2)
        prefetcher.rewind()
        one_pass(prefetcher, mapping, items)


def test_finish_counts_the_rest_of_the_pass_as_done(make_file: MakeFile) -> None:
    items = cut(10 * PAGE, PAGE, pinned=2)
    with opened(make_file(10 * PAGE)) as (mapping, prefetcher):
        prefetcher.schedule(items, 5 * PAGE, PAGE)
        for last in (0, 4, 9, 1, 7):
            for i in range(last + 1):
                prefetcher.wait(i)
                use(mapping, items[i])
                if i % 2:
                    prefetcher.done(i)
            prefetcher.finish()
        one_pass(prefetcher, mapping, items)
        assert prefetcher.peak() <= 7 * PAGE


def test_rewind_begins_again_and_keeps_pinned_items(make_file: MakeFile) -> None:
    size = 8 * BLOCK
    items = cut(size, BLOCK, pinned=2)
    with opened(make_file(size)) as (mapping, prefetcher):
        prefetcher.rewind()  # without a schedule there is nothing to give up
        prefetcher.schedule(items, 2 * BLOCK, BLOCK)
        for i in range(4):
            prefetcher.wait(i)
        prefetcher.done(2)
        prefetcher.rewind()
        assert prefetcher.held() <= 4 * BLOCK
        one_pass(prefetcher, mapping, items)
        assert [r.bytes_read for r in list(prefetcher.report())[:2]] == [0, 0]


@pytest.mark.parametrize("granule", [PAGE, BLOCK])
def test_a_new_schedule_keeps_items_that_both_schedules_pin(make_file: MakeFile, granule: int) -> None:
    size = 8 * BLOCK
    with opened(make_file(size)) as (mapping, prefetcher):
        old = cut(size, BLOCK, pinned=4)
        prefetcher.schedule(old, 2 * BLOCK, granule)
        one_pass(prefetcher, mapping, old)
        new = [(at, length, 2 <= i < 6) for i, (at, length, _) in enumerate(old)]
        prefetcher.schedule(new, BLOCK, granule)
        until(lambda: prefetcher.held() == 5 * BLOCK)
        one_pass(prefetcher, mapping, new)
        report = list(prefetcher.report())
        assert [r.bytes_read for r in report[2:4]] == [0, 0]
        assert all(r.bytes_read == BLOCK for r in report[:2] + report[6:])
        assert prefetcher.peak() <= 5 * BLOCK


def test_a_new_schedule_with_another_granule_keeps_nothing(make_file: MakeFile) -> None:
    size = 4 * BLOCK
    items = cut(size, BLOCK, pinned=4)
    with opened(make_file(size)) as (mapping, prefetcher):
        for granule in (BLOCK, PAGE, BLOCK):
            prefetcher.schedule(items, 0, granule)
            one_pass(prefetcher, mapping, items)
            assert sum(r.bytes_read for r in prefetcher.report()) >= size - PROBE


def test_a_schedule_of_nothing_is_allowed(make_file: MakeFile) -> None:
    with opened(make_file(4 * PAGE)) as (mapping, prefetcher):
        prefetcher.schedule(cut(4 * PAGE, PAGE), 2 * PAGE, PAGE)
        prefetcher.schedule([], 0, PAGE)
        prefetcher.finish()
        assert prefetcher.held() == 0
        assert mapping.resident() <= PROBE


BAD_SCHEDULES = {
    "an offset past the end": ([(40 * PAGE, 1, False)], PAGE, PAGE),
    "a range past the end": ([(39 * PAGE, PAGE + 1, False)], PAGE, PAGE),
    "an empty range": ([(PAGE, 0, False)], PAGE, PAGE),
    "a negative offset": ([(-1, 2, False)], PAGE, PAGE),
    "a negative length": ([(5, -2, False)], PAGE, PAGE),
    "a huge length": ([(1, 2**64 - 1, False)], PAGE, PAGE),
    "a huge offset": ([(2**64, 1, False)], PAGE, PAGE),
    "no window": ([(0, PAGE, True), (PAGE, PAGE, False)], 0, PAGE),
    "a negative window": ([(0, PAGE, True)], -1, PAGE),
    "another granule": ([(0, PAGE, True)], PAGE, 8192),
    "no granule": ([(0, PAGE, True)], PAGE, 0),
}


@pytest.mark.parametrize("bad", BAD_SCHEDULES)
def test_a_bad_schedule_is_refused_and_the_old_one_stays(make_file: MakeFile, bad: str) -> None:
    items = cut(40 * PAGE, 10 * PAGE)
    with opened(make_file(40 * PAGE)) as (mapping, prefetcher):
        prefetcher.schedule(items, 20 * PAGE, PAGE)
        with pytest.raises(ValueError, match=r"item 0|window|granule"):
            prefetcher.schedule(*BAD_SCHEDULES[bad])
        one_pass(prefetcher, mapping, items)


def test_calls_out_of_turn_are_refused(make_file: MakeFile) -> None:
    items = cut(40 * PAGE, 10 * PAGE, pinned=1)
    with opened(make_file(40 * PAGE)) as (mapping, prefetcher):
        for call in (lambda: prefetcher.wait(0), lambda: prefetcher.done(0), prefetcher.finish):
            with pytest.raises(ValueError):  # noqa: PT011 (nothing is scheduled)
                call()
        prefetcher.schedule(items, 20 * PAGE, PAGE)
        for i in (-1, 4):
            with pytest.raises(ValueError, match="not one of the 4"):
                prefetcher.wait(i)
        for i in (-1, 0, 1, 4):
            with pytest.raises(ValueError, match="not waited for"):
                prefetcher.done(i)
        prefetcher.wait(1)
        with pytest.raises(ValueError, match="during a pass"):
            prefetcher.schedule(items, 20 * PAGE, PAGE)
        prefetcher.wait(1)
        prefetcher.done(1)
        for call in (lambda: prefetcher.done(1), lambda: prefetcher.wait(1)):
            with pytest.raises(ValueError, match="done already"):
                call()
        prefetcher.finish()
        with pytest.raises(ValueError, match="not waited for"):
            prefetcher.done(1)
        one_pass(prefetcher, mapping, items)


def test_a_mapping_cannot_be_closed_under_a_prefetcher(make_file: MakeFile) -> None:
    mapping = Mapping(make_file(PAGE))
    prefetcher = Prefetcher(mapping)
    with pytest.raises(BufferError):
        mapping.close()
    prefetcher.close()
    mapping.close()
    with pytest.raises(ModelClosedError):
        Prefetcher(mapping)


def test_calls_of_a_closed_prefetcher_are_refused(make_file: MakeFile) -> None:
    with Mapping(make_file(PAGE)) as mapping:
        prefetcher = Prefetcher(mapping)
        prefetcher.schedule([(0, PAGE, False)], PAGE, PAGE)
        prefetcher.close()
        prefetcher.close()
        calls: list[Callable[[], object]] = [
            lambda: prefetcher.schedule([(0, PAGE, False)], PAGE, PAGE),
            lambda: prefetcher.wait(0),
            lambda: prefetcher.done(0),
            prefetcher.finish,
            prefetcher.rewind,
            prefetcher.held,
            prefetcher.peak,
            prefetcher.report,
        ]
        for call in calls:
            with pytest.raises(ModelClosedError, match="was closed"):
                call()


def test_forgetting_to_close_warns(make_file: MakeFile) -> None:
    with Mapping(make_file(PAGE)) as mapping:
        prefetcher = Prefetcher(mapping)
        prefetcher.schedule([(0, PAGE, False)], PAGE, PAGE)
        with pytest.warns(ResourceWarning, match="unclosed <Prefetcher"):
            del prefetcher


def test_numpy_computes_with_streamed_bytes(make_file: MakeFile) -> None:
    path = make_file(8 * BLOCK)
    evict(path)
    with opened(path) as (mapping, prefetcher):
        array = np.frombuffer(memoryview(mapping), np.uint8)
        items = cut(8 * BLOCK, BLOCK)
        prefetcher.schedule(items, 2 * BLOCK, BLOCK)
        total = 0
        for i, (at, length, _) in enumerate(items):
            prefetcher.wait(i)
            total += int(array[at : at + length].sum())
            prefetcher.done(i)
        prefetcher.finish()
        assert total == sum(content(0, 8 * BLOCK))
        del array
