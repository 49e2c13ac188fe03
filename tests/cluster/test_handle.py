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


def test_a_pinned_model_stays_when_ray_drops_its_handle(tmp_path: Path, run_python: Any) -> None:
    code = """
        import sys, streamrt
        from streamrt.ray import Handle, _unload
        with streamrt.ModelPool("1MiB") as pool:
            pool.register("m", sys.argv[1])
            pool.pin("m").result(60)
            _unload(pool, "m")
            print(pool.stats().pinned > 0)
            pool.unpin("m")
            _unload(pool, "m")
            while pool.stats().held:
                pass
    """
    done = run_python(code, zoo.mlp(tmp_path, 4, 4).path, RAY_USAGE_STATS_ENABLED="0")
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_a_replica_sees_new_files_as_a_server_does(tmp_path: Path, run_python: Any) -> None:
    code = """
        import sys, time
        from pathlib import Path
        from streamrt.ray import Options, _Replica

        def eventually(condition):
            end = time.monotonic() + 60
            while not condition():
                assert time.monotonic() < end
                time.sleep(0.01)

        folder, source = Path(sys.argv[1]), Path(sys.argv[2])
        options = Options(repository=str(folder), budget="4MiB", rescan=0.05, pin=("first",))
        (folder / "first.safetensors").write_bytes(source.read_bytes())
        service = _Replica(options.settings())._service
        eventually(lambda: service.pool.stats().pinned > 0)
        new = folder / "new.safetensors"
        new.write_bytes(source.read_bytes()[:-1])
        eventually(lambda: service.catalog._refused)
        assert not service.catalog.has("new")
        new.write_bytes(source.read_bytes())
        eventually(lambda: service.catalog.has("new"))
        with service.pool.lease("new"):
            pass
        new.unlink()
        eventually(lambda: not service.catalog.has("new"))
        service.close()
        print("ended")
    """
    (tmp_path / "models").mkdir()
    source = zoo.mlp(tmp_path, 4, 4).path
    done = run_python(code, tmp_path / "models", source, RAY_USAGE_STATS_ENABLED="0")
    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr
