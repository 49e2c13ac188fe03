from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ops.harness import lowered_for, random, run
from ops.reference import onnx_run
from streamrt.errors import FormatError


def check(op: str, inputs: list[Any], expected: np.ndarray, **kwargs: Any) -> None:
    """Compare exactly, because nothing is computed. A parameter must be copied: an output cannot be its view."""
    np.testing.assert_array_equal(run(op, inputs, **kwargs)[0], expected)
    assert lowered_for(op, [x.shape for x in inputs], range(len(inputs)), **kwargs).view_of is None
    np.testing.assert_array_equal(run(op, inputs, range(len(inputs)), **kwargs)[0], expected)


@pytest.mark.parametrize(
    ("shape", "attrs"),
    [
        ((2, 3, 4), {"shape": (6, 4)}),
        ((2, 3, 4), {"shape": (0, -1)}),
        ((2, 3, 4), {"shape": (-1,)}),
        ((2, 3, 4), {"shape": (0, 0, 2, 2)}),
        ((2, 3, 4), {"shape": (4, -1, 1, 3)}),
        ((2, 3, 4), {"shape": (2, 12), "allowzero": 1}),
        ((1,), {"shape": ()}),
        ((), {"shape": (1, 1)}),
    ],
)
def test_reshape(shape: tuple[int, ...], attrs: dict[str, Any]) -> None:
    x = random(*shape)
    expected = onnx_run("Reshape", [x, np.array(attrs["shape"], np.int64)])[0]
    check("Reshape", [x], expected, attrs=attrs)
    assert lowered_for("Reshape", [shape], attrs=attrs).view_of == 0


#: Indices along an axis of 12: those of grids, and others.
ALONG: dict[str, list[int]] = {
    "all": [*range(12)],
    "all backward": [*range(-1, -13, -1)],
    "a shuffle": [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11],
    "a shuffle backward": [11, 5, 10, 4, 9, 3, 8, 2, 7, 1, 6, 0],
    "each three times": [0, 0, 0, 4, 4, 4, 8, 8, 8],
    "three times": [2, 5, 2, 5, 2, 5],
    "one": [7],
    "a longer row": [0, 4, 8, 1, 5, 9, 2, 6],
    "a row of another distance": [0, 4, 8, 1, 5, 9, 2, 6, 11],
    "rows at other distances": [0, 4, 8, 1, 5, 9, 3, 7, 11],
    "the last differs": [0, 1, 2, 3, 4, 6],
}


@pytest.mark.parametrize("name", ALONG)
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_gather_at_regular_distances(name: str, axis: int, dtype: str) -> None:
    shape = [2, 3, 5]
    shape[axis] = 12
    x = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    attrs = {"axis": axis, "indices": tuple(ALONG[name])}
    check("Gather", [x], np.take(x, ALONG[name], axis), attrs=attrs)
    assert lowered_for("Gather", [x.shape], attrs=attrs).view_of == (0 if name == "all" else None)


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("indices", [[0], [1, -1, 0, 1], [[1, 0], [-2, 1]]])
def test_gather(axis: int | None, indices: Any) -> None:
    x, index = random(2, 3, 4), np.array(indices)
    attrs: dict[str, Any] = {"indices": tuple(index.reshape(-1).tolist())}
    attrs |= {} if axis is None else {"axis": axis}
    attrs |= {} if index.ndim == 1 else {"indices_shape": index.shape}
    check("Gather", [x], np.take(x, index, axis or 0), attrs=attrs)


@pytest.mark.parametrize(
    ("shape", "wanted"), [((2, 1, 3), (4, 1)), ((1, 3), (2, 1, 3)), ((), (2, 2)), ((2, 3), (1,)), ((2, 3), ())]
)
def test_expand(shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    x = np.asarray(random(*shape))
    check("Expand", [x], x * np.ones(wanted, np.float32), attrs={"shape": wanted})


@pytest.mark.parametrize("axis", range(-3, 4))
def test_flatten(axis: int) -> None:
    x = random(2, 3, 4)
    check("Flatten", [x], onnx_run("Flatten", [x], {"axis": axis})[0], attrs={"axis": axis})


@pytest.mark.parametrize("axes", [(1,), (-1,), (1, 3), (-1, -3), ()])
def test_squeeze(axes: tuple[int, ...]) -> None:
    x = random(2, 1, 3, 1)
    check("Squeeze", [x], np.squeeze(x, axis=axes), attrs={"axes": axes})
    check("Squeeze", [x], np.squeeze(x))


@pytest.mark.parametrize("axes", [(0,), (-1,), (1, 3), (4, 0), (2, -1)])
def test_unsqueeze(axes: tuple[int, ...]) -> None:
    x = random(2, 3, 4)
    check("Unsqueeze", [x], np.expand_dims(x, axes), attrs={"axes": axes})


@pytest.mark.parametrize("perm", [(0, 2, 1, 3), (3, 2, 1, 0), (1, 0, 2, 3), (0, 1, 2, 3)])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 3, 1, 5), (1, 1, 1, 1)])
def test_transpose(shape: tuple[int, ...], perm: tuple[int, ...]) -> None:
    x = random(*shape)
    check("Transpose", [x], x.transpose(perm), attrs={"perm": perm})
    check("Transpose", [x], x.transpose())


