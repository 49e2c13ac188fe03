"""Reports of a call: the table of layers, the trace, the picture."""

import json
import threading
from array import array
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from model import zoo
from streamrt import InputError, LayerStats, Model, PassStats
from streamrt._core import ItemReport
from streamrt.format import Tensor
from streamrt.graph import Node
from streamrt.plan import HUGE, Plan, Range, Tile
from streamrt.report import trace
from streamrt.report.trace import PassTrace, Trace

MIB = 1 << 20
MS = 1_000_000  # in nanoseconds


@pytest.fixture
def stats(large):
    """The stats of a pass that streams, after a pass that pinned."""
    zoo.evict(large.path)
    x = zoo.random_input(2, 2048)
    with Model(large.path, "40MiB") as model:
        model(x)
        model(x)
        return model.stats


def test_stats_may_be_asked_for_while_another_thread_calls(large):
    x, failures, done = zoo.random_input(2, 2048), [], threading.Event()
    with Model(large.path, "40MiB") as model:

        def ask():
            try:
                while not done.is_set():
                    stats = model.stats
                    assert stats is None or stats.samples == 2
            except Exception as error:
                failures.append(error)

        asker = threading.Thread(target=ask)
        asker.start()
        for _ in range(20):
            model(x)
        done.set()
        asker.join()
        assert model.stats is model.stats
    assert not failures


def test_markdown_has_a_row_for_each_layer_and_their_sum(stats):
    head, rule, *rows = stats.to_markdown().splitlines()
    columns = head.count("|")
    assert all(row.count("|") == columns for row in (rule, *rows))
    assert [row.split("|")[1].strip() for row in rows] == [*(layer.name for layer in stats.layers), "**all**"]
    for row, part in zip(rows, [*stats.layers, stats], strict=True):
        cells = [cell.strip() for cell in row.split("|")]
        assert float(cells[5]) == pytest.approx(part.read_seconds * 1e3, abs=0.006)
        assert float(cells[6]) == pytest.approx(part.stall * 1e3, abs=0.006)
        assert cells[9] == part.bound_by


def test_a_layer_is_bound_by_the_longer_of_reading_and_computing(stats):
    for layer in stats.layers:
        assert layer.bound_by == ("reading" if layer.stall > layer.compute else "computing")
        assert 0 <= layer.overlap <= 1


def test_a_trace_adds_up_to_the_stats(stats, tmp_path):
    stats.to_perfetto(tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text())
    events = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert all(event["ts"] >= 0 and event["dur"] >= 0 for event in events)

    def total(kind):
        return sum(event["dur"] for event in events if event["cat"] == kind) * 1e-6

    assert total("read") == pytest.approx(stats.read_seconds)
    assert total("stall") == pytest.approx(stats.stall)
    assert total("compute") == pytest.approx(sum(layer.compute for layer in stats.layers))
    reads = [event for event in events if event["cat"] == "read"]
    assert sum(event["args"]["bytes"] for event in reads) == stats.bytes_streamed
    assert sum(event["args"]["bytes_from_device"] for event in reads) == stats.bytes_read
    # Spans of computing do not overlap each other, and neither do spans of reading.
    for track in (1, 2):
        ordered = sorted((event["ts"], event["dur"]) for event in events if event["tid"] == track)
        assert all(a + b <= c + 1 for (a, b), (c, _) in pairwise(ordered))


