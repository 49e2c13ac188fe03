"""What a call tells of itself: the table of layers, the trace, the picture."""

import json
import threading
from itertools import pairwise

import pytest

from model import zoo
from streamrt import Model


@pytest.fixture
def stats(large):
    """Of a pass that streams, after one that has pinned."""
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


def test_a_layer_is_bound_by_what_took_longer(stats):
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
    # Computing happens one thing after the other, and so does reading.
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


@pytest.mark.extras
def test_a_picture(stats, tmp_path):
    pytest.importorskip("matplotlib")
    for name, begins in (("pass.png", b"\x89PNG"), ("pass.svg", b"<?xml")):
        stats.plot(tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(begins)
    text = (tmp_path / "pass.svg").read_text()
    assert "svg" in text
    with pytest.raises(ValueError, match="not supported"):
        stats.plot(tmp_path / "pass.unknown")


def test_without_matplotlib_the_error_says_what_to_install(stats, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"streamrt\[plot\]"):
        stats.plot(tmp_path / "pass.png")