@pytest.mark.parametrize(
    "attrs",
    [
        {"starts": (1,), "ends": (3,)},
        {"starts": (0, 1), "ends": (2, 2**62), "axes": (2, 1)},
        {"starts": (-3,), "ends": (-1,), "axes": (-1,)},
        {"starts": (1,), "ends": (100,), "axes": (3,), "steps": (2,)},
        {"starts": (0,), "ends": (100,), "axes": (3,), "steps": (2**62,)},
        {"starts": (-1,), "ends": (-(2**62),), "axes": (3,), "steps": (-1,)},
        {"starts": (100,), "ends": (1,), "axes": (3,), "steps": (-2,)},
        {"starts": (4, 3), "ends": (-100, 0), "axes": (2, 3), "steps": (-3, -(2**62))},
        {"starts": (0,), "ends": (2**62,), "axes": (1,)},
        {"starts": (), "ends": ()},
    ],
)
def test_slice(attrs: dict[str, tuple[int, ...]]) -> None:
    x = random(4, 3, 5, 7)
    axes = attrs.get("axes", tuple(range(len(attrs["starts"]))))
    steps = attrs.get("steps", (1,) * len(axes))
    inputs = [np.array(v, np.int64) for v in (attrs["starts"], attrs["ends"], axes, steps)]
    check("Slice", [x], onnx_run("Slice", [x, *inputs])[0], attrs=attrs)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_split(axis: int) -> None:
    x = random(6, 6, 6)
    parts = run("Split", [x], attrs={"axis": axis, "split": (1, 3, 2)}, outputs=3)
    for part, expected in zip(parts, np.split(x, (1, 4), axis), strict=True):
        np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_concat(axis: int, count: int) -> None:
    shapes = np.full((count, 3), 4)
    shapes[:, axis] = np.arange(1, count + 1)
    inputs = [random(*shape) for shape in shapes]
    check("Concat", inputs, np.concatenate(inputs, axis), attrs={"axis": axis})


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
@pytest.mark.parametrize(
    ("before", "after"),
    [((0, 0, 1, 2), (0, 0, 3, 0)), ((1, 0, 0, 0), (0, 2, 0, 0)), ((1, 1, 3, 4), (0, 2, 3, 4)), ((0,) * 4, (0,) * 4)],
)
def test_pad(mode: str, before: tuple[int, ...], after: tuple[int, ...]) -> None:
    x = random(2, 3, 4, 5)
    kwargs: Any = {"constant_values": 1.5} if mode == "constant" else {}
    expected = np.pad(x, list(zip(before, after, strict=True)), mode=mode, **kwargs)  # type: ignore[call-overload]
    check("Pad", [x], expected, attrs={"pads": before + after, "mode": mode, "value": 1.5})


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
def test_pads_on_all_sides_of_five_axes(mode: str) -> None:
    """These are more blocks than are bound before a run."""
    x = random(2, 3, 2, 3, 4)
    kwargs: Any = {"mode": mode}
    check("Pad", [x], np.pad(x, 1, **kwargs), attrs={"pads": (1,) * 10, "mode": mode})


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
def test_negative_pads_crop_first(mode: str) -> None:
    x = random(2, 3, 6, 7)
    kept = x[:, :, 1:, :-2]
    expected = np.pad(kept, ((0, 0), (0, 0), (0, 2), (1, 0)), mode=mode)  # type: ignore[call-overload]
    check("Pad", [x], expected, attrs={"pads": (0, 0, -1, 1, 0, 0, 2, -2), "mode": mode})
    cropped = run("Pad", [x], attrs={"pads": (0, 0, -1, 0, 0, 0, -2, 0), "mode": mode})[0]
    np.testing.assert_array_equal(cropped, x[:, :, 1:-2])


def test_identity() -> None:
    x = random(2, 3)
    check("Identity", [x], x)


