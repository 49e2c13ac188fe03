"""Faults while a model is open give a typed error, no crash and no hang, and if possible the model still works."""

import contextlib
import errno
import gc
import os
import shutil
import signal
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest

import streamrt
from model import zoo
from processes import descriptors, threads
from streamrt import Model
from streamrt._core import Mapping
from streamrt.format import read_header
from streamrt.host.memory import anonymous_bytes


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
            session = model._engine.session
            try:
                session.run()
                model._engine.mapping.check()
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


@pytest.mark.parametrize("how", ["replaced", "rewritten"])
@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_a_file_that_becomes_another_between_its_header_and_its_mapping(copy, small, monkeypatch, how, io):
    mapped = []

    def late(path, io):
        if how == "replaced":
            shutil.copy(small.path, copy.with_suffix(".new"))
            copy.with_suffix(".new").replace(copy)
        else:
            os.utime(copy, ns=(1, 1))
        mapped.append(Mapping(path, io))
        return mapped[-1]

    monkeypatch.setattr("streamrt.engine.engine.WeightsMapping", late)
    with pytest.raises(streamrt.WeightsIOError, match="replaced while it was being opened"):
        Model(copy, "16MiB", io=io)
    assert mapped[0].closed
    monkeypatch.undo()
    with Model(copy, "16MiB", io=io) as model:  # the file that is there now
        assert model.checksum == read_header(small.path if how == "replaced" else copy).checksum


#: Calls a model whose reading fails. Prints for each call "answered", or the number of the error.
CALLS = """
import sys, numpy as np, streamrt
path, there, here, io = sys.argv[1:]
x = np.load(there)
with streamrt.Model(path, "16MiB", io=io) as model:
    for _ in range(3):
        try:
            y = model(x)
            print("answered")
            np.save(here, y)
        except streamrt.WeightsIOError as error:
            print("error", error.errno, error.filename == path)
        use = model.memory()
        assert use.weights <= model.plan.pinned_bytes + model.plan.window, use
        assert use.weights + use.workspace <= 16 << 20, use
"""
WAYS_TO_FAIL = [("mmap", "populate"), ("pread", "pread")]


def calls(copy, run_python, io, environment):
    """The output of three calls of a model, and the last answer."""
    there, here = copy.with_name("x.npy"), copy.with_name("y.npy")
    np.save(there, zoo.random_input(1, 2048))
    # The system call that is to fail must be used, even if the environment makes all tests do without it.
    done = run_python(CALLS, copy, there, here, io, **environment, STREAMRT_TEST_POPULATE="read")
    assert done.returncode == 0, done.stderr
    assert "failing_io: 0" not in done.stderr
    return done.stdout.splitlines(), zoo.load(here) if here.exists() else None


@pytest.mark.parametrize(("io", "call"), WAYS_TO_FAIL)
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOMEM])
@pytest.mark.parametrize("after", [0, 1, 13])
def test_reading_that_fails_once_is_an_error_of_one_call(copy, large, run_python, failing_io, io, call, number, after):
    said, y = calls(copy, run_python, io, failing_io(f"{call}:{after}:{number}:1"))
    assert said == [f"error {number} True", "answered", "answered"]
    zoo.assert_close(y, large.answer(zoo.random_input(1, 2048)))


@pytest.mark.parametrize(("io", "call"), WAYS_TO_FAIL)
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOMEM])
@pytest.mark.parametrize("after", [0, 5])
def test_reading_that_keeps_failing_is_an_error_of_every_call(copy, run_python, failing_io, io, call, number, after):
    said, y = calls(copy, run_python, io, failing_io(f"{call}:{after}:{number}"))
    assert said == [f"error {number} True"] * 3
    assert y is None


def test_an_error_in_the_middle_of_a_pass_leaves_a_model_that_works(large):
    x = zoo.random_input(2, 2048)
    with Model(large.path, "16MiB") as model:
        model(x)
        steps = model._engine.session._steps
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


@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_opening_and_closing_leaves_nothing(small, io):
    def mapped():
        return Path("/proc/self/maps").read_text().count(str(small.path))

    def anonymous():
        gc.collect()
        return anonymous_bytes()

    x = zoo.random_input(1, 64)
    for _ in range(20):
        with Model(small.path, "800KiB", io=io) as model:
            model(x)
    held = anonymous()  # models of other tests are collected first
    files, tasks, python, maps = descriptors(), threads(), set(threading.enumerate()), mapped()
    for _ in range(1000):
        with Model(small.path, "800KiB", io=io) as model:
            model(x)
    assert descriptors() <= files
    assert set(threading.enumerate()) <= python
    assert mapped() == maps
    zoo.eventually(lambda: threads() <= tasks)  # the kernel lists a thread for a moment after it was joined
    # If each opening leaked a page of weights or workspace, twice as much would be left. The heap grows a little, and
    # the kernel counts pages in batches.
    assert anonymous() - held < 2 << 20


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the model is not closed
@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_a_model_is_freed_at_once_after_a_call_that_failed(small, io):
    def fail():
        model = Model(small.path, "1KiB", io=io)
        with contextlib.suppress(streamrt.BudgetError):
            model(zoo.random_input(1, 64))
        return weakref.ref(model)

    gc.disable()
    try:
        assert fail()() is None
    finally:
        gc.enable()


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
    """They call, ask for plans and change the budget, all at once. Answers are right, and the budget holds."""
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


