"""Errors that a pool keeps have no frames, and each request gets its own error object."""

import errno
import gc
import pickle
import traceback
import weakref
from contextlib import contextmanager

import pytest

import streamrt
from pool.world import make, needs
from streamrt.errors import BudgetError, FormatError, UnsupportedModelError, WeightsIOError
from streamrt.pool.failure import _LONGEST, anew, origin, strip


class Payload:
    """Stands for the arrays of a request."""


class AwkwardError(Exception):
    """Cannot be copied: its arguments are not those of its constructor."""

    def __init__(self, *, code):
        super().__init__(f"code {code}")


@contextmanager
def no_collector():
    """A context without cyclic garbage collection: objects die only when nothing refers to them."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def frames(error):
    """All tracebacks that are reachable from an error."""
    found = []
    while error is not None:
        if error.__traceback__ is not None:
            found.append(error.__traceback__)
        error = error.__cause__ or error.__context__
    return found


def raised(error):
    """``error`` after it was raised from another error."""
    try:
        try:
            raise KeyError("behind it")
        except KeyError as behind:
            raise error from behind
    except BaseException as caught:
        return caught


ERRORS = [
    FormatError("m: no header"),
    UnsupportedModelError(["node a: Foo", "node b: Bar"]),
    BudgetError("too small", 1234),
    WeightsIOError(errno.EIO, "cannot be read", "m.safetensors"),
    WeightsIOError("cut short"),
    WeightsIOError(errno.EIO, "no\x1b[31m", "m\x1b[31m.safetensors"),
    FormatError("m\n" * 5000),
    UnsupportedModelError([f"node {i}\x1b: Foo" for i in range(300)]),
    MemoryError(),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_new_error_is_the_same_but_for_its_frames(error):
    error = raised(error)
    new = anew(error)
    assert new is not error
    assert type(new) is type(error)
    assert str(new) == str(error)
    assert {name: value for name, value in vars(new).items() if name != "__notes__"} == vars(error)
    assert frames(new) == []
    assert frames(error) != []  # the error has its frames until it is stripped
    told = "".join(traceback.format_exception(new))
    assert "in raised" in told
    assert "behind it" in told
    assert strip(error) is error
    assert frames(error) == []
    assert origin(anew(error)) is origin(error)  # the text is made once, even if the error is raised often
    pickle.loads(pickle.dumps(origin(error)))


def test_an_error_that_cannot_be_copied_is_told_by_name():
    new = anew(raised(AwkwardError(code=7)))
    assert type(new) is streamrt.StreamrtError
    assert str(new) == "AwkwardError: code 7"
    assert frames(new) == []


def test_an_error_without_a_text():
    class SilentError(Exception):
        def __str__(self):
            raise ValueError("no text")

    assert str(anew(raised(SilentError()))) == "SilentError: no text"


def test_notes_and_tracebacks_do_not_grow():
    kept = strip(raised(ValueError("x" * 10 * _LONGEST)))
    for _ in range(3):
        again = raised(anew(kept))
        again.add_note("a note")
    assert getattr(kept, "__notes__", []) == []
    assert frames(kept) == []
    assert len(origin(kept).text) == _LONGEST
    kept.add_note("its own")
    anew(kept).add_note("another")
    assert kept.__notes__ == ["its own"]


def test_a_failed_load_keeps_nothing_of_the_request(tmp_path):
    (tmp_path / "wrong.safetensors").write_bytes(b"nothing of the kind")
    alive, told = [], []

    def ask():
        payload = Payload()
        alive.append(weakref.ref(payload))
        try:
            with pool.lease("wrong"):
                pass
        except FormatError as error:
            told.append((id(error.__traceback__.tb_frame), str(error), len(traceback.extract_tb(error.__traceback__))))

    with streamrt.ModelPool("1MiB") as pool, no_collector():
        pool.register("wrong", tmp_path / "wrong.safetensors")
        for _ in range(5):
            ask()
        assert [ref for ref in alive if ref() is not None] == []
        assert len({text for _, text, _ in told}) == 1
        assert len({depth for _, _, depth in told[1:]}) == 1  # the traceback does not grow
        with pytest.raises(FormatError) as first, pool.lease("wrong"):
            pass
        with pytest.raises(FormatError) as second, pool.lease("wrong"):
            pass
        assert first.value is not second.value
        assert "read_header" in str(first.value.__cause__)  # the text of the first traceback


def test_each_request_that_waits_for_a_load_gets_its_own_error():
    world, files, pool = make(100, {"a": needs(40)})
    files.failing["a.file"] = 1
    errors = []

    def work():
        try:
            with pool.lease("a"):
                pass
        except WeightsIOError as error:
            errors.append(error)

    for _ in range(3):
        world.spawn(work)
    world.run()
    assert len({id(error) for error in errors}) == 3
    assert {str(error) for error in errors} == {"a.file: broken"}
    assert {str(error.__cause__) for error in errors} == {str(errors[0].__cause__)}


def test_a_failed_call_keeps_nothing_of_its_caller():
    world, _, pool = make(100, {"a": needs(40)})
    alive = []

    def call(payload):
        alive.append(weakref.ref(payload))
        with pool.lease("a"):
            raise WeightsIOError("cut short")

    def work():
        with pytest.raises(WeightsIOError, match="cut short"):
            call(Payload())
        kept = pool._keeper.entries["a"].error
        assert frames(kept) == []
        assert "in call" in str(kept.__cause__)
        assert [ref for ref in alive if ref() is not None] == []

    with no_collector():
        world.spawn(work)
        world.run()


def test_a_prefetch_that_failed_has_its_error_without_frames():
    world, files, pool = make(100, {"a": needs(40)})
    files.failing["a.file"] = 1
    future = pool.prefetch("a")
    world.run()
    error = future.exception(0)
    assert isinstance(error, WeightsIOError)
    assert frames(error) == []
    assert "broken" in str(error.__cause__)
