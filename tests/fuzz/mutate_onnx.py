"""Random changes to an ONNX model, along the structure of `ModelProto`."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper

from fuzz.mutate import ODD_INTS, change_some

#: Names of all operators of ONNX. Those that streamrt lacks must be refused in any place.
_ALL = sorted({schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""})
_DTYPES = sorted(TensorProto.DataType.values())
_INTS = [value for value in ODD_INTS if -(2**63) <= value < 2**63]
_FLOATS = (0.0, -1.0, 0.5, 1e30, -1e30, float("inf"), float("nan"), 1e-45)
_TEXTS = ("", "SAME_UPPER", "VALID", "linear", "nearest", "cubic", "edge", "reflect", "tanh", "\x1b[2J\x07", "é" * 300)
#: Locations of external data: files that exist, and files that must not be read.
_PLACES = ("weights.bin", "model.onnx", "./model.onnx", "../model.onnx", "../../etc/passwd", "/etc/passwd", "/dev/zero")
_PLACES += ("/proc/self/mem", ".", "", "..", "a\0b", "a" * 5000, "..\\model.onnx", "\x1b[2J", "sub/../model.onnx")
#: Attributes of operators, with their usual types.
_ATTRS: dict[str, Any] = {
    "alpha": 0.5,
    "auto_pad": "SAME_UPPER",
    "axes": [0],
    "axis": 1,
    "blocksize": 2,
    "ceil_mode": 1,
    "count_include_pad": 1,
    "dilations": [1, 1],
    "epsilon": 1e-5,
    "group": 2,
    "keepdims": 0,
    "kernel_shape": [2, 2],
    "mode": "nearest",
    "noop_with_empty_axes": 1,
    "num_outputs": 2,
    "output_shape": [4, 4],
    "pads": [1, 1, 1, 1],
    "perm": [1, 0],
    "strides": [2, 2],
    "to": 1,
    "transA": 1,
    "transB": 1,
}
_KNOWN = ("Relu", "Conv", "ConvTranspose", "MaxPool", "Gemm", "MatMul", "Reshape", "Slice", "Concat", "Resize", "Range")
_KNOWN += (
    "ConstantOfShape",
    "NonZero",
    "Expand",
    "Shape",
    "Gather",
    "Pad",
    "Cast",
    "Split",
    "Transpose",
    "Where",
    "Tile",
)
#: Elements that a mutant may request: enough for every bound, and quick to make.
_LARGE = (10**4, 10**6, 10**8, 3 * 10**8, 2**31, 2**33, 2**40)


def _node(rng: random.Random, model: ModelProto) -> NodeProto:
    lists = [model.graph.node, *(function.node for function in model.functions)]
    return rng.choice(rng.choice([nodes for nodes in lists if nodes]))


def _int(rng: random.Random, value: int) -> int:
    if rng.random() < 0.7:
        return max(-(2**63), min(2**63 - 1, value + rng.choice([-2, -1, 1, 1, 2, 5])))
    return rng.choice(_INTS)


def _ints(rng: random.Random, values: Any) -> list[int]:
    found = list(values)
    at = rng.randrange(len(found) + 1)
    match rng.randrange(5):
        case 0:
            found.insert(at, rng.choice(_INTS))
        case 1 if at < len(found):
            del found[at]
        case 2:
            rng.shuffle(found)
        case _ if at < len(found):
            found[at] = _int(rng, found[at])
    return found


def attribute(rng: random.Random, model: ModelProto) -> None:
    node = _node(rng, model)
    if not node.attribute or rng.random() < 0.3:
        name = rng.choice(sorted(_ATTRS))
        node.attribute.append(helper.make_attribute(name, _ATTRS[name]))
    entry = rng.choice(node.attribute)
    if rng.random() < 0.1:
        node.attribute.remove(entry)
        return
    if rng.random() < 0.1:
        entry.type = rng.choice(AttributeProto.AttributeType.values())
    match entry.type:
        case AttributeProto.INT:
            entry.i = _int(rng, entry.i)
        case AttributeProto.FLOAT:
            entry.f = rng.choice(_FLOATS)
        case AttributeProto.STRING:
            entry.s = rng.choice([*(text.encode() for text in _TEXTS), b"\xff\xfe"])
        case AttributeProto.INTS:
            entry.ints[:] = _ints(rng, entry.ints)
        case AttributeProto.TENSOR:
            _spoil(rng, entry.t)


def operator(rng: random.Random, model: ModelProto) -> None:
    _node(rng, model).op_type = rng.choice(_KNOWN if rng.random() < 0.6 else _ALL)


def initializer(rng: random.Random, model: ModelProto) -> None:
    if model.graph.initializer:
        _spoil(rng, rng.choice(model.graph.initializer))


def _spoil(rng: random.Random, tensor: TensorProto) -> None:
    match rng.randrange(7):
        case 0:
            tensor.dims[:] = _ints(rng, tensor.dims)
        case 1:
            tensor.data_type = rng.choice(_DTYPES)
        case 2:
            tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]
        case 3:
            _put_elsewhere(rng, tensor)
        case 4 if tensor.data_type == TensorProto.INT64 and tensor.raw_data:
            count = len(tensor.raw_data) // 8
            values = _ints(rng, memoryview(tensor.raw_data)[: 8 * count].cast("q"))[:count]
            tensor.raw_data = b"".join(v.to_bytes(8, "little", signed=True) for v in values)
        case 5:  # a transposed copy, which has the same values
            tensor.dims[:] = list(tensor.dims)[::-1]
        case _:
            data = bytearray(tensor.raw_data)
            for _ in range(min(len(data), 4)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            tensor.raw_data = bytes(data)


def _put_elsewhere(rng: random.Random, tensor: TensorProto) -> None:
    """Declare that the values lie in another file, which may not exist."""
    tensor.data_location = TensorProto.EXTERNAL
    if rng.random() < 0.5:
        tensor.ClearField("raw_data")
    tensor.external_data.add(key="location", value=rng.choice(_PLACES))
    if rng.random() < 0.5:
        tensor.external_data.add(key="offset", value=str(rng.choice([0, *_INTS])))
    if rng.random() < 0.5:
        tensor.external_data.add(key="length", value=rng.choice(["", "4", "-1", "x", str(2**40)]))


def elsewhere(rng: random.Random, model: ModelProto) -> None:
    """Declare that a tensor of an attribute lies in another file."""
    node = _node(rng, model)
    tensors = [entry.t for each in model.graph.node for entry in each.attribute if entry.type == AttributeProto.TENSOR]
    if tensors and rng.random() < 0.3:
        _put_elsewhere(rng, rng.choice(tensors))
        return
    tensor = TensorProto(name="else", data_type=rng.choice([TensorProto.FLOAT, TensorProto.INT64]), dims=[1])
    _put_elsewhere(rng, tensor)
    entry = node.attribute.add(name=rng.choice(["value", "sparse_value", "list", "then_branch"]))
    match rng.randrange(5):
        case 0:
            entry.type = AttributeProto.TENSORS
            entry.tensors.append(tensor)
        case 1:
            entry.type = AttributeProto.SPARSE_TENSOR
            (entry.sparse_tensor.values if rng.random() < 0.5 else entry.sparse_tensor.indices).CopyFrom(tensor)
        case 2:
            entry.type = AttributeProto.GRAPH
            entry.g.node.append(helper.make_node("ConstantOfShape", ["x"], ["inner"], value=tensor))
        case 3:
            entry.type = AttributeProto.TENSOR
            entry.t.CopyFrom(tensor)
        case _:
            del node.attribute[-1]
            model.graph.initializer.append(helper.make_tensor("else_s", TensorProto.INT64, [1], [3]))
            fill = helper.make_node("ConstantOfShape", ["else_s"], ["else_c"], value=tensor)
            add = helper.make_node("Add", [model.graph.input[0].name, "else_c"], ["else_y"])
            model.graph.node.extend([fill, add])
            model.graph.output.add(name="else_y")


def texts(rng: random.Random, model: ModelProto) -> None:
    """Add constants that are strings, or become strings and then numbers again."""
    count = rng.choice([3, 1000, *_LARGE])
    model.graph.initializer.append(helper.make_tensor("texts_s", TensorProto.INT64, [1], [count]))
    long = b"1" * rng.choice([1, 1000, 100_000])
    text = helper.make_tensor("texts_w", TensorProto.STRING, [1], [long])
    made: list[NodeProto] = []
    match rng.randrange(4):
        case 0:
            made.append(helper.make_node("ConstantOfShape", ["texts_s"], ["texts_k"]))
            made.append(helper.make_node("Cast", ["texts_k"], ["texts_t"], to=TensorProto.STRING))
        case 1:
            made.append(helper.make_node("ConstantOfShape", ["texts_s"], ["texts_t"], value=text))
        case 2:
            model.graph.initializer.append(text)
            made.append(helper.make_node("Expand", ["texts_w", "texts_s"], ["texts_t"]))
        case _:
            model.graph.initializer.append(text)
            made.append(helper.make_node("Concat", ["texts_w"] * min(count, 4000), ["texts_t"], axis=0))
    made.append(helper.make_node("Cast", ["texts_t"], ["texts_f"], to=TensorProto.FLOAT))
    if rng.random() < 0.5:
        made.append(helper.make_node("Equal", ["texts_t", "texts_t"], ["texts_e"]))
        made.append(helper.make_node("Cast", ["texts_e"], ["texts_g"], to=TensorProto.FLOAT))
    made.append(helper.make_node("ReduceMax", [made[-1].output[0]], ["texts_m"], keepdims=0))
    made.append(helper.make_node("Add", [model.graph.input[0].name, "texts_m"], ["texts_y"]))
    model.graph.node.extend(made)
    model.graph.output.add(name="texts_y")


def axes(rng: random.Random, model: ModelProto) -> None:
    """Give a tensor many axes, or extents whose product is large."""
    rank = rng.choices([2, 8, 9, 32, 33, 65, 1000, 50_000], [4, 4, 4, 4, 4, 4, 4, 1])[0]
    size = rng.choice([0, 1, 1, 2, 2**31, 2**40, 2**62])
    match rng.randrange(4):
        case 0 if model.graph.initializer:
            rng.choice(model.graph.initializer).dims[:] = [size] * rank
        case 1:
            shape = rng.choice(model.graph.input).type.tensor_type.shape
            del shape.dim[:]
            for _ in range(rank):
                shape.dim.add(**({"dim_value": size} if rng.random() < 0.5 else {}))
        case 2:
            value = TensorProto(name="axes_v", data_type=TensorProto.FLOAT, dims=[size] * rank)
            _node(rng, model).attribute.append(helper.make_attribute("value", value))
        case _:
            model.graph.initializer.append(
                helper.make_tensor("axes_s", TensorProto.INT64, [min(rank, 1000)], [1] * min(rank, 1000))
            )
            op = rng.choice(["Reshape", "Expand"])
            model.graph.node.append(helper.make_node(op, [model.graph.input[0].name, "axes_s"], ["axes_y"]))
            model.graph.output.add(name="axes_y")


def parts(rng: random.Random, model: ModelProto) -> None:
    """Add many empty messages, or a list of many numbers."""
    count = rng.choices([1, 100, 10_000, 300_000], [10, 10, 4, 1])[0]
    node = _node(rng, model)
    match rng.randrange(7):
        case 0:
            model.graph.node.extend([NodeProto()] * count)
        case 1:
            model.graph.initializer.extend([TensorProto()] * count)
        case 2:
            model.graph.value_info.extend([onnx.ValueInfoProto()] * count)
        case 3:
            model.metadata_props.extend([onnx.StringStringEntryProto()] * count)
        case 4:
            node.attribute.extend([AttributeProto()] * count)
        case 5:
            node.input.extend([""] * count)
        case _:
            node.attribute.append(helper.make_attribute(rng.choice(["perm", "axes", "pads"]), [1] * count))


def extent(rng: random.Random, model: ModelProto) -> None:
    """Change the type or the shape of an input."""
    value = rng.choice(model.graph.input)
    tensor = value.type.tensor_type
    match rng.randrange(6):
        case 0:
            tensor.elem_type = rng.choice(_DTYPES)
        case 1:
            tensor.ClearField("shape")
        case 2:
            tensor.shape.dim.add(dim_param=rng.choice(["N", "H", "?", "", "-1"]))
        case 3 if tensor.shape.dim:
            del tensor.shape.dim[rng.randrange(len(tensor.shape.dim))]
        case _ if tensor.shape.dim:
            dim = rng.choice(tensor.shape.dim)
            if rng.random() < 0.5:
                dim.dim_param = rng.choice(["N", "H", "W", "K", "?", "None", "\x1b[2J"])
            else:
                dim.dim_value = rng.choice([1, 2, 3, 7, 16, 33, rng.choice(_INTS)])


def wiring(rng: random.Random, model: ModelProto) -> None:
    node = _node(rng, model)
    known = [name for each in model.graph.node for name in (*each.input, *each.output)] + ["", "none"]
    known += [tensor.name for tensor in model.graph.initializer]
    names = node.input if rng.random() < 0.8 else node.output
    at = rng.randrange(len(names) + 1)
    match rng.randrange(4):
        case 0:
            names.insert(at, rng.choice(known))
        case 1 if at < len(names):
            del names[at]
        case _ if at < len(names):
            names[at] = rng.choice(known)


def nodes(rng: random.Random, model: ModelProto) -> None:
    """Leave out a node, double it, or reorder all nodes."""
    listed = model.graph.node
    at = rng.randrange(len(listed))
    match rng.randrange(3):
        case 0 if len(listed) > 1:
            del listed[at]
        case 1:
            order = [NodeProto.FromString(node.SerializeToString()) for node in listed]
            rng.shuffle(order)
            del listed[:]
            listed.extend(order)
        case _:
            again = listed.add()
            again.CopyFrom(listed[at])
            again.name += "b"
            again.output[:] = [name + "b" for name in again.output]
            model.graph.output.add(name=again.output[0])


def outputs(rng: random.Random, model: ModelProto) -> None:
    names = [name for node in model.graph.node for name in (*node.input, *node.output)]
    if rng.random() < 0.5 and model.graph.output:
        rng.choice(model.graph.output).name = rng.choice(names)
    else:
        model.graph.output.add(name=rng.choice(names))


def opset(rng: random.Random, model: ModelProto) -> None:
    entry = rng.choice(model.opset_import)
    match rng.randrange(8):
        case 0:
            entry.domain = rng.choice(["", "ai.onnx", "ai.onnx.ml", "local", "\x1b[2J"])
        case 1:
            entry.version = rng.choice(_INTS)
        case 2:
            model.opset_import.add(domain=rng.choice(["", "ai.onnx", "ai.onnx.ml"]), version=rng.randint(1, 27))
        case _:
            entry.version = rng.randint(6, 26)
    if rng.random() < 0.1:
        model.ir_version = rng.choice([0, 3, 7, 11, 99, 2**40])


def functions(rng: random.Random, model: ModelProto) -> None:
    """Add functions that call each other twice, or call themselves."""
    depth = rng.choice([1, 2, 5, 10, 16, 24, 30])
    version = model.opset_import[0].version if model.opset_import else 20
    opsets = [helper.make_opsetid("", version), helper.make_opsetid("nest", 1)]
    first = len(model.functions)
    for level in range(depth):
        inner = rng.choice(["Relu", "Abs", "Range"]) if level == 0 else f"g{first + level - 1}"
        domain = "" if level == 0 else "nest"
        if rng.random() < 0.03:
            inner, domain = f"g{first + rng.randrange(depth)}", "nest"
        body = [helper.make_node(inner, [a], [b], domain=domain) for a, b in (("a", "m"), ("m", "b"))]
        model.functions.append(helper.make_function("nest", f"g{first + level}", ["a"], ["b"], body, opsets))
    model.opset_import.add(domain="nest", version=1)
    node = rng.choice(model.graph.node)
    node.op_type, node.domain = f"g{first + depth - 1}", "nest"
    del node.attribute[:]
    node.input[:], node.output[:] = node.input[:1], node.output[:1]


def large(rng: random.Random, model: ModelProto) -> None:
    """Add constants that a small tensor makes, and that take far more memory or time than the file."""
    count, axis = rng.choice(_LARGE), "large"

    def number(*values: int) -> str:
        name = f"large{len(model.graph.initializer)}"
        model.graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [len(values)], values))
        return name

    def scalar(value: int) -> str:
        name = number(value)
        del model.graph.initializer[-1].dims[:]
        return name

    made: list[NodeProto] = []
    match rng.randrange(6):
        case 0:
            made.append(helper.make_node("Range", [scalar(0), scalar(count), scalar(1)], [axis]))
        case 1:
            made.append(helper.make_node("ConstantOfShape", [number(count)], ["zeros"]))
            made.append(helper.make_node("NonZero", ["zeros"], [axis]))
        case 2:
            made.append(helper.make_node("ConstantOfShape", [number(1, count)], [axis]))
        case 3:
            made.append(helper.make_node("ConstantOfShape", [number(rng.choice([3, 1000]))], ["zeros"]))
            made.append(helper.make_node("Tile", ["zeros", number(count)], [axis]))
        case 4:
            made.append(helper.make_node("ConstantOfShape", [number(1000, 1)], ["zeros"]))
            made.append(helper.make_node("Expand", ["zeros", number(1000, max(1, count // 1000))], [axis]))
        case _:
            strides = [rng.choice([100, 1000, 6000, 2**31])] * 2
            weight = helper.make_tensor("large_w", TensorProto.FLOAT, [1, 1, 1, 1], [1.0])
            model.graph.initializer.append(weight)
            source = model.graph.input[0].name
            made.append(helper.make_node("ConvTranspose", [source, "large_w"], [axis], strides=strides))
    last = rng.choice(["Cast", "ReduceMax", "Add", "Gather"])
    source = rng.choice(
        [name for node in model.graph.node for name in node.input if name] or [model.graph.input[0].name]
    )
    end = helper.make_node(last, [source, axis] if last in ("Add", "Gather") else [axis], ["large_y"])
    if last == "Cast":
        end.attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
    kept = [NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([*made, *kept, end])
    if rng.random() < 0.7:
        model.graph.output.add(name="large_y")


def names(rng: random.Random, model: ModelProto) -> None:
    """Use a name with control characters, a long name, or a name that the format reserves."""
    name = rng.choice(["\x1b]0;owned\x07", "streamrt.pad.0", "__metadata__", "n" * 3000, "a\nb", "é", ""])
    node = _node(rng, model)
    node.name = name
    if rng.random() < 0.5 and node.output:
        old = node.output[0]
        for each in model.graph.node:
            for listed in (each.input, each.output):
                listed[:] = [name if found == old else found for found in listed]
        for value in model.graph.output:
            value.name = name if value.name == old else value.name


Mutation = Callable[[random.Random, ModelProto], None]
MUTATIONS: dict[Mutation, int] = {
    attribute: 10,
    initializer: 5,
    extent: 5,
    operator: 4,
    wiring: 4,
    nodes: 3,
    opset: 3,
    outputs: 2,
    names: 2,
    functions: 1,
    large: 1,
    elsewhere: 1,
    texts: 1,
    axes: 1,
    parts: 1,
}


def mutate(rng: random.Random, model: ModelProto) -> bytes:
    """The bytes of a model after zero to three changes; sometimes a few bytes are changed, too."""
    change_some(rng, MUTATIONS, model, IndexError)  # which a change raises if it chooses from an empty list
    data = bytearray(model.SerializeToString(deterministic=True))
    if rng.random() < 0.05:
        for _ in range(rng.choice([1, 1, 2, 8])):
            at = rng.randrange(len(data))
            data[at : at + rng.randint(0, 2)] = rng.randbytes(rng.choice([0, 1, 1, 2]))
    return bytes(data)
