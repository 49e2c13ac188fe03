"""Weights files of a pool that come late, are broken or cut short, or are replaced."""

import os
import shutil
from contextlib import suppress

import pytest

import streamrt
from model import zoo
from model.zoo import eventually
from pool.real import call, status
from streamrt import ModelPool
from streamrt.engine import engine
from streamrt.pool import State, resident

MIB = 1 << 20


def test_a_file_that_comes_later_and_one_that_is_no_model(files, tmp_path):
    path = tmp_path / "later.safetensors"
    (tmp_path / "wrong.safetensors").write_bytes(b"nothing of the kind")
    with ModelPool("16MiB") as pool:
        pool.register("m64", path)
        pool.register("wrong", tmp_path / "wrong.safetensors")
        with pytest.raises(streamrt.WeightsIOError), pool.lease("m64"):
            pass
        with pytest.raises(streamrt.FormatError), pool.lease("wrong"):
            pass
        assert [line.state for line in pool.index()] == [State.FAILED] * 2
        assert "WeightsIOError" in status(pool, "m64").reason
        shutil.copy(files["m64"].path, path)
        assert _eventually_leased(pool, "m64")
        call(pool, files, "m64")
        assert status(pool, "m64").state is State.READY
        assert status(pool, "m64").reason == ""


def test_a_failed_model_that_is_unloaded_is_tried_again_at_once(files, tmp_path):
    path = tmp_path / "m64.safetensors"
    with ModelPool("16MiB") as pool:
        pool.register("m64", path)
        for _ in range(3):  # each failure doubles the pause: 2 s after the third
            with pytest.raises(streamrt.WeightsIOError), pool.lease("m64"):
                pass
            pool.unload("m64")
        assert status(pool, "m64").state is State.UNAVAILABLE
        assert status(pool, "m64").reason == ""
        shutil.copy(files["m64"].path, path)
        call(pool, files, "m64")


def test_a_file_that_is_cut_short_and_comes_back(files, tmp_path):
    path = tmp_path / "m512.safetensors"
    shutil.copy(files["m512"].path, path)
    with ModelPool("3MiB") as pool:
        pool.register("m512", path)
        call(pool, files, "m512")
        os.truncate(path, path.stat().st_size // 2)
        with pytest.raises(streamrt.WeightsIOError), pool.lease("m512") as model:
            model(zoo.random_input(1, 512))
        assert status(pool, "m512").state is State.FAILED
        eventually(lambda: status(pool, "m512").held == 0)
        shutil.copy(files["m512"].path, path)
        assert _eventually_leased(pool, "m512")
        call(pool, files, "m512")


def _eventually_leased(pool, name):
    def leased():
        with suppress(streamrt.StreamrtError), pool.lease(name):
            return True
        return False

    eventually(leased)
    return True


def test_another_file_under_the_same_name_is_served_after_unloading(files, tmp_path):
    path = tmp_path / "m.safetensors"
    shutil.copy(files["m64"].path, path)
    with ModelPool("16MiB") as pool:
        pool.register("m", path)
        with pool.lease("m") as model:
            assert model.inputs[0].dims[1] == 64
        new = tmp_path / "new.safetensors"
        shutil.copy(files["m512"].path, new)
        new.replace(path)
        with pool.lease("m") as model:
            assert model.inputs[0].dims[1] == 64
        pool.unload("m")
        with pool.lease("m") as model:
            assert model.inputs[0].dims[1] == 512
            zoo.assert_close(model(zoo.random_input(1, 512)), files["m512"].answer(zoo.random_input(1, 512)))


@pytest.mark.parametrize("comes", ["another", "none"])
def test_a_file_that_is_replaced_at_the_moment_when_it_is_mapped(tmp_path, monkeypatch, comes):
    """The next header is read at once. Without a file there is an error, which says so."""
    (tmp_path / "new").mkdir()
    old, new = zoo.mlp(tmp_path, 16, 64, 16), zoo.mlp(tmp_path / "new", 16, 64, 16, seed=1)
    x, real = zoo.random_input(1, 16), engine.WeightsMapping

    def replace_and_map(path, io):
        with suppress(FileNotFoundError):
            new.path.replace(old.path)
        return real(path, io)

    def remove_and_map(path, io):
        old.path.unlink()
        return real(path, io)

    with ModelPool("1MiB") as pool:
        pool.register("m", old.path)
        monkeypatch.setattr(engine, "WeightsMapping", replace_and_map if comes == "another" else remove_and_map)
        if comes == "another":
            with pool.lease("m") as model:
                zoo.assert_close(model(x), new.answer(x))
        else:
            with pytest.raises(streamrt.WeightsIOError, match="No such file"), pool.lease("m"):
                pass
        assert pool.stats().failures == (comes == "none")


def test_headers_of_small_files_are_remembered_up_to_a_limit_that_counts_files_too(files, tmp_path, monkeypatch):
    paths = [str(tmp_path / f"{number}.safetensors") for number in range(8)]
    for path in paths:
        shutil.copy(files["m64"].path, path)
    remembered = resident.WeightsFiles()
    remembered.measure(paths[0], 1 << 30)
    parts = remembered._known[paths[0]].parts
    assert parts > resident._PARTS_OF_FILE  # and its tensors and nodes
    monkeypatch.setattr(resident, "_PARTS", 5 * parts)
    for path in paths:
        remembered.measure(path, 1 << 30)
    assert list(remembered._known) == paths[-5:]