#: Opens a model, becomes a user who may only read its file, and opens and streams it again.
READER = """
import numpy as np, streamrt
path, there, here, io = sys.argv[1:]
x = np.load(there)
with streamrt.Model(path, "16MiB", io=io) as model:
    model(x)  # imports the modules that are imported late
file, answer = os.open(path, os.O_RDONLY), open(here, "wb")  # their folders may be closed to the other user
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
written, writes = [], os.O_WRONLY | os.O_RDWR | os.O_CREAT
sys.addaudithook(lambda event, args: event == "open" and args[2] & writes and written.append(args[0]))
with streamrt.Model(f"/proc/self/fd/{file}", "16MiB", io=io) as model:
    for _ in range(3):
        y = model(x)
    print(model.stats.bytes_read > 40 << 20, model.memory().weights <= 16 << 20, written)
np.save(answer, y)
answer.close()
"""

#: Exit code if the kernel does not let this user try it.
REFUSED = 77

#: Makes the folder of the file read-only, for this process alone. It comes first: a user other than root needs a user
#: namespace for that, and a process with threads cannot move to one.
READ_ONLY = f"""
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    if getattr(libc, name)(*arguments) != 0:
        print("refused:", name, os.strerror(ctypes.get_errno()))
        sys.exit({REFUSED})
def mount(source, target, flags):
    call("mount", source, target, None, ctypes.c_ulong(flags), None)
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE, MS_RELATIME = 1, 32, 4096, 16384, 1 << 18, 1 << 21
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
folder = os.path.dirname(sys.argv[1])
had = os.statvfs(folder).f_flag  # on a mount of another user namespace these flags must stay
kept = had & (os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME)
kept |= MS_RELATIME if had & os.ST_RELATIME else 0
call("unshare", CLONE_NEWNS if os.geteuid() == 0 else CLONE_NEWNS | CLONE_NEWUSER)
mount(None, b"/", MS_REC | MS_PRIVATE)  # other processes must not see the mounts that follow
mount(os.fsencode(folder), os.fsencode(folder), MS_BIND)
mount(None, os.fsencode(folder), MS_REMOUNT | MS_BIND | MS_RDONLY | kept)
try:
    os.open(folder + "/new", os.O_WRONLY | os.O_CREAT)
except OSError as error:
    assert error.errno == errno.EROFS, error
else:
    raise AssertionError("a file was written")
"""


def as_a_reader(before, copy, large, run_python, io):
    """Run `READER` after ``before``, with the file in its own folder. It answers right, and writes nothing."""
    folder = copy.with_name("folder")
    folder.mkdir()
    path = copy.rename(folder / copy.name)
    x, there, here = zoo.random_input(1, 2048), copy.with_name("x.npy"), copy.with_name("y.npy")
    np.save(there, x)
    done = run_python(before + READER, path, there, here, io)
    if done.returncode == REFUSED:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stderr
    assert done.stdout == "True True []\n"
    assert list(folder.iterdir()) == [path]
    zoo.assert_close(zoo.load(here), large.answer(x))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_a_user_who_may_only_read(copy, large, run_python, io):
    copy.chmod(0o444)
    as_a_reader("import os, sys\n", copy, large, run_python, io)


@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_a_file_system_that_is_read_only(copy, large, run_python, io):
    as_a_reader(READ_ONLY, copy, large, run_python, io)


@pytest.mark.parametrize("budget", ["none", "1GiB"])
@pytest.mark.parametrize("io", ["mmap", "pread"])
def test_no_memory_for_the_workspace(copy, run_python, budget, io):
    code = """
        import os, resource, sys, numpy as np, streamrt
        path, budget, io = sys.argv[1:]
        x = np.ones((2, 2048), np.float32)
        many = np.broadcast_to(x[:1], (50_000, 2048))  # one row in memory; the results have 390 MiB
        with streamrt.Model(path, None if budget == "none" else budget, io=io) as model:
            wanted = model(x)  # BLAS has allocated its buffers
            assert model.plan_for(many.shape).workspace > 512 << 20
            size = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            for _ in range(2):
                resource.setrlimit(resource.RLIMIT_AS, (size + (128 << 20), resource.RLIM_INFINITY))
                try:
                    model(many)
                except MemoryError as error:
                    print(error)
                assert model.memory().workspace == 0
                assert np.array_equal(model(x), wanted)
                resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    """
    done = run_python(code, copy, budget, io)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == second
    assert "no memory for a workspace (activations and scratch) of" in first


def test_no_addresses_for_the_file(copy, run_python):
    code = """
        import os, resource, sys, numpy as np, streamrt
        x = np.ones((1, 2048), np.float32)
        with streamrt.Model(sys.argv[1], "16MiB") as model:
            wanted = model(x)  # BLAS has allocated its buffers
        size = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        # 16 MiB are enough to read the header, and far too few for the file.
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
