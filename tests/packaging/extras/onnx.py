"""The extra `onnx` alone: a small ONNX file is packed and run."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

import streamrt

w = np.arange(12, dtype=np.float32).reshape(3, 4)
graph = helper.make_graph(
    [helper.make_node("Gemm", ["x", "w"], ["t"], transB=1), helper.make_node("Relu", ["t"], ["y"])],
    "small",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
    [numpy_helper.from_array(w, "w")],
)
save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), "small.onnx")
streamrt.pack("small.onnx", "small.safetensors")
x = np.array([[1, -2, 3, -4]], np.float32)
with streamrt.Model("small.safetensors", "1MiB") as model:
    np.testing.assert_allclose(model(x), np.maximum(x @ w.T, 0))
