"""Mutants of weights files with right checksums are opened, and run with various budgets and both ways of reading."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from format import version1
from format.attacks.make import ATTACKS, compact
from fuzz.hunt import MIB, PASSED, SANITIZED, Entry, Finding, Hunt, bounded, check_text
from fuzz.mutate import ODD, mutate
from fuzz.zoo import NO_GRAPH, Recipe, grow, settle
from streamrt import BudgetError, Model, StreamrtError, WeightsIOError, verify
from streamrt._core import crc32c
from streamrt.format import UNCODED, Coding
from streamrt.format.header import seal
from streamrt.format.layout import lay_out

_FILE = Path("model.safetensors")
#: Bytes that opening a file may take, and a call beyond its budget. docs/design.md promises this bound and the next.
_BEYOND = 160 * MIB
#: Seconds of processor time that opening a file may take.
_SECONDS = 2.0
#: The most work and data of a call: larger calls would be right, but slow.
_LARGEST_BUDGET = 320 * MIB
_MOST_VALUES = 1 << 20  # of an input or of all outputs together
_MOST_DATA = 2 * MIB
_DATA = np.random.default_rng(0).integers(-8, 9, _MOST_DATA // 4).astype("<f4").__truediv__(np.float32(4)).tobytes()
_SIZES = (1, 2, 3, 8, 32)

Arrays = Mapping[str, NDArray[Any]]


def build(rng: random.Random, recipe: Recipe) -> bytes:
    """The file of a recipe. The header of some files has faults."""
    version = rng.choice(["1", "2", "2", "2"])
    codings = {name: _coding(rng, shape) for name, shape in recipe.params.items()} if version == "2" else {}
    try:
        entries = _placed(recipe, version, codings)
    except NO_GRAPH:
        entries = []  # the recipe is not a graph, so the header needs no parameters
    end = entries[-1].end if entries else 0
    data = bytearray(_DATA[:end] if end <= _MOST_DATA else bytes(4096))
    for entry in entries:
        if entry.is_padding:
            data[entry.begin : entry.end] = bytes(len(data[entry.begin : entry.end]))
    tensors = {e.name: {"dtype": e.dtype, "shape": list(e.shape), "data_offsets": [e.begin, e.end]} for e in entries}
    block = 1 << 22
    metadata: dict[str, Any] = {
        "streamrt.format": version,
        "streamrt.header_crc32c": "0" * 8,
        "streamrt.block_size": str(block),
        "streamrt.block_crc32c": "".join(f"{crc32c(data[i : i + block]):08x}" for i in range(0, len(data), block)),
        "streamrt.graph": json.dumps(recipe.graph),
    }
    layouts = {
        n: coding.to_json(recipe.params[n]) for n, coding in codings.items() if coding.is_integer and n in tensors
    }
    if layouts:
        metadata["streamrt.layouts"] = json.dumps(layouts)
    header = {"__metadata__": metadata} | tensors
    if rng.random() < 0.12:
        _spoil(rng, header)
    text = bytearray(compact(header))
    if rng.random() < 0.05:
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(text))
            text[at : at + rng.randint(0, 3)] = rng.choice(
                [b"[", b"{", b"-", b"e9", b'"', b"0", b"\xff", b"\\u0000", b""]
            )
    length = -(-(8 + len(text)) // 4096) * 4096 - 8
    head = seal(length.to_bytes(8, "little") + bytes(text).ljust(length))
    file = head + data
    return file[: rng.randrange(len(file))] if rng.random() < 0.01 else file


def _coding(rng: random.Random, shape: Any) -> Coding:
    """How a parameter is stored: in a third of all files' parameters with rows in fewer bytes than float32."""
    if not isinstance(shape, list | tuple) or rng.random() < 0.67:
        return UNCODED
    dtype = rng.choice(["F16", "BF16", "int8", "int4"] if len(shape) > 1 else ["F16", "BF16"])
    integer = dtype.startswith("int")
    return Coding(dtype, rng.choice([None, 16, 48, 64]) if integer else None, integer and rng.random() < 0.3)


