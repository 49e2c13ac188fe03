"""A small program that uses the public face; checked with ``mypy --strict`` against the installed package."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import streamrt

if TYPE_CHECKING:  # mypy knows the names that are imported late, and no other names
    _ = streamrt.no_such_name  # type: ignore[attr-defined] # wrong on purpose


def classify(path: Path, image: NDArray[np.float32]) -> int:
    with streamrt.Model(path, budget="64MiB", threads=2) as model:
        names: list[str] = [spec.name for spec in model.inputs]
        if model.min_budget() > 64 << 20:
            raise SystemExit(f"{names} needs more")
        scores: NDArray[np.float32] = model({names[0]: image})
        stats = model.stats
        if stats is not None:
            print(stats, stats.overlap, model.plan.window, model.memory().weights)
        return int(scores.argmax())


def convert(weight: NDArray[np.float32], bias: NDArray[np.float32]) -> Path:
    layers = [streamrt.Layer("Gemm", weight, bias, activation="Relu"), streamrt.Layer("Softmax", axis=1)]
    try:
        return streamrt.pack(layers, Path("model.safetensors"))
    except streamrt.UnsupportedModelError as error:
        raise SystemExit("\n".join(error.problems)) from error


def budget_of(path: Path) -> int:
    found: streamrt.Tuning = streamrt.tune(path, budgets=["1MiB", None], calls=1)
    knee: streamrt.TuningPoint | None = found.knee
    sizes = [row.size for row in streamrt.fits(path, "1MiB").rows if row.fits]
    return knee.budget if knee and knee.seconds else min(sizes)


def pooled(path: Path, image: NDArray[np.float32]) -> int:
    with streamrt.ModelPool("64MiB") as pool:
        pool.register("model", path)
        with pool.lease("model", timeout=5.0) as lease:
            again: streamrt.Lease = lease
            scores: NDArray[np.float32] = again(image)
        return int(scores.argmax())


class Stored:
    """An array of another library."""

    shape: tuple[int, ...] = (1, 4)
    dtype: np.dtype[Any] = np.dtype(np.float32)

    def __getitem__(self, rows: tuple[slice, ...]) -> NDArray[np.float32]:
        return np.ones((1, 4), np.float32)[rows]

    def __setitem__(self, rows: tuple[slice, ...], values: NDArray[np.float32]) -> None:
        print(values)


def stored(path: Path) -> None:
    with streamrt.Model(path) as model:
        model(Stored(), out=Stored())
        model({"x": Stored()}, out={"y": np.empty((1, 4), np.float32), "z": Stored()})


if __name__ == "__main__":
    path = convert(np.eye(4, dtype=np.float32), np.zeros(4, np.float32))
    print(budget_of(path), classify(path, np.ones((1, 4), np.float32)), pooled(path, np.ones((1, 4), np.float32)))
