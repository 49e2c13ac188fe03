"""Arrays that are no NumPy arrays, such as datasets of h5py: a model in bands reads and writes their rows as needed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import streamrt
from kernels.isas import NUMPY, using
from model import zoo
from model.test_bands import Builder, unet
from model.test_out import several
from streamrt import _core
from streamrt.errors import InputError, ModelClosedError, StreamrtError
from streamrt.format import write
from streamrt.format.writer import Segment
from streamrt.graph import Graph, Node, TensorSpec

WIDTHS = 64, 256, 32
HEIGHT, WIDTH = 160, 128


@pytest.fixture(scope="module", autouse=True)
def compiled_kernels() -> Iterator[None]:
    """Convolutions of NumPy compute no bands."""
    with using("scalar" if _core.isa() == NUMPY else _core.isa()):
        yield


class Stored:
    """An array that is indexed with slices alone. Nothing else may convert it, compare it, or look at its memory.

    Attributes:
        read: elements that each read has given.
        written: elements that each write has taken, and the arrays themselves.
    """

    def __init__(self, values: NDArray[Any]) -> None:
        self.values = values
        self.shape: Any = values.shape
        self.dtype: Any = values.dtype
        self.read: list[int] = []
        self.written: list[NDArray[Any]] = []

    def _check(self, index: Any) -> None:
        parts = index if isinstance(index, tuple) else (index,)
        assert all(isinstance(part, slice) and part.step is None for part in parts) or index is ...

    def __getitem__(self, index: Any) -> Any:
        self._check(index)
        found = self.values[index].copy()
        self.read.append(found.size)
        return found

    def __setitem__(self, index: Any, rows: Any) -> None:
        self._check(index)
        assert self.values[index].shape == rows.shape
        assert rows.dtype == self.dtype
        self.written.append(rows)
        self.values[index] = rows

    def __array__(self, *arguments: Any) -> Any:
        raise AssertionError("loaded as a whole")

    def __bool__(self) -> bool:
        raise AssertionError("taken for a condition")


class Hostile(Stored):
    """Reads and writes that do something else; ``trick`` gets what would be read, or None for a write."""

    def __init__(self, values: NDArray[Any], trick: Callable[[Any], Any]) -> None:
        super().__init__(values)
        self.trick = trick

    def __getitem__(self, index: Any) -> Any:
        return self.trick(super().__getitem__(index))

    def __setitem__(self, index: Any, rows: Any) -> None:
        self.trick(None)
        super().__setitem__(index, rows)


def fail(rows: Any) -> Any:
    raise OSError(5, "the disk is gone")


class Picture:
    """A U-Net, an input, its result, and the least budget."""

    def __init__(self, path: Path) -> None:
        self.path = unet(path, "nearest", HEIGHT, WIDTH)
        self.x = zoo.random_input(2, 3, HEIGHT, WIDTH)
        with streamrt.Model(self.path, exact=True) as model:
            self.y = model(self.x)
            self.least = model.min_budget(self.x.shape)

    def open(self, budget: int | None) -> streamrt.Model:
        return streamrt.Model(self.path, budget, exact=True)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Picture:
    return Picture(tmp_path_factory.mktemp("picture") / "model")


@pytest.fixture
def packed(tmp_path: Path) -> zoo.Packed:
    return zoo.mlp(tmp_path, *WIDTHS)


@pytest.mark.parametrize("samples", [1, 2])
def test_rows_are_read_and_written_as_bands_need_them(picture: Picture, samples: int) -> None:
    x, out = Stored(picture.x[:samples]), Stored(np.zeros_like(picture.y[:samples]))
    with picture.open(picture.least) as model:
        assert model(x, out=out) is out
        count = model.plan.bands[0].count
        session = model._engine.session
        assert session is not None
        assert session.prepared.program.outside == {"x", model.outputs[0].name}
        assert not session.outside
    assert out.values.tobytes() == picture.y[:samples].tobytes()
    sample = 3 * HEIGHT * WIDTH
    assert sum(x.read) == samples * sample  # each row once
    assert max(x.read) <= sample // count + 3 * WIDTH
    assert sum(rows.size for rows in out.written) == out.values.size
    assert max(rows.size for rows in out.written) <= 4 * HEIGHT * WIDTH // count


def test_one_of_both_may_be_foreign(picture: Picture) -> None:
    with picture.open(picture.least) as model:
        assert model(Stored(picture.x)).tobytes() == picture.y.tobytes()
        out = Stored(np.zeros_like(picture.y))
        model(picture.x, out=out)
        assert out.values.tobytes() == picture.y.tobytes()
        assert model({"x": Stored(picture.x)}, out={model.outputs[0].name: out}) is out


def test_without_bands_all_is_read_at_once(picture: Picture) -> None:
    x, out = Stored(picture.x), Stored(np.zeros_like(picture.y))
    with picture.open(None) as model:
        model(x, out=out)
    assert out.values.tobytes() == picture.y.tobytes()
    assert x.read == [x.values.size]
    assert [rows.size for rows in out.written] == [out.values.size]


def test_a_divided_batch_reads_its_parts(packed: zoo.Packed) -> None:
    values = zoo.random_input(24, 64)
    x, out = Stored(values), Stored(np.zeros((24, 32), np.float32))
    with streamrt.Model(packed.path) as model:
        budget = model.min_budget((1, 64)) + 9000
    with streamrt.Model(packed.path, budget) as model:
        model(x, out=out)
        part = model.plan.micro_batch
    assert 1 <= part < 24
    assert set(x.read) == {part * 64}
    zoo.assert_close(out.values, packed.answer(values))


def test_what_was_written_may_be_kept(picture: Picture) -> None:
    """Rows are written from memory that a later band uses again, so each write gets a copy."""
    out = Stored(np.zeros_like(picture.y))
    with picture.open(picture.least) as model:
        model(picture.x, out=out)
        kept = [rows.copy() for rows in out.written]
        model(picture.x[:1] + 1)
    for rows, before in zip(out.written, kept, strict=True):
        np.testing.assert_array_equal(rows, before)
        assert rows.flags.c_contiguous
    with picture.open(None) as model:
        model(picture.x, out=out)
        model(picture.x + 1)
    assert out.written[-1].tobytes() == picture.y.tobytes()


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    """The second output of the graph, and the second input, are whole tensors."""
    build = Builder(3, HEIGHT, WIDTH)
    first = build.conv(build.conv("x", 3, 16), 16, 16)
    mean = build.node("GlobalAveragePool", [first])
    path = build.pack(tmp_path / "model", first, mean)
    x = zoo.random_input(1, 3, HEIGHT, WIDTH)
    with streamrt.Model(path, exact=True) as model:
        whole, least = model(x), model.min_budget(x.shape)
    out = {name: Stored(np.zeros_like(values)) for name, values in whole.items()}
    with streamrt.Model(path, least, exact=True) as model:
        found = model(Stored(x), out=out)
        assert model.plan.bands
    for name, values in whole.items():
        assert found[name] is out[name]
        assert out[name].values.tobytes() == values.tobytes()


def converting(folder: Path, dtype: str) -> Path:
    """A file whose input and output have another type: two Relus, which can run in bands."""
    x, y = TensorSpec("x", ("N", 2, 64, 32), dtype), TensorSpec("y", ("N", 2, 64, 32), dtype)
    nodes = (Node("a", "Relu", ("x",), ("t",)), Node("b", "Relu", ("t",), ("y",)))
    path = folder / f"{dtype}.safetensors"
    write(path, Graph((x,), (y,), nodes), [Segment([]), Segment([])])
    return path


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_types_are_converted(tmp_path: Path, dtype: str) -> None:
    values = zoo.random_input(1, 2, 64, 32).astype(dtype)
    path = converting(tmp_path, dtype)
    with streamrt.Model(path) as model:
        least = model.min_budget()
    for budget in (None, least):
        x, out = Stored(values), Stored(np.full_like(values, 7))
        with streamrt.Model(path, budget) as model:
            model(x, out=out)
            assert bool(model.plan.bands) == (budget is not None)
        assert len(x.read) > 8 or budget is None
        np.testing.assert_array_equal(out.values, np.maximum(values, 0).astype(np.float32).astype(dtype))


def test_integers_and_several_results(tmp_path: Path) -> None:
    values = zoo.random_input(5, 8)
    out: dict[str, Any] = {"y": np.zeros((5, 8), np.float32), "z": Stored(np.zeros(5, np.int64))}
    with streamrt.Model(several(tmp_path)) as model:
        assert model(Stored(values), out=out)["z"] is out["z"]
    np.testing.assert_array_equal(out["z"].values, values.argmax(1))
    np.testing.assert_array_equal(out["y"], np.maximum(values, 0))


def test_an_array_without_axes(tmp_path: Path) -> None:
    x, y = TensorSpec("x", ()), TensorSpec("y", ())
    path = tmp_path / "scalar.safetensors"
    write(path, Graph((x,), (y,), (Node("r", "Relu", ("x",), ("y",)),)), [Segment([])])
    out = Stored(np.zeros((), np.float32))
    with streamrt.Model(path) as model:
        model(Stored(np.full((), 3, np.float32)), out=out)
    assert out.values == 3


def test_arrays_that_do_not_fit_are_refused_before_anything_is_read(picture: Picture) -> None:
    x = Stored(picture.x)
    y = np.zeros_like(picture.y)

    class Fixed:
        shape, dtype = y.shape, y.dtype

        def __getitem__(self, index: Any) -> Any:
            return y[index]

    class Unreadable:
        dtype = y.dtype
        shape = property(fail)

        def __getitem__(self, index: Any) -> Any:
            return y[index]

    def saying(values: NDArray[Any], shape: Any = None, dtype: Any = None) -> Stored:
        found = Stored(values)
        found.shape, found.dtype = shape or values.shape, dtype or values.dtype
        return found

    def mistake(text: str, given: Any, out: Any = None) -> None:
        with pytest.raises(InputError, match=text):
            model(given, out=out)

    with picture.open(picture.least) as model:
        mistake(r"expected shape \(n, 3, 160, 128\), found \(2, 3, 160, 127\)", Stored(picture.x[..., 1:]))
        mistake("a NumPy array of float32, found one of float64; numpy.asarray", Stored(picture.x.astype(np.float64)))
        mistake("a NumPy array of float32, found one of >f4", Stored(picture.x.astype(">f4")))
        mistake(
            r"input 'x': expected a shape that is a tuple of integers, found \[2, 3",
            saying(picture.x, [2, 3, HEIGHT, WIDTH]),
        )
        mistake("input 'x': expected a shape that is a tuple of integers", saying(picture.x, (2, "3", HEIGHT, WIDTH)))
        mistake("found a Stored", saying(picture.x, dtype="float32"))
        mistake("found a float32", np.float32(3))
        mistake(r"shape \(2, 1, 160, 128\) and type float32, found \(2, 1, 159, 128\)", x, Stored(y[:, :, 1:]))
        mistake("found .* and float64", x, Stored(y.astype(np.float64)))
        mistake("found .* and >f4", x, Stored(y.astype(">f4")))
        mistake("a NumPy array that can be written, found a Fixed", x, Fixed())
        mistake(
            f"{model.outputs[0].name}': expected a shape that is a tuple of integers",
            x,
            saying(y, (2.0, 1, HEIGHT, WIDTH)),
        )
        assert not x.read
        with pytest.raises(OSError, match="the disk is gone"):
            model(Unreadable())
        assert model(picture.x).tobytes() == picture.y.tobytes()


def test_an_output_is_neither_an_input_nor_another_output(picture: Picture, tmp_path: Path) -> None:
    same = Stored(np.zeros((5, 8), np.float32))
    with streamrt.Model(several(tmp_path)) as model:
        with pytest.raises(InputError, match="its memory lies within that of 'x', expected arrays apart"):
            model(same, ["y"], out=same)
        with pytest.raises(InputError, match="out: 'y': its memory lies within that of 'z'"):
            model(Stored(np.zeros((5, 8), np.float32)), out={"y": same, "z": same})
        view = np.zeros((5, 8), np.float32)
        model(Stored(view), ["y"], out=view)  # nobody can know
    assert not same.read


TRICKS: dict[str, tuple[Callable[[Any], Any], type[BaseException], str]] = {
    "fewer rows": (lambda rows: rows[:, :, 1:], InputError, r"reading \[0:.* gives an array of shape \(.* found \("),
    "more channels": (lambda rows: rows.repeat(2, 1), InputError, r"found \([12], 6, "),
    "no axes": (lambda rows: np.float32(3), InputError, r"found \(\) and float32"),
    "another type": (lambda rows: rows.astype(np.float64), InputError, "type float32, found .* and float64"),
    "objects": (lambda rows: rows.astype(object), InputError, "found .* and object"),
    "big-endian": (lambda rows: rows.astype(">f4"), InputError, "found .* and >f4"),
    "a list": (lambda rows: rows.tolist(), InputError, "and type float32, found a list"),
    "nothing": (lambda rows: None, InputError, "and type float32, found a NoneType"),
    "an error": (fail, OSError, "the disk is gone"),
}


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("bands", [True, False])
def test_hostile_reads_are_typed_errors(picture: Picture, trick: str, bands: bool) -> None:
    action, error, text = TRICKS[trick]
    calls = 0

    def later(rows: Any) -> Any:
        nonlocal calls
        calls += 1
        return action(rows) if calls == (5 if bands else 1) else rows

    with picture.open(picture.least if bands else None) as model:
        with pytest.raises(error, match=text):
            model(Hostile(picture.x, later))
        assert calls == (5 if bands else 1)
        session = model._engine.session
        assert session is not None
        assert not session.outside
        assert model(picture.x).tobytes() == picture.y.tobytes()


def test_a_shape_that_changes_while_it_is_read(picture: Picture) -> None:
    class Shrinking(Stored):
        def __getitem__(self, index: Any) -> Any:
            found = super().__getitem__(index)
            self.values = self.values[:, :, :3]
            return found

    with picture.open(picture.least) as model:
        with pytest.raises(
            InputError, match=r"reading \[0:1, :, 2:4\] gives an array of shape \(1, 3, 2, 128\) and type float32"
        ):
            model(Shrinking(picture.x))
        assert model(picture.x).tobytes() == picture.y.tobytes()


@pytest.mark.parametrize("bands", [True, False])
def test_a_write_that_fails_passes_its_exception_on(picture: Picture, bands: bool) -> None:
    with picture.open(picture.least if bands else None) as model:
        with pytest.raises(OSError, match="the disk is gone"):
            model(picture.x, out=Hostile(np.zeros_like(picture.y), fail))
        assert model(picture.x).tobytes() == picture.y.tobytes()


def test_a_read_that_calls_the_model(picture: Picture) -> None:
    with picture.open(picture.least) as model:
        with pytest.raises(StreamrtError, match="in the middle of a call"):
            model(Hostile(picture.x, lambda rows: model(picture.x)))
        assert model(picture.x).tobytes() == picture.y.tobytes()


def test_a_read_that_closes_the_model(picture: Picture) -> None:
    with picture.open(picture.least) as model:

        def close(rows: Any) -> Any:
            model.close()
            return rows

        with pytest.raises(ModelClosedError):
            model(Hostile(picture.x, close))


def test_an_interrupt_in_a_read_leaves_the_model_usable(picture: Picture) -> None:
    def interrupt(rows: Any) -> Any:
        raise KeyboardInterrupt

    with picture.open(picture.least) as model:
        with pytest.raises(KeyboardInterrupt):
            model(Hostile(picture.x, interrupt))
        assert model(picture.x).tobytes() == picture.y.tobytes()


@pytest.mark.parametrize("streaming", [True, False])
def test_callers_that_share_a_pass(packed: zoo.Packed, streaming: bool) -> None:
    """Foreign arrays join NumPy arrays. A read that fails is the error of its own caller alone."""
    values = zoo.random_input(24, 64)
    with streamrt.Model(packed.path) as model:
        least = model.min_budget((8, 64))
    outs = [Stored(np.zeros((3, 32), np.float32)) if index % 2 else None for index in range(8)]
    found: dict[int, Any] = {}
    failed: list[int] = []
    with streamrt.Model(packed.path, least if streaming else None) as model:

        def call(index: int) -> None:
            x: Any = values[index : index + 3]
            x = Hostile(x, fail) if index == 5 else Stored(x) if index % 3 else x
            for _ in range(10):
                try:
                    found[index] = model(x, out=outs[index])
                except OSError:
                    failed.append(index)

        threads = [threading.Thread(target=call, args=(index,)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        together = model.call_together([Stored(values[:2]), values[2:6], Hostile(values[:1], fail), Stored(values[6:])])
    assert failed == [5] * 10
    for index, out in enumerate(outs):
        if index != 5:
            assert out is None or found[index] is out
            zoo.assert_close(found[index] if out is None else out.values, packed.answer(values[index : index + 3]))
    assert isinstance(together.pop(2), OSError)
    zoo.assert_close(np.concatenate(together), packed.answer(values))


def test_batches_and_leases(packed: zoo.Packed) -> None:
    values = zoo.random_input(6, 64)
    with streamrt.Model(packed.path) as model:
        found = list(model.predict(Stored(values[index : index + 2]) for index in (0, 2, 4)))
    zoo.assert_close(np.concatenate(found), packed.answer(values))
    out = Stored(np.zeros((6, 32), np.float32))
    with streamrt.ModelPool("1MiB") as pool:
        pool.register("a", packed.path)
        with pool.lease("a") as model:
            assert model(Stored(values), out=out) is out
    zoo.assert_close(out.values, packed.answer(values))