@pytest.mark.parametrize(
    ("op", "shapes", "attrs"),
    [
        ("Reshape", [(2, 3)], {}),
        ("Reshape", [(2, 3)], {"shape": (5,)}),
        ("Reshape", [(2, 3)], {"shape": (-1, -1)}),
        ("Reshape", [(2, 3)], {"shape": (4, -1)}),
        ("Reshape", [(2, 3)], {"shape": (-2, 3)}),
        ("Reshape", [(2, 3)], {"shape": (2, 3, 0)}),
        ("Reshape", [(2, 3)], {"shape": (0, 3), "allowzero": 1}),
        ("Reshape", [(2, 3)], {"shape": (2**40, -1)}),
        ("Reshape", [(2, 3)], {"shape": (6.0,)}),
        ("Reshape", [(2, 3)], {"shape": (1,) * 8 + (6,)}),
        ("Flatten", [(2, 3)], {"axis": 3}),
        ("Flatten", [(2, 3)], {"axis": -3}),
        ("Squeeze", [(2, 1)], {"axes": (0,)}),
        ("Squeeze", [(2, 1)], {"axes": (1, -1)}),
        ("Squeeze", [(2, 1)], {"axes": (2,)}),
        ("Unsqueeze", [(2, 1)], {}),
        ("Unsqueeze", [(2, 1)], {"axes": (1, 1)}),
        ("Unsqueeze", [(2, 1)], {"axes": (3,)}),
        ("Unsqueeze", [(2, 1)], {"axes": tuple(range(4000))}),
        ("Transpose", [(2, 3)], {"perm": (0, 0)}),
        ("Transpose", [(2, 3)], {"perm": (0, 2)}),
        ("Transpose", [(2, 3)], {"perm": (-1, 0)}),
        ("Transpose", [(2, 3)], {"perm": (0,)}),
        ("Slice", [(2, 3)], {"starts": (0,)}),
        ("Slice", [(2, 3)], {"starts": (0,), "ends": (1, 2)}),
        ("Slice", [(2, 3)], {"starts": (0,), "ends": (1,), "axes": (2,)}),
        ("Slice", [(2, 3)], {"starts": (0,), "ends": (1,), "axes": (0, 1)}),
        ("Slice", [(2, 3)], {"starts": (0, 0), "ends": (1, 1), "axes": (1, 1)}),
        ("Slice", [(2, 3)], {"starts": (0,), "ends": (1,), "steps": (0,)}),
        ("Slice", [(2, 3)], {"starts": (1,), "ends": (1,)}),
        ("Slice", [(2, 3)], {"starts": (0,) * 3, "ends": (1,) * 3}),
        ("Slice", [(2, 3)], {"starts": (2**63,), "ends": (1,)}),
        ("Split", [(2, 3)], {"axis": 1, "split": (2,)}),
        ("Split", [(2, 3)], {"axis": 1, "split": (1, 2)}),
        ("Split", [(2, 3)], {"axis": 2, "split": (3,)}),
        ("Split", [(2, 3)], {"axis": 1}),
        ("Split", [()], {"axis": 0, "split": (1,)}),
        ("Concat", [(2, 3), (3, 3)], {"axis": 1}),
        ("Concat", [(2, 3), (2,)], {"axis": 0}),
        ("Concat", [(2, 3), (2, 3)], {}),
        ("Concat", [(2, 3), (2, 3)], {"axis": -3}),
        ("Concat", [(2, 3), None], {"axis": 0}),
        ("Concat", [], {"axis": 0}),
        ("Pad", [(2, 3)], {"pads": (0, 0)}),
        ("Pad", [(2, 3)], {"pads": (-1, 0, -1, 0)}),
        ("Pad", [(2, 3)], {"pads": (0, -4, 0, 9)}),
        ("Pad", [(2, 3)], {"pads": (2, 0, 0, 0), "mode": "reflect"}),
        ("Pad", [(2, 3)], {"pads": (0, 0, 0, 4), "mode": "wrap"}),
        ("Pad", [(2, 3)], {"pads": (0, 0, 0, 1), "mode": "mirror"}),
        ("Pad", [(2, 3)], {"pads": (0, 0, 0, 1), "value": "0"}),
        ("Pad", [(2, 3)], {"pads": (2**31 - 1,) * 4}),
        ("Identity", [(2, 3)], {"axis": 0}),
        ("Gather", [(2, 3)], {}),
        ("Gather", [(2, 3)], {"indices": ()}),
        ("Gather", [(2, 3)], {"indices": (2,)}),
        ("Gather", [(2, 3)], {"indices": (-3,)}),
        ("Gather", [(2, 3)], {"indices": (0, 1), "indices_shape": (3,)}),
        ("Gather", [(2, 3)], {"indices": (0, 1), "axis": 2}),
        ("Gather", [()], {"indices": (0,)}),
        ("Expand", [(2, 3)], {}),
        ("Expand", [(2, 3)], {"shape": (4, 3)}),
        ("Expand", [(2, 3)], {"shape": (0, 3)}),
        ("Expand", [(1, 3)], {"shape": (2**40, 3)}),
    ],
)
def test_attributes_that_do_not_fit(op: str, shapes: list[Any], attrs: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="under_test"):
        lowered_for(op, shapes, attrs=attrs)
