"""The results that an operator must have, computed by ONNX's reference implementation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator


def onnx_run(
    op: str,
    inputs: Sequence[NDArray[Any]],
    attrs: Mapping[str, Any] | None = None,
    *,
    opset: int = 13,
    outputs: int = 1,
) -> list[NDArray[Any]]:
    """The outputs of one ONNX node; inputs that are not float32 are int64 (shapes, axes ...)."""
    feeds = {f"in{i}": np.asarray(value) for i, value in enumerate(inputs)}
    names = [f"out{i}" for i in range(outputs)]
    kinds = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int64): TensorProto.INT64}
    graph = helper.make_graph(
        [helper.make_node(op, list(feeds), names, **dict(attrs or {}))],
        "one_node",
        [helper.make_tensor_value_info(name, kinds[value.dtype], value.shape) for name, value in feeds.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    return ReferenceEvaluator(model).run(None, feeds)  # type: ignore[return-value]
