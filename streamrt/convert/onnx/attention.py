"""Conversion of attention and its kin: rotary embedding, and Einsum."""

from __future__ import annotations

import numpy as np

from streamrt.convert import limits
from streamrt.convert.onnx.node import OnnxNode, converts
from streamrt.convert.weights import Weight
from streamrt.graph import Attr


@converts("Attention")
def attention(node: OnnxNode) -> None:
    """Heads that lie side by side in 3-D inputs become an axis of their own. Keys and values of the past come first."""
    node.ignore("softmax_precision")
    _refuse(node)
    ranks = {node.rank(index) for index in range(3)}
    heads, key_heads = node.int_("q_num_heads", 0), node.int_("kv_num_heads", 0)
    if ranks not in ({3}, {4}):
        raise node.problem(f"inputs of {sorted(ranks)} axes, expected 3 or 4 axes of all")
    is_flat = ranks == {3}
    if is_flat and (heads < 1 or key_heads < 1):
        raise node.problem("inputs of 3 axes, expected the attributes 'q_num_heads' and 'kv_num_heads' above 0")
    counts = (heads, key_heads, key_heads)
    q, k, v = (_apart(node, index, counts[index]) if is_flat else node.operand(index) for index in range(3))
    attrs: dict[str, Attr] = {}
    if node.has("scale"):
        attrs["scale"] = node.float_("scale")
    if cap := node.float_("softcap", 0.0):
        attrs["softcap"] = cap
    windows = {name: size for name in ("left_window_size", "right_window_size") if (size := node.int_(name, -1)) != -1}
    attrs.update(windows)
    offset = 0
    if node.given(4) or node.given(5):
        offset = _extent(node, 4, 2) if node.flag("is_causal") or windows else 0
        k, v = (_with_past(node, index, name) for index, name in ((4, k), (5, v)))
    elif node.reads_output(1) or node.reads_output(2):
        for index, name in ((1, k), (2, v)):
            if node.reads_output(index):
                node.emit("Identity", [name], outputs=[node.proto.output[index]])
    if node.flag("is_causal"):
        attrs["is_causal"] = 1
    if offset:
        attrs["offset"] = offset
    inputs = [q, k, v]
    if node.given(3):
        name, is_truth = _mask(node)
        inputs.append(name)
        if is_truth:
            attrs["truth"] = 1
    if not is_flat:
        node.emit("Attention", inputs, attrs)
        return
    y = node.emit("Attention", inputs, attrs, [node.temporary("heads")])
    y = node.emit("Transpose", [y], {"perm": (0, 2, 1, 3)}, [node.temporary("moved")])
    node.emit("Reshape", [y], {"shape": (0, 0, _extent(node, 2, 2) // key_heads * heads)})


def _refuse(node: OnnxNode) -> None:
    """Refuse the parts of the operator that are not there."""
    node.ignore("qk_matmul_output_mode")
    if node.reads_output(3):
        raise node.problem(
            f"output {node.proto.output[3]!r} (qk_matmul_output) is used, expected use of the others only"
        )
    if node.given(6):
        raise node.problem(f"input 6 (nonpad_kv_seqlen, {node.input(6)!r}) is given, expected a mask instead")
    if node.given(4) != node.given(5):
        raise node.problem("one of the inputs 4 and 5 (past_key, past_value) is given, expected both or none")


def _extent(node: OnnxNode, index: int, axis: int) -> int:
    """An extent of an input that does not depend on the model's inputs."""
    extent = node.dims(index)[axis]
    if not isinstance(extent, int):
        raise node.problem(f"axis {axis} of input {index} depends on the extents of the model's inputs")
    return extent


def _apart(node: OnnxNode, index: int, heads: int) -> str:
    """An input (N, L, heads * size) as (N, heads, L, size)."""
    width = _extent(node, index, 2)
    if width % heads:
        raise node.problem(f"input {index} has {width} columns, expected a multiple of the {heads} heads")
    shape = (0, 0, heads, width // heads)
    name = node.emit("Reshape", [node.operand(index)], {"shape": shape}, [node.temporary(f"apart{index}")])
    return node.emit("Transpose", [name], {"perm": (0, 2, 1, 3)}, [node.temporary(f"heads{index}")])


def _with_past(node: OnnxNode, index: int, present: str) -> str:
    """Keys or values behind those of the past, input ``index``. They are an output, too, if something reads that."""
    output = index - 3
    name = str(node.proto.output[output]) if node.reads_output(output) else node.temporary(f"all{output}")
    return node.emit("Concat", [node.operand(index), present], {"axis": 2}, [name])


def _mask(node: OnnxNode) -> tuple[str, bool]:
    """The mask in the draft, and whether it has truth values."""
    keys, mask = node.dims(1)[2 if node.rank(1) == 4 else 1], node.dims(3)
    if mask and mask[-1] == 1 and (keys != 1 or node.given(4)):
        raise node.problem(f"the mask has shape {mask}, expected an element for each of the {keys} keys")
    is_truth = node.dtype(3) == np.bool_
    return (node.truth(3, "attn_mask") if is_truth else node.operand(3)), is_truth


@converts("RotaryEmbedding")
def rotary_embedding(node: OnnxNode) -> None:
    """Angles of constant positions are taken from the caches when packing."""
    attrs: dict[str, Attr] = {"interleaved": 1} if node.flag("interleaved") else {}
    heads, size = node.int_("num_heads", 0), node.int_("rotary_embedding_dim", 0)
    rank = node.rank(0)
    if rank == 3:
        attrs["num_heads"] = heads
    for index in (1, 2):
        dims = node.dims(index)
        if size and dims and isinstance(dims[-1], int) and dims[-1] != size // 2:
            raise node.attribute_problem("rotary_embedding_dim", f"is {size}, but input {index} has {dims[-1]} pairs")
    if node.given(3) and not all(node.is_constant(index) for index in (1, 2, 3)):
        ids = node.operand(3, integers=True)
        angles = [
            node.emit("Gather", [node.operand(index), ids], {}, [node.temporary(what)])
            for index, what in ((1, "cos"), (2, "sin"))
        ]
    elif node.given(3):
        positions = node.constant(3, "position_ids", most=None)
        angles = [
            node.derived(index, what, f"positions of {node.input(3)}", lambda cache: _rows(node, cache, positions))
            for index, what in ((1, "cos_cache"), (2, "sin_cache"))
        ]
    else:
        angles = [node.operand(1), node.operand(2)]
    node.emit("RotaryEmbedding", [node.operand(0), *angles], attrs)


def _rows(node: OnnxNode, cache: Weight, positions: np.ndarray) -> Weight:
    """The rows of a cache (positions, pairs) for some positions (N, L)."""
    if len(cache.shape) != 2 or positions.ndim != 2 or positions.dtype.kind not in "iu":
        raise node.problem(
            f"a cache of shape {cache.shape} and positions of shape {positions.shape}, expected 2 axes each"
        )
    if positions.size and not 0 <= positions.min() <= positions.max() < cache.shape[0]:
        raise node.problem(f"positions {positions.min()} to {positions.max()}, expected 0 to {cache.shape[0] - 1}")
    limits.current().check_memory(8 * positions.size * cache.shape[1] + 8 * cache.size)
    return Weight.of(cache.float64()[positions].astype(np.float32))


@converts("RMSNormalization")
def rms_normalization(node: OnnxNode) -> None:
    """Statistics are float32; ``stash_type``, which can ask for another type, is ignored."""
    node.ignore("stash_type")
    attrs: dict[str, Attr] = {
        "axis": node.axis(node.int_("axis", -1), node.rank(0)),
        "epsilon": node.float_("epsilon", 1e-5),
    }
    node.emit("RMSNormalization", [node.operand(0), node.operand(1)], attrs)


@converts("Einsum")
def einsum(node: OnnxNode) -> None:
    """An equation of one or two tensors. The product of two computed ones is a MatMul."""
    if node.count() > 2:
        raise node.problem(f"it has {node.count()} inputs, expected one or two")
    equation = node.string("equation").replace(" ", "")
    transposed = _is_product(equation) if node.count() == 2 and not any(map(node.is_constant, (0, 1))) else None
    if transposed is not None:
        node.emit("MatMul", [node.operand(0), node.operand(1)], {"transB": 1} if transposed else {})
        return
    node.emit("Einsum", [node.operand(index) for index in range(node.count())], {"equation": equation})


def _is_product(equation: str) -> bool | None:
    """Whether an equation is a MatMul (False), or a MatMul with a transposed right operand (True); else None."""
    terms, _, result = equation.partition("->")
    left, _, right = terms.partition(",")
    if not (len(left) == len(right) == len(result) >= 2 and left[:-2] == right[:-2] == result[:-2]):
        return None
    row, inner = left[-2], left[-1]
    lead, column = left[:-2].replace("...", ""), result[-1]
    if result[-2] != row or len({*lead, row, inner, column}) != len(lead) + 3 or "." in (row, inner, column):
        return None
    return {inner + column: False, column + inner: True}.get(right[-2:])
