"""What goes wrong while a model is open: a typed error, no crash, no hang, and if possible a model that still works."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import streamrt
from model import zoo
from streamrt import Model


@pytest.fixture
def copy(large, tmp_path):
    """A copy of the large model that a test may spoil."""
    path = tmp_path / "copy.safetensors"
    shutil.copy(large.path, path)
    zoo.evict(path)
    return path


@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_a_file_cut_before_a_pass(large, copy, io):
    x = zoo.random_input(1, 2048)
    with Model(copy, "16MiB", io=io) as model:
        zoo.assert_close(model(x), large.answer(x))
        os.truncate(copy, copy.stat().st_size // 2)
        for _ in range(2):
            with pytest.raises(streamrt.WeightsIOError):
                model(x)


def test_a_file_cut_during_a_pass(copy, slow_reads, run_python):
    code = """
        import os, sys, threading, numpy as np, streamrt
        path = sys.argv[1]
        with streamrt.Model(path, "16MiB") as model:
            threading.Timer(0.5, os.truncate, (path, 3 << 20)).start()
            try:
                for _ in range(100):
                    model(np.ones((1, 2048), np.float32))
            except streamrt.WeightsIOError as error:
                print("refused", error)
    """
    done = run_python(code, copy, **slow_reads(60e6))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused")


def test_a_file_cut_while_pinned_weights_are_read(copy, run_python):
    # Everything is resident and mapped, so no read fails: the fault comes in the middle of a product.
    code = """
        import os, sys, numpy as np, streamrt
        path = sys.argv[1]
        x = np.ones((1, 2048), np.float32)
        with streamrt.Model(path, None) as model:
            model(x)
            os.truncate(path, 3 << 20)
            session = model._session[1]
            try:
                session.run()
                model._mapping.check()
            except streamrt.WeightsIOError as error:
                print("refused", error)
    """
    done = run_python(code, copy)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused")


@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_a_file_rewritten_in_place(large, copy, io):
    x = zoo.random_input(1, 2048)
    with Model(copy, "16MiB", io=io) as model:
        model(x)
        with copy.open("r+b") as file:
            file.seek(4 << 20)
            file.write(b"\1" * 4096)
        os.utime(copy, ns=(1, 1))
        with pytest.raises(streamrt.WeightsIOError, match="modified"):
            model(x)


def test_a_file_replaced_by_another_is_still_the_one_that_was_opened(large, copy, small):
    x = zoo.random_input(1, 2048)
    with Model(copy, "16MiB") as model:
        model(x)
        replacement = copy.with_suffix(".new")
        shutil.copy(small.path, replacement)
        replacement.replace(copy)
        zoo.assert_close(model(x), large.answer(x))


def test_an_error_in_the_middle_of_a_pass_leaves_a_model_that_works(large):
    x = zoo.random_input(2, 2048)
    with Model(large.path, "16MiB") as model:
        model(x)
        steps = model._session[1]._steps
        good = steps[2]

        def fail(first, last):
            raise ZeroDivisionError

        steps[2] = zoo.with_run(good, fail)
        with pytest.raises(ZeroDivisionError):
            model(x)
        steps[2] = good
        zoo.assert_close(model(x), large.answer(x))
        assert model.memory().weights <= model.plan.pinned_bytes + model.plan.window


def test_ctrl_c_while_waiting_for_the_disk(copy, slow_reads, run_python):
    code = """
        import os, signal, sys, threading, time, numpy as np, streamrt
        x = np.ones((1, 2048), np.float32)
        with streamrt.Model(sys.argv[1], "16MiB") as model:
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
            try:
                while True:
                    model(x)
            except KeyboardInterrupt:
                print("interrupted")
            print(model(x).shape)
    """
    done = run_python(code, copy, **slow_reads(50e6))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["interrupted", "(1, 2048)"]


def test_a_forked_child_gets_an_error_and_can_open_its_own(small):
    x = zoo.random_input(1, 64)
    with Model(small.path, "800KiB") as model:
        wanted = model(x)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                try:
                    model(x)
                except streamrt.ModelClosedError:
                    model.close()
                    with Model(small.path, "800KiB") as own:
                        code = 0 if np.array_equal(own(x), wanted) else 2
            finally:
                os._exit(code)
        deadline = time.monotonic() + 60
        while not (done := os.waitpid(pid, os.WNOHANG))[0]:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        assert os.waitstatus_to_exitcode(done[1]) == 0
        assert np.array_equal(model(x), wanted)


def test_the_interpreter_ends_with_a_model_open(copy, slow_reads, run_python):
    code = """
        import sys, numpy as np, streamrt
        model = streamrt.Model(sys.argv[1], "16MiB")
        model(np.ones((1, 2048), np.float32))
        print("done")
    """
    done = run_python(code, copy, **slow_reads(200e6))
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_opening_and_closing_leaves_nothing(small):
    def used():
        maps = Path("/proc/self/maps").read_text().count(str(small.path))
        folders = (len(list(Path("/proc/self", name).iterdir())) for name in ("fd", "task"))
        return *folders, threading.active_count(), maps

    x = zoo.random_input(1, 64)
    with Model(small.path, "800KiB") as model:
        model(x)
    before = used()
    for _ in range(1000):
        with Model(small.path, "800KiB") as model:
            model(x)
    assert used() == before


def test_files_that_are_not_models(tmp_path, small):
    with pytest.raises(streamrt.WeightsIOError, match="nowhere"):
        Model(tmp_path / "nowhere")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(streamrt.FormatError, match="text"):
        Model(tmp_path / "text")
    damaged = bytearray(small.path.read_bytes())
    damaged[20] ^= 1
    (tmp_path / "damaged").write_bytes(damaged)
    with pytest.raises(streamrt.FormatError):
        Model(tmp_path / "damaged")


def test_sixteen_threads_on_one_model(large):
    """They call, ask, and change the budget, all at once; every answer is right, and no more is held than may be."""
    batches = [1, 2, 5, 33]
    inputs = [zoo.random_input(n, 2048, seed=n) for n in batches]
    answers = [large.answer(x) for x in inputs]
    problems = []

    def caller(number):
        for turn in range(8):
            i = (number + turn) % len(batches)
            outputs = ["layer1"] if turn % 4 == 3 else None
            y = model(inputs[i], outputs)
            if outputs is None:
                zoo.assert_close(y, answers[i])

    def asker(number):
        for turn in range(8):
            model.set_budget(("12MiB", "24MiB", "40MiB")[(number + turn) % 3])
            use = model.memory()
            assert use.weights + use.workspace <= 40 << 20
            model.plan_for((number + 1, 2048))
            assert model.min_budget() < 12 << 20

    def watched(work, number):
        try:
            work(number)
        except Exception as error:
            problems.append(error)

    with Model(large.path, "24MiB") as model:
        threads = [threading.Thread(target=watched, args=(caller if i < 13 else asker, i)) for i in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive()
    assert problems == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_a_user_who_may_only_read(copy, large, run_python, io):
    copy.chmod(0o444)
    x = zoo.random_input(1, 2048)
    code = """
        import os, sys, numpy as np, streamrt
        path, there, here, io = sys.argv[1:]
        x = np.load(there)
        with streamrt.Model(path, "16MiB", io=io) as model:
            model(x)  # whatever is imported late is imported now
        file, answer = os.open(path, os.O_RDONLY), open(here, "wb")  # their folders are not open to everybody
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        with streamrt.Model(f"/proc/self/fd/{file}", "16MiB", io=io) as model:
            for _ in range(3):
                y = model(x)
            print(model.stats.bytes_read > 40 << 20, model.memory().weights <= 16 << 20)
        np.save(answer, y)
        answer.close()
    """
    there, here = copy.with_name("x.npy"), copy.with_name("y.npy")
    np.save(there, x)
    done = run_python(code, copy, there, here, io)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True True\n"
    zoo.assert_close(zoo.load(here), large.answer(x))


def test_no_addresses_for_the_file(copy, run_python):
    code = """
        import resource, sys, numpy as np, streamrt
        x = np.ones((1, 2048), np.float32)
        with streamrt.Model(sys.argv[1], "16MiB") as model:
            wanted = model(x)  # BLAS has taken what it takes
        size = int(open("/proc/self/statm").read().split()[0]) * 4096
        # enough to read the header, several times 2 MiB, and far too little for the file
        resource.setrlimit(resource.RLIMIT_AS, (size + (16 << 20), resource.RLIM_INFINITY))
        for io in ("mmap", "pread"):
            try:
                streamrt.Model(sys.argv[1], "16MiB", io=io)
            except streamrt.WeightsIOError as error:
                print(error.errno)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        with streamrt.Model(sys.argv[1], "16MiB") as model:
            assert np.array_equal(model(x), wanted)
    """
    done = run_python(code, copy)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "12\n12\n"