def test_micro_batches_are_all_in_the_trace(small, tmp_path):
    with Model(small.path, "1MiB") as model:
        model(zoo.random_input(1000, 64))
        stats = model.stats
    assert stats.passes > 1
    stats.to_perfetto(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    steps = sum(event.get("cat") == "compute" for event in events)
    assert steps % stats.passes == 0
    assert sum(layer.compute for layer in stats.layers) <= stats.compute


def tensor(name, length):
    """A parameter of so many bytes."""
    return Tensor(name, "F32", (length // 4,), HUGE, length)


@pytest.fixture
def known():
    """The stats of a call of two passes, with made-up times: the first pass pins, the second had a head start.

    There are three layers, and a node that does nothing. The first layer has 2 MiB of weights that stay and 4 MiB that
    stream. The second has 6 MiB that stream. The third has no weights.
    """
    nodes = [
        Node("early", "Gemm", ("x", "w"), ("a",)),
        Node("reshape", "Reshape", ("a",), ("b",)),
        Node("late|r", "Conv", ("b", "v"), ("c",)),
        Node("last", "Softmax", ("c",), ("d",)),
    ]
    ranges = (Range(HUGE, 2 * MIB, True), Range(2 * HUGE, 4 * MIB), Range(4 * HUGE, 6 * MIB))
    tiles = (Tile(0, 0, 4, 0, 1), Tile(0, 4, 12, 1, 2), Tile(1, 0, 1, 2, 2), Tile(2, 0, 8, 2, 3), Tile(3, 0, 1, 3, 3))
    plan = Plan(tiles, ranges, HUGE, 10 * MIB, 3 * MIB, 2 * MIB, 10 * MIB, 16 * MIB, 5)

    def item(index, device, start, end, stall):
        r = ranges[index]
        return ItemReport(r.offset, r.length, r.pinned, device * MIB, start * MS, end * MS, stall * MS)

    def done(start, end, computing, items):
        return PassTrace(start * MS, end * MS, array("q", [moment * MS for moment in computing]).tobytes(), items)

    passes = [
        # Of the last range 5 MiB were in the page cache.
        done(
            100,
            160,
            [110, 125, 130, 140, 154, 156, 156, 159],
            [item(0, 2, 100, 110, 10), item(1, 4, 110, 130, 5), item(2, 1, 130, 154, 14)],
        ),
        # The first range is still there, and the second was read while the pass before ran.
        done(
            160,
            190,
            [161, 167, 167, 177, 180, 184, 184, 189],
            [item(0, 0, 0, 0, 0), item(1, 4, 154, 162, 0), item(2, 6, 162, 180, 3)],
        ),
    ]
    steps = [(0, (0,)), (0, (1,)), (2, (2,)), (3, ())]
    tensors = {name: tensor(name, length) for name, length in (("w", 6 * MIB), ("v", 6 * MIB))}
    return PassStats.of(Trace(passes, steps, nodes, plan, tensors), io="pread", samples=10, peak_weights=12 * MIB)


def test_times_of_layers_are_those_of_their_tiles(known):
    found = {
        layer.name: (layer.weights, layer.bytes_read, layer.read_seconds, layer.stall, layer.compute, layer.overlap)
        for layer in known.layers
    }
    assert not any(layer.shared for layer in known.layers)
    wanted = {
        "early": (6 * MIB, 10 * MIB, 0.038, 0.015, 0.041, 1 - 15 / 38),
        "reshape": (0, 0, 0, 0, 0, 1),
        "late|r": (6 * MIB, 7 * MIB, 0.042, 0.017, 0.006, 1 - 17 / 42),
        "last": (0, 0, 0, 0, 0.008, 1),
    }
    assert list(found) == list(wanted)
    for name, numbers in wanted.items():
        assert found[name] == pytest.approx(numbers)
    assert [layer.op for layer in known.layers] == ["Gemm", "Reshape", "Conv", "Softmax"]
    assert [layer.bound_by for layer in known.layers] == ["computing", "computing", "reading", "computing"]


def test_a_call_is_the_sum_of_its_passes(known):
    assert (known.io, known.samples, known.passes) == ("pread", 10, 2)
    assert known.seconds == pytest.approx(0.09)
    assert known.stall == pytest.approx(0.032)
    assert known.compute == pytest.approx(0.058)  # 3 ms of it belong to no layer
    assert known.read_seconds == pytest.approx(0.08)
    assert known.overlap == pytest.approx(0.6)
    assert known.bound_by == "computing"
    assert (known.bytes_streamed, known.bytes_pinned, known.bytes_read) == (20 * MIB, 2 * MIB, 17 * MIB)
    assert (known.peak_weights, known.workspace) == (12 * MIB, 3 * MIB)
    assert str(known) == (
        "90.0 ms for 10 samples, bound by computing: computed 58.0 ms, stalled 32.0 ms, 60% of reading overlapped; "
        "streamed 20.0 MiB, newly pinned 2.00 MiB, 17.0 MiB of it from the device (pread); held at most 15.0 MiB"
    )
    assert str(replace(known, samples=1)).startswith("90.0 ms for 1 sample, bound by")


@pytest.mark.parametrize(
    ("compute", "stall", "reading", "overlap", "bound_by"),
    [
        (3.0, 1.0, 4.0, 0.75, "computing"),
        (1.0, 3.0, 4.0, 0.25, "reading"),
        (2.0, 2.0, 2.0, 0.0, "computing"),
        (1.0, 5.0, 4.0, 0.0, "reading"),  # it waited while the disk read earlier ranges
        (1.0, 0.0, 4.0, 1.0, "computing"),
        (1.0, 0.0, 0.0, 1.0, "computing"),  # nothing was read
    ],
)
def test_overlap_is_the_share_of_reading_without_a_stall(compute, stall, reading, overlap, bound_by):
    layer = LayerStats("l", "Gemm", 1, False, 1, compute=compute, stall=stall, read_seconds=reading, bytes_read=1)
    assert (layer.overlap, layer.bound_by) == (overlap, bound_by)


def test_rounds_that_are_not_kept_are_added_up(monkeypatch):
    """The sums are those of the rounds, and pictures leave them out."""
    nodes = [Node("a", "Conv", ("x", "v"), ("y",)), Node("b", "Conv", ("y", "w"), ("z",))]
    ranges = (Range(0, MIB, True), Range(MIB, 2 * MIB))
    plan = Plan((Tile(0, 0, 4, 0, 1), Tile(1, 0, 4, 1, 2)), ranges, HUGE, 4 * MIB, 0, 0, 2 * MIB, None, rounds=5)
    rounds = []
    for number in range(5):
        begin = 20 * number
        pinned = (begin, begin + 2, 2) if number == 2 else (0, 0, 0)
        items = [
            ItemReport(r.offset, r.length, r.pinned, (end - start) * MIB, start * MS, end * MS, stall * MS)
            for r, (start, end, stall) in zip(ranges, (pinned, (begin + 3, begin + 7 + number, number)), strict=True)
        ]
        times = array("q", [(begin + moment) * MS for moment in (2, 5, 12, 14 + number)]).tobytes()
        rounds.append(PassTrace(begin * MS, (begin + 20) * MS, times, items))
    found = []
    for most in (1 << 15, 9, 0):
        monkeypatch.setattr(trace, "_MOST_KEPT", most)
        kept = trace.Rounds()
        for each in rounds:
            kept.add(each)
        passes = kept.traces()
        call = Trace(passes, [(0, (0,)), (1, (1,))], nodes, plan, {})
        stats = PassStats.of(call, io="mmap", samples=1, peak_weights=0)
        found.append((stats, stats.layers))
        assert len(passes) == {1 << 15: 5, 9: 3, 0: 2}[most]
        assert len(call.single.passes) == {1 << 15: 5, 9: 2, 0: 1}[most]
        assert sum(done.items.stall for done in passes if done.rounds > 1) == sum(
            item.stall for done in rounds[len(call.single.passes) :] for item in done.items
        )
        assert call.computed() == pytest.approx([0.015, 0.02])
    assert found[0] == found[1] == found[2]
    assert found[0][0].passes == 1
    assert found[0][0].bytes_streamed == 10 * MIB
    assert found[0][0].bytes_pinned == MIB


def test_markdown_has_bytes_times_overlap_and_bound_of_each_layer(known):
    assert known.to_markdown().splitlines() == [
        "| layer | operator | weights | read | reading, ms | stall, ms | computing, ms | overlap | bound by |",
        "|---|---|--:|--:|--:|--:|--:|--:|---|",
        "| early | Gemm | 6.00 MiB | 10.0 MiB | 38.00 | 15.00 | 41.00 | 61% | computing |",
        "| late\\|r | Conv | 6.00 MiB | 7.00 MiB | 42.00 | 17.00 | 6.00 | 60% | reading |",
        "| last | Softmax | 0 B | 0 B | 0.00 | 0.00 | 8.00 | 100% | computing |",
        "| **all** |  | 12.0 MiB | 17.0 MiB | 80.00 | 32.00 | 58.00 | 60% | computing |",
    ]


def test_layers_that_share_a_range_tell_their_own_bytes():
    """Two layers in one range, a layer in that range and in one of its own, and a layer with a range to itself."""
    nodes = [Node(f"n{index}", "Gemm", (f"a{index}", f"w{index}"), (f"a{index + 1}",)) for index in range(4)]
    ranges = (Range(HUGE, 24 << 10), Range(2 * HUGE, 4 * MIB), Range(4 * HUGE, 2 * MIB))
    tiles = (Tile(0, 0, 4, 0, 1), Tile(1, 0, 4, 0, 1), Tile(2, 0, 4, 0, 2), Tile(3, 0, 4, 2, 3))
    plan = Plan(tiles, ranges, HUGE, 10 * MIB, 0, 0, 6 * MIB, None)
    tensors = {
        f"w{index}": tensor(f"w{index}", length)
        for index, length in enumerate((8 << 10, 12 << 10, 4 * MIB + (4 << 10), 2 * MIB))
    }
    items = [
        ItemReport(r.offset, r.length, r.pinned, r.length, index * MS, (index + 1) * MS, 0)
        for index, r in enumerate(ranges)
    ]
    times = array("q", [moment * MS for start in range(3, 7) for moment in (start, start + 1)]).tobytes()
    steps = [(0, (0,)), (1, ()), (2, (1,)), (3, (2,))]
    trace = Trace([PassTrace(0, 7 * MS, times, items)], steps, nodes, plan, tensors)
    stats = PassStats.of(trace, io="mmap", samples=1, peak_weights=8 * MIB)
    assert [layer.shared for layer in stats.layers] == [True, True, True, False]
    assert [layer.parameters for layer in stats.layers] == [each.nbytes for each in tensors.values()]
    assert [layer.weights for layer in stats.layers] == [24 << 10, 0, 4 * MIB, 2 * MIB]
    cells = [[cell.strip() for cell in row.split("|")[3:5]] for row in stats.to_markdown().splitlines()[2:]]
    assert cells == [
        ["8.00 KiB (shared)", "24.0 KiB"],
        ["12.0 KiB (shared)", "0 B"],
        ["4.00 MiB (shared)", "4.00 MiB"],
        ["2.00 MiB", "2.00 MiB"],
        ["6.02 MiB", "6.02 MiB"],
    ]


def test_no_layer_of_a_small_model_has_0_bytes(small):
    with Model(small.path, None) as model:
        model(zoo.random_input(1, 64))
        stats = model.stats
    assert all(layer.parameters and layer.shared for layer in stats.layers)
    assert sum(layer.parameters for layer in stats.layers) == small.weights
    *rows, total = stats.to_markdown().splitlines()[2:]
    assert all("(shared)" in row.split("|")[3] for row in rows)
    assert "(shared)" not in total


def test_a_trace_has_every_interval_in_its_place(known, tmp_path):
    known.to_perfetto(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    tracks = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    assert tracks == {1: "reading", 2: "computing"}
    found = [
        (tracks[event["tid"]], event["name"], event["args"]["node"], event["ts"] / 1e3, event["dur"] / 1e3)
        for event in events
        if event["ph"] == "X"
    ]
    assert sorted(found) == sorted(
        [
            *[("reading", "early", "early", *span) for span in ((0, 10), (10, 20), (54, 8))],
            *[("reading", "late|r", "late|r", *span) for span in ((30, 24), (62, 18))],
            *[("computing", "early", "early", *span) for span in ((10, 15), (30, 10), (61, 6), (67, 10))],
            *[("computing", "late|r", "late|r", *span) for span in ((54, 2), (80, 4))],
            *[("computing", "last", "last", *span) for span in ((56, 3), (84, 5))],
            *[("computing", "stall", "early", *span) for span in ((0, 10), (25, 5))],
            *[("computing", "stall", "late|r", *span) for span in ((40, 14), (77, 3))],
        ]
    )
    pinned = [event["args"]["pinned"] for event in events if event.get("cat") == "read"]
    assert pinned == [True, False, False, False, False]


@pytest.mark.extras
def test_a_picture(stats, tmp_path):
    pytest.importorskip("matplotlib")
    for name, begins in (("pass.png", b"\x89PNG"), ("pass.svg", b"<?xml")):
        stats.plot(tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(begins)
    with pytest.raises(InputError, match=r"pass\.unknown: expected .* ends in one of .*\.pdf, .*\.png, .*\.svg"):
        stats.plot(tmp_path / "pass.unknown")
    assert not (tmp_path / "pass.unknown").exists()


@pytest.mark.extras
@pytest.mark.parametrize("name", ["pass.PNG", "pass"])
def test_the_ending_of_a_picture_may_have_capitals_or_be_missing(known, tmp_path, name):
    pytest.importorskip("matplotlib")
    known.plot(tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def texts_in_picture(stats, path):
    """Draw a picture as SVG; returns its texts."""
    matplotlib = pytest.importorskip("matplotlib")
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # letters; by default their outlines are drawn
        stats.plot(path)
    elements = ET.parse(path).iter("{http://www.w3.org/2000/svg}text")
    return ["".join(element.itertext()).strip() for element in elements]


@pytest.mark.extras
@pytest.mark.parametrize(
    ("name", "drawn"), [(r"a$\b$c", r"a$\b$c"), ("block." * 9 + "end", "…k.block.block.block.end")]
)
def test_a_picture_names_a_layer_in_each_pass_by_any_name(name, drawn, tmp_path):
    plan = Plan((Tile(0, 0, 1, 0, 0),), (), HUGE, 0, 0, 0, 0, None)
    times = [array("q", [start * MS, (start + 10) * MS]).tobytes() for start in (0, 10)]
    passes = [
        PassTrace(start * MS, (start + 10) * MS, moments, ()) for start, moments in zip((0, 10), times, strict=True)
    ]
    trace = Trace(passes, [(0, ())], [Node(name, "Relu", ("x",), ("y",))], plan, {})
    texts = texts_in_picture(PassStats.of(trace, io="mmap", samples=2, peak_weights=0), tmp_path / "pass.svg")
    assert texts.count(drawn) == 2


@pytest.mark.extras
def test_a_picture_names_its_colours_and_its_times(known, tmp_path):
    texts = texts_in_picture(known, tmp_path / "pass.svg")
    assert {"reading", "waiting", "computing"} <= set(texts)
    # Each pass names its layers, except the layer that takes no time.
    assert [texts.count(layer.name) for layer in known.layers] == [2, 0, 2, 2]
    assert {"computing: 55.0 ms", "stall: 32.0 ms", "streamed: 70.0 ms", "pinned: 10.0 ms"} <= set(texts)
    assert any(text.startswith("90.0 ms for 10 samples, bound by computing") for text in texts)
    assert any("ms from the beginning of the first pass" in text for text in texts)


@pytest.mark.extras
def test_longer_times_are_longer_bars_in_a_picture(known, tmp_path):
    image = pytest.importorskip("matplotlib.image")
    known.plot(tmp_path / "pass.png")
    pixels = np.rint(image.imread(tmp_path / "pass.png")[..., :3] * 255).astype(int)

    def width(*colour):
        """The most pixels of a colour in a row. That row crosses a bar, because the fields of the legend are short."""
        return int((pixels == colour).all(axis=-1).sum(axis=1).max())

    computing, stall = width(0x4C, 0x78, 0xA8), width(0xE4, 0x57, 0x56)
    streamed, pinned = width(0x72, 0xB7, 0xB2), width(0xB2, 0x79, 0xA2)
    assert pinned > 50
    # At the end of a bar a pixel may be blended with its neighbour.
    assert computing / stall == pytest.approx(55 / 32, rel=0.1)
    assert streamed / pinned == pytest.approx(7, rel=0.1)


def test_without_matplotlib_the_error_says_what_to_install(stats, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"streamrt\[plot\]"):
        stats.plot(tmp_path / "pass.png")
