"""Rewrites an ONNX model so that the weights of its products take fewer bytes, for runtimes that read ONNX.

Products are convolutions and Gemms with ``transB``. Biases and the weights of depthwise convolutions stay float32, as
in streamrt's files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

#: Stores the weights of a node: new tensors by name, and the nodes that take the node's place.
Coding = Callable[["NodeProto", NDArray[np.float32]], tuple[dict[str, NDArray[Any]], list["NodeProto"]]]

#: The domain of ONNX Runtime's own operators.
_MICROSOFT = "com.microsoft"
#: Weights that share a scale in `blocks`.
_BLOCK = 32
#: Bytes from which a tensor is in the second file. Its offsets there are multiples of a page, so that it can be mapped.
_EXTERNAL, _PAGE = 1024, 4096


def model_file(folder: Path) -> Path:
    """The rewritten model."""
    return folder / "model.onnx"


def weights_file(folder: Path) -> Path:
    """Its weights: Protobuf ends at 2 GiB."""
    return folder / "weights.bin"


def write(onnx_file: Path, folder: Path, coding: Coding) -> None:
    """Write `model_file` and `weights_file` into ``folder``, one tensor of ``onnx_file`` in memory at a time."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(onnx_file, load_external_data=False)
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    nodes: list[NodeProto] = []
    tensors: list[TensorProto] = []
    with weights_file(folder).open("wb") as file:
        for node in graph.node:
            weights = stored.get(node.input[1]) if len(node.input) > 1 else None
            if weights is None or uses[weights.name] > 1 or not _is_product(node, weights):
                nodes.append(node)
                continue
            arrays, instead = coding(node, numpy_helper.to_array(weights, str(onnx_file.parent)))
            nodes += instead
            tensors += [_tensor(name, array, file) for name, array in arrays.items()]
            del stored[weights.name]
        for name, tensor in stored.items():
            tensors.append(_tensor(name, numpy_helper.to_array(tensor, str(onnx_file.parent)), file))
    for field, values in ((graph.node, nodes), (graph.initializer, tensors)):
        del field[:]
        field.extend(values)
    if all(opset.domain != _MICROSOFT for opset in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(_MICROSOFT, 1))
    onnx.save(model, model_file(folder))


def _is_product(node: NodeProto, weights: TensorProto) -> bool:
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    if node.op_type == "Gemm":
        return bool(attributes.get("transB", 0))
    return node.op_type == "Conv" and (attributes.get("group", 1) == 1 or weights.dims[1] > 1)


def _tensor(name: str, array: NDArray[Any], file: BinaryIO) -> TensorProto:
    """A tensor whose bytes are in ``file`` unless they are few."""
    from onnx import TensorProto, helper, numpy_helper

    if array.nbytes < _EXTERNAL:
        return numpy_helper.from_array(array, name)
    file.seek(-file.tell() % _PAGE, 1)
    tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", Path(file.name).name), ("offset", file.tell()), ("length", array.nbytes)):
        tensor.external_data.add(key=key, value=str(value))
    file.write(np.ascontiguousarray(array).data)
    return tensor


# ---- codings


def float16(node: NodeProto, weights: NDArray[np.float32]) -> tuple[dict[str, NDArray[Any]], list[NodeProto]]:
    """float16, with a Cast to float32 behind it."""
    from onnx import TensorProto, helper

    name = node.input[1]
    stored = f"{name}.float16"
    cast = helper.make_node("Cast", [stored], [name], name=f"{name}.cast", to=TensorProto.FLOAT)
    return {stored: weights.astype(np.float16)}, [cast, node]


def int8(node: NodeProto, weights: NDArray[np.float32]) -> tuple[dict[str, NDArray[Any]], list[NodeProto]]:
    """int8 with a scale for each output, and a DequantizeLinear behind it."""
    from onnx import helper

    name = node.input[1]
    scales, codes = _int8(weights.reshape(len(weights), -1))
    arrays = {f"{name}.codes": codes.reshape(weights.shape), f"{name}.scales": scales[:, 0]}
    return arrays, [helper.make_node("DequantizeLinear", [*arrays], [name], name=f"{name}.decode", axis=0), node]


def blocks(
    node: NodeProto, weights: NDArray[np.float32], *, bits: int, level: int
) -> tuple[dict[str, NDArray[Any]], list[NodeProto]]:
    """A Gemm as ONNX Runtime's MatMulNBits.

    https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#commicrosoftmatmulnbits

    Args:
        node: the Gemm, with a bias.
        weights: (out, in); ``in`` is a multiple of 32.
        bits: 4 or 8.
        level: the operator's ``accuracy_level``: 1 computes in float32, 4 rounds inputs to int8.
    """
    from onnx import helper

    rows, columns = weights.shape
    scales, codes = (_int4 if bits == 4 else _int8)(weights.reshape(rows, -1, _BLOCK))
    unsigned = codes.view(np.uint8) + np.uint8(1 << bits - 1)  # wraps: the operator subtracts this zero point
    if bits == 4:
        unsigned = unsigned[..., ::2] | unsigned[..., 1::2] << 4
    x, name, bias = node.input
    arrays = {f"{name}.codes": unsigned, f"{name}.scales": scales[..., 0]}
    made = helper.make_node(
        "MatMulNBits",
        [x, *arrays, "", "", bias],
        node.output,
        name=node.name,
        domain=_MICROSOFT,
        N=rows,
        K=columns,
        bits=bits,
        block_size=_BLOCK,
        accuracy_level=level,
    )
    return arrays, [made]


def _int8(weights: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """A scale for each row of the last axis, which stays with the extent 1, and the codes from -127 to 127."""
    scales = np.abs(weights).max(axis=-1, keepdims=True) / np.float32(127)
    codes = weights / np.where(scales == 0, np.float32(1), scales)
    return scales, np.rint(codes, out=codes).astype(np.int8)


def _int4(weights: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """As `_int8`, with codes from -8 to 7. The element of the largest magnitude has the code -8."""
    places = np.abs(weights).argmax(axis=-1, keepdims=True)
    scales = np.take_along_axis(weights, places, axis=-1) / np.float32(-8)
    codes = weights / np.where(scales == 0, np.float32(1), scales)
    return scales, np.clip(np.rint(codes, out=codes), -8, 7, out=codes).astype(np.int8)