def _placed(recipe: Recipe, version: str, codings: Mapping[str, Coding]) -> list[Any]:
    """Entries in the order in which nodes read them, without those that no node reads."""
    segments, seen = [], set()
    readers = [node["inputs"] for node in recipe.graph["nodes"]]
    for names in readers:
        fresh = [n for n in dict.fromkeys(names) if isinstance(n, str) and n in recipe.params and n not in seen]
        seen.update(fresh)
        if fresh:
            shapes = [(name, recipe.params[name]) for name in fresh]
            segments.append([(name, *codings.get(name, UNCODED).stored(shape)) for name, shape in shapes])
    return (version1.lay_out if version == "1" else lay_out)(segments, 1 << 23)


def _spoil(rng: random.Random, header: dict[str, Any]) -> None:
    """Change one part of a tensor's entry, or of the metadata."""
    names = [name for name in header if name != "__metadata__"]
    if not names or rng.random() < 0.3:
        metadata = header["__metadata__"]
        layouts = compact({rng.choice([*names, "w"]): {"layout": rng.choice(["plain", "new", 1]), "shape": [4, 3]}})
        key = rng.choice([*metadata, "streamrt.layouts", "streamrt.new", "author"])
        metadata[key] = rng.choice([*ODD, "4096", "1", "{}", layouts.decode()])
        return
    entry = header[rng.choice(names)]
    key = rng.choice(["dtype", "shape", "data_offsets", "data_offsets"])
    if key == "data_offsets":
        step = rng.choice([-64, -4, 4, 64, 4096, 2**40])
        entry[key] = rng.choice(
            [[o + step for o in entry[key]], entry[key][::-1], [entry[key][0], entry[key][1] + step]]
        )
    elif key == "shape" and entry["shape"] and rng.random() < 0.7:
        entry[key] = rng.choice([entry[key][::-1], [1, *entry[key]], [math.prod(entry[key])], [*entry[key], 1]])
    else:
        entry[key] = rng.choice([*ODD, "F32", "F16", "U8", "I64"])


def _one_node(op: str, dims: list[Any], attrs: dict[str, Any], spare: list[Any] | None = None) -> Recipe:
    inputs = [{"name": "x", "dims": dims}, *([{"name": "spare", "dims": spare}] if spare else [])]
    outputs = [{"name": "y", "dims": [f"y{axis}" for axis in range(len(dims))]}]
    return Recipe({"inputs": inputs, "outputs": outputs, "nodes": [_node("node", op, ["x"], "y", attrs)]})


def _node(name: str, op: str, inputs: list[str], output: str, attrs: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "op": op, "inputs": inputs, "outputs": [output], "attrs": attrs}


def _concats() -> Recipe:
    """A header of 8 MiB: each node reads its input 4,096 times."""
    nodes = [_node(f"n{i}", "Concat", ["x"] * 4096, f"t{i}", {"axis": 1}) for i in range(338)]
    outputs = [{"name": "t337", "dims": ["N", "M"]}]
    return Recipe({"inputs": [{"name": "x", "dims": ["N", 1]}], "outputs": outputs, "nodes": nodes})


#: Inputs that failed once, as recipes: their files would be large, or differ in one number.
_FAILED = {
    "resize_tables": (
        _one_node("Resize", ["N", 1, 1, 1 << 18], {"sizes": [0, 0, 0, 7 << 20], "mode": "nearest"}),
        "tables of positions and indices were not in the budget",
    ),
    "resize_tables_linear": (
        _one_node("Resize", ["N", 1, 1, 1 << 18], {"sizes": [0, 0, 0, 5 << 20], "mode": "linear"}),
        "tables of positions and indices were not in the budget",
    ),
    "spare_input_overflows": (
        _one_node("Relu", ["N", 3], {}, [2**40] * 32),
        "an input that no node reads was not checked: OverflowError",
    ),
    "spare_input_wraps": (
        _one_node("Relu", ["N", 3], {}, [2**40, 2**20]),
        "an input that no node reads was not checked: its size wrapped",
    ),
    "many_concats": (_concats(), "opening took 25 s and 875 MiB"),
}


