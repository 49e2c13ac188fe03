"""Handles in Ray's table may be dropped at any moment."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from model import zoo

pytestmark = [
    pytest.mark.extras,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed"),
]


def test_a_handle_collected_while_the_pool_is_locked_unloads_its_model_later(tmp_path: Path, run_python: Any) -> None:
    """Python may collect a handle in any thread at any time, even while that thread changes the pool's accounts."""
    code = """
        import sys, time, streamrt
        from streamrt.ray import Handle
        with streamrt.ModelPool("1MiB") as pool:
            pool.register("m", sys.argv[1])
            with pool.lease("m"):
                pass
            handle = Handle(pool, "m")
            with pool._keeper.changed:
                del handle
                print(*(line.state.value for line in pool.index()), pool.stats().held > 0)
            while pool.stats().held:
                time.sleep(0.01)
            for name in ("m", "unknown"):
                Handle(pool, name).__del__()  # Ray calls it, too, so it runs again when the handle is collected
        Handle(pool, "m").__del__()
        print("ended")
    """
    done = run_python(code, zoo.mlp(tmp_path, 4, 4).path, RAY_USAGE_STATS_ENABLED="0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["READY True", "ended"]
    assert "Exception ignored" not in done.stderr
