"""Random changes to a recipe or a header. Most leave a file that opens."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

from fuzz.zoo import NO_GRAPH, OPERATORS, Recipe
from streamrt.ops.epilogue import ACTIVATIONS

#: Numbers at which checks often go wrong.
ODD_INTS = (
    0,
    -1,
    1,
    2,
    7,
    48,
    255,
    4096,
    2**20,
    2**31 - 1,
    2**31,
    -(2**31),
    2**32,
    2**40,
    2**53 + 1,
    2**60,
    2**62,
    -(2**62),
)
ODD_INTS += (2**63, 2**64)
#: Values that readers often handle wrongly.
ODD = (
    *ODD_INTS,
    None,
    True,
    0.5,
    -0.0,
    1e308,
    float("inf"),
    -float("inf"),
    1e-45,
    "",
    "w",
    "VALID",
    "F32",
    [],
    {},
    [[]],
    [0, 0.5],
)
ODD += ([0, 0], [1, 1, 1, 1], [2**40] * 32, [2**40, 2**20], [-1] * 8, "\x1b[2J", "é" * 2000, "N", "streamrt.pad.9")
#: Attributes that operators know. Others would only try the check for unknown attributes.
_OWN = {
    "Clip": ("min", "max"),
    "Conv": ("pads", "strides", "dilations", "group", "kernel_shape", "auto_pad", "input_min", "input_max"),
    "Elu": ("alpha",),
    "Expand": ("extents", "shape"),
    "Flatten": ("axis",),
    "Gather": ("axis", "indices", "indices_shape"),
    "Gelu": ("approximate",),
    "GlobalLpPool": ("p",),
    "HardSigmoid": ("alpha", "beta"),
    "LRN": ("size", "alpha", "beta", "bias"),
    "LayerNormalization": ("axis", "epsilon"),
    "LeakyRelu": ("alpha",),
    "LpPool": ("p", "pads", "strides", "dilations", "kernel_shape", "ceil_mode", "auto_pad"),
    "MatMul": ("transB",),
    "MaxPool": ("pads", "strides", "dilations", "kernel_shape", "ceil_mode", "auto_pad"),
    "AveragePool": ("pads", "strides", "dilations", "kernel_shape", "ceil_mode", "auto_pad", "count_include_pad"),
    "Pad": ("pads", "mode", "value"),
    "Reshape": ("shape", "extents", "allowzero"),
    "Resize": ("sizes", "scales", "extents", "mode", "coordinate_transformation_mode", "nearest_mode"),
    "Slice": ("starts", "ends", "steps", "axes"),
    "Softmax": ("axis", "coerce"),
    "Split": ("axis", "split"),
    "Squeeze": ("axes",),
    "Swish": ("alpha",),
    "Transpose": ("perm",),
    "Unsqueeze": ("axes",),
}
_WORDS = (
    "SAME_UPPER",
    "SAME_LOWER",
    "VALID",
    "NOTSET",
    "tanh",
    "none",
    "edge",
    "reflect",
    "wrap",
    "constant",
    "linear",
    "nearest",
)
_WORDS += ("asymmetric", "align_corners", "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "floor", "ceil")
_ATTRS = ("axis", "axes", "alpha", "beta", "pads", "strides", "dilations", "group", "kernel_shape", "keepdims", "shape")
_ATTRS += ("extents", "sizes", "scales", "perm", "indices", "indices_shape", "starts", "ends", "steps", "split", "size")
_ATTRS += ("p", "min", "max", "epsilon", "transB", "allowzero", "mode", "input_min", "input_max", "ceil_mode")

Mutation = Callable[[random.Random, Recipe], None]


def _value(rng: random.Random, value: Any) -> Any:
    """A value near ``value``, or any other."""
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        match rng.randrange(6):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return [*value, rng.choice(value)]
            case 2:
                return rng.sample(value, len(value))
            case _:
                return [*value[:at], _value(rng, value[at]), *value[at + 1 :]]
    if type(value) is int and rng.random() < 0.7:
        return value + rng.choice([-2, -1, 1, 1, 2, 3]) if rng.random() < 0.8 else -value
    if isinstance(value, float) and rng.random() < 0.7:
        return value * rng.choice([-1.0, 0.0, 0.5, 2.0, 1e6, 1e-6])
    return copy.deepcopy(rng.choice(ODD))


def _node(rng: random.Random, recipe: Recipe) -> dict[str, Any]:
    return rng.choice(recipe.graph["nodes"])


def attribute(rng: random.Random, recipe: Recipe) -> None:
    node = _node(rng, recipe)
    where = node.setdefault("activation", {"op": rng.choice(ACTIVATIONS)}) if rng.random() < 0.15 else node
    attrs = where.setdefault("attrs", {})
    if attrs and rng.random() < 0.75:
        key = rng.choice(sorted(attrs))
        attrs[key] = _value(rng, attrs[key])
    elif attrs and rng.random() < 0.4:
        del attrs[rng.choice(sorted(attrs))]
    else:
        own = _OWN.get(where["op"], ())
        key = rng.choice(own if own and rng.random() < 0.8 else _ATTRS)
        sample = rng.choice([0, 1, [0], [1, 1], [1, 1, 1, 1], 0.5, [1.0, 1.0, 2.0, 0.5], [-1, 0], rng.choice(_WORDS)])
        attrs[key] = _value(rng, sample) if rng.random() < 0.6 else sample


def operator(rng: random.Random, recipe: Recipe) -> None:
    _node(rng, recipe)["op"] = rng.choice(OPERATORS)


def activation(rng: random.Random, recipe: Recipe) -> None:
    node = _node(rng, recipe)
    if node.pop("activation", None) is None:
        node["activation"] = {"op": rng.choice((*ACTIVATIONS, "Exp", "Softmax"))}


def parameter(rng: random.Random, recipe: Recipe) -> None:
    """Change the shape of a parameter."""
    if not recipe.params:
        return extent(rng, recipe)
    name = rng.choice(sorted(recipe.params))
    shape = list(recipe.params[name])
    at = rng.randrange(len(shape) + 1)
    match rng.randrange(5):
        case 0:
            shape.insert(at, rng.choice([1, 1, 2]))
        case 1 if at < len(shape):
            del shape[at]
        case 2:
            rng.shuffle(shape)
        case _ if at < len(shape):
            shape[at] = rng.choice([0, 1, shape[at] + 1, shape[at] - 1, shape[at] * 2, rng.choice(ODD_INTS)])
    recipe.params[name] = tuple(shape)
    return None


def extent(rng: random.Random, recipe: Recipe) -> None:
    """Change, add or remove an extent of an input or an output."""
    spec = rng.choice(recipe.graph["inputs"] + recipe.graph["outputs"])
    dims = spec["dims"]
    at = rng.randrange(len(dims) + 1)
    match rng.randrange(4):
        case 0:
            dims.insert(at, rng.choice([1, 2, "N", "K"]))
        case 1 if at < len(dims):
            del dims[at]
        case _ if at < len(dims):
            dims[at] = rng.choice([1, 2, 3, 8, 33, "N", "K", rng.choice(ODD)])


def huge(rng: random.Random, recipe: Recipe) -> None:
    """Give an input extents whose product is beyond 64 bits or any memory."""
    spec = rng.choice(recipe.graph["inputs"])
    spec["dims"] = rng.choice(
        [[2**40] * 32, [2**40, 2**20], ["N", 2**40], [2**31, 2**31], ["N"] * 32, ["N", 2**20, 64]]
    )


def spare(rng: random.Random, recipe: Recipe) -> None:
    """Add an input or an output that is not used, or use one twice."""
    if rng.random() < 0.5:
        dims = rng.choice([[], ["N"], ["N", 3], ["K", 2], [2**40] * 32, [2**40, 2**20], [0], ["N", 0]])
        recipe.graph["inputs"].append({"name": rng.choice(["spare", "x0", "p0"]), "dims": list(dims)})
    else:
        names = [name for node in recipe.graph["nodes"] for name in node["outputs"] + node["inputs"]]
        recipe.graph["outputs"].append({"name": rng.choice(names), "dims": []})


def dtype(rng: random.Random, recipe: Recipe) -> None:
    spec = rng.choice(recipe.graph["outputs"] + recipe.graph["inputs"])
    spec["dtype"] = rng.choice(["float32", "int64", "bool", "bool", "int64", rng.choice(ODD)])


def wiring(rng: random.Random, recipe: Recipe) -> None:
    """Change, add or remove a tensor that a node reads or writes."""
    node = _node(rng, recipe)
    known = [name for each in recipe.graph["nodes"] for name in each["outputs"] + each["inputs"]] + ["", "none"]
    names = node["inputs" if rng.random() < 0.8 else "outputs"]
    at = rng.randrange(len(names) + 1)
    match rng.randrange(4):
        case 0:
            names.insert(at, rng.choice(known))
        case 1 if at < len(names):
            del names[at]
        case _ if at < len(names):
            names[at] = rng.choice(known)


def nodes(rng: random.Random, recipe: Recipe) -> None:
    """Leave out a node, double it, or reorder all nodes."""
    listed = recipe.graph["nodes"]
    node = _node(rng, recipe)
    match rng.randrange(4):
        case 0 if len(listed) > 1:
            listed.remove(node)
        case 1:
            rng.shuffle(listed)
        case _:
            again = copy.deepcopy(node)
            again["name"] += "b"
            again["outputs"] = [name + "b" for name in again["outputs"]]
            listed.append(again)
            recipe.graph["outputs"].extend({"name": name, "dims": []} for name in again["outputs"][:1])


def many(rng: random.Random, recipe: Recipe) -> None:
    """Add a node that reads one tensor many times, or many nodes in a row."""
    source = rng.choice(recipe.graph["inputs"])["name"]
    count = rng.choice([10, 100, 1000, 4096, 4097])
    if rng.random() < 0.5:
        node = {
            "name": "many",
            "op": rng.choice(["Concat", "Sum", "Max"]),
            "inputs": [source] * count,
            "outputs": ["many"],
        }
        if node["op"] == "Concat":
            node["attrs"] = {"axis": rng.choice([0, 1, -1])}
        recipe.graph["nodes"].append(node)
    else:
        for at in range(min(count, 300)):
            op = rng.choice(["Relu", "Identity", "Exp", "Add"])
            inputs = [f"many{at - 1}" if at else source] * (2 if op == "Add" else 1)
            recipe.graph["nodes"].append({"name": f"many{at}", "op": op, "inputs": inputs, "outputs": [f"many{at}"]})
    last = recipe.graph["nodes"][-1]["outputs"][0]
    recipe.graph["outputs"] = [{"name": last, "dims": []}]


def anything(rng: random.Random, recipe: Recipe) -> None:
    """Replace, remove or copy any place of the graph."""
    places = _places(recipe.graph)
    container, key = rng.choice(places)
    match rng.randrange(4):
        case 0:
            del container[key]
        case 1:
            other, there = rng.choice(places)
            container[key] = copy.deepcopy(other[there])
        case _:
            container[key] = _value(rng, container[key])


def _places(value: Any) -> list[tuple[Any, Any]]:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [(value, key) for key in keys] + [place for key in keys for place in _places(value[key])]


#: Weight of each change. A change is rare if most graphs are refused at once after it.
MUTATIONS: dict[Mutation, int] = {
    attribute: 12,
    activation: 3,
    operator: 3,
    parameter: 4,
    extent: 4,
    wiring: 3,
    nodes: 3,
    dtype: 2,
    spare: 2,
    huge: 1,
    many: 1,
    anything: 2,
}


def mutate(rng: random.Random, recipe: Recipe) -> None:
    """Make zero to three changes to a recipe. After the last change it may not be a graph."""
    change_some(rng, MUTATIONS, recipe, NO_GRAPH)


def change_some(
    rng: random.Random,
    mutations: dict[Callable[[random.Random, Any], None], int],
    subject: Any,
    spoiled: type[Exception] | tuple[type[Exception], ...],
) -> None:
    """Apply zero to three of ``mutations``, chosen by their weights, until one raises ``spoiled``."""
    for change in rng.choices(list(mutations), list(mutations.values()), k=rng.choice([0, 1, 1, 1, 2, 3])):
        try:
            change(rng, subject)
        except spoiled:
            return