class _Headers(Hunt):
    name = "headers"
    space = 2048 * MIB

    def make(self, rng: random.Random) -> bytes:
        recipe = grow(rng)
        mutate(rng, recipe)
        if rng.random() < 0.95:
            with suppress(*NO_GRAPH):
                settle(rng, recipe)
        return build(rng, recipe)

    def check(self, data: bytes) -> str:
        _FILE.write_bytes(data)
        return run(_FILE, random.Random(crc32(data)))

    def corpus(self) -> Iterator[Entry]:
        yield from super().corpus()
        for name, (recipe, reason) in _FAILED.items():
            yield Entry(name, reason, build(random.Random(0), recipe))
        for name, (make, reason) in ATTACKS.items():
            yield Entry(name, f"the reader refuses it: {reason}", make())


def run(path: Path, rng: random.Random) -> str:
    """Open and call a file in one way and then in another, and compare the answers; returns the outcome."""
    exact = rng.random() < 0.7
    begun = time.process_time()
    try:
        with bounded(_BEYOND, "opening a file"):
            model = Model(path, None, io="mmap", exact=exact)
    except StreamrtError as error:
        check_text(str(error))
        return "refused"
    finally:
        if time.process_time() - begun > _SECONDS and not SANITIZED:
            raise Finding("time of opening", f"{time.process_time() - begun:.1f} s")
    with model:
        feeds = _feeds(model, rng)
        if feeds is None:
            return "opened, too large to run"
        shapes = {name: array.shape for name, array in feeds.items()}
        try:
            with bounded(_BEYOND, "planning"):
                least = model.min_budget(shapes)
                most = model.plan_for(shapes)
        except StreamrtError as error:
            check_text(str(error))
            return "opened, refused for these shapes"
        whole = most.workspace + most.pinned_bytes
        if max(least, whole) > _LARGEST_BUDGET:
            return "opened, too large to run"
        try:
            # Answers are copies of parts of the workspace, and take at most as much again.
            with bounded(_BEYOND + whole + most.workspace, "a call without a budget"):
                expected = _call(model, feeds)
        except StreamrtError:
            return "opened, refused when called"
        if rng.random() < 0.1:
            _check_refusal(path, shapes, least, exact)
        budget = rng.choice([least, least, (least + whole) // 2, max(whole, least), "auto", 0.5])
        io, threads = rng.choice(["mmap", "pread"]), rng.choice([None, 1, 2])
        how = f"budget {budget} (least {least}, all {whole}), io {io}, threads {threads}, exact {exact}"
        with Model(path, budget, io=io, threads=threads, exact=exact, verify=rng.choice([None, "read"])) as other:
            callers = rng.choice([1, 1, 1, 1, 1, 1, 3])
            limit = _BEYOND + (budget if isinstance(budget, int) else whole)
            limit += callers * sum(array.nbytes for array in expected.values())  # the budget does not cover the answers
            try:
                with bounded(limit, "a call with a budget"):
                    answers = _calls(other, feeds, callers, together=rng.random() < 0.3)
                _check_plan(other, how)
                if rng.random() < 0.1:
                    other.set_budget(rng.choice([least, whole + least, None]))
                    answers.append(_call(other, feeds))
                    _check_plan(other, how)
            except StreamrtError as error:
                if isinstance(error, WeightsIOError) and _is_damaged(path):
                    return "opened, damaged"
                raise Finding(
                    f"answered without a budget, {type(error).__name__} with one", f"{how}: {error}"
                ) from error
        for found in answers:
            if (difference := _difference(expected, found)) and not _is_unstable(model, feeds, expected):
                raise Finding("answers differ", f"{how}, {len(answers)} callers: {difference}")
    return PASSED


def _check_refusal(path: Path, shapes: Mapping[str, tuple[int, ...]], least: int, exact: bool) -> None:
    """Check that a budget below the least is refused, and that the error names the least."""
    with Model(path, least - 1, exact=exact) as model:
        try:
            plan = model.plan_for(shapes)
        except BudgetError as error:
            if error.minimum != least:
                raise Finding(
                    "BudgetError names another minimum than min_budget()", f"{error.minimum}, {least}"
                ) from error
            return
    raise Finding("a budget below the least is accepted", f"least {least}: {plan}")


def _check_plan(model: Model, how: str) -> None:
    if model.budget is not None and model.plan.total > model.budget:
        raise Finding("the plan is larger than the budget", f"{how}: {model.plan}")


def _is_damaged(path: Path) -> bool:
    try:
        verify(path)
    except StreamrtError:
        return True
    return False


def _feeds(model: Model, rng: random.Random) -> dict[str, NDArray[np.float32]] | None:
    """Inputs with random extents where they are free, or None if they would be large."""
    extents: dict[str, int] = {}
    feeds = {}
    for spec in model.inputs:
        shape = []
        for dim in spec.dims:
            if isinstance(dim, str):
                dim = extents.setdefault(dim, rng.choice(_SIZES) if dim != "N" else rng.choice([1, 2, 2, 3]))
            shape.append(dim)
        if math.prod(e for e in shape if e) > _MOST_VALUES:
            return None
        values = np.random.default_rng(len(feeds)).integers(-8, 9, math.prod(shape))
        feeds[spec.name] = (values / 4).astype(np.float32).reshape(shape)
    return feeds


def _call(model: Model, feeds: Arrays, together: bool = False) -> dict[str, NDArray[Any]]:
    if together:
        result = model.call_together([feeds])[0]
        if isinstance(result, Exception):
            raise result
    else:
        result = model(feeds)
    return result if isinstance(result, dict) else {model.outputs[0].name: result}


def _calls(model: Model, feeds: Arrays, callers: int, together: bool) -> list[dict[str, NDArray[Any]]]:
    """The answers to threads that call at the same time."""
    if callers == 1:
        return [_call(model, feeds, together)]
    with ThreadPoolExecutor(callers) as threads:
        return list(threads.map(lambda _: _call(model, feeds, together), range(callers)))


def _difference(one: Arrays, other: Arrays) -> str:
    """The difference between two answers beyond rounding, or ``""``."""
    if one.keys() != other.keys():
        return f"outputs {list(one)} and {list(other)}"
    for name, a in one.items():
        b = other[name]
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"{name}: {a.dtype} {a.shape} and {b.dtype} {b.shape}"
        if np.array_equal(a.view(np.uint8), b.view(np.uint8)) if a.ndim else a == b:
            continue
        if a.dtype != np.float32:
            wrong = a != b
        else:
            finite = np.isfinite(a)
            scale = np.abs(a[finite]).max(initial=1e-30)
            with np.errstate(all="ignore"):
                near = np.abs(a.astype(np.float64) - b) <= 1e-4 * scale
            wrong = ~(near | (a == b) | (np.isnan(a) & np.isnan(b)))
        if wrong.any():
            return f"{name}: {a[wrong][:4]} and {b[wrong][:4]}, {wrong.sum()} of {a.size} values"
    return ""


def _is_unstable(model: Model, feeds: Arrays, expected: Arrays) -> bool:
    """Whether a change of the last bits of the inputs changes the answer: then rounding may change it, too."""
    for seed in range(8):
        noise = np.random.default_rng(seed)
        near = {n: (x * (1 + 1e-6 * noise.standard_normal(x.shape))).astype(np.float32) for n, x in feeds.items()}
        if _difference(expected, _call(model, near)):
            return True
    return False


HUNT = _Headers()
