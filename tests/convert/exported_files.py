"""Small ``.pt2`` files, written without torch: a program that computes ``linear(x, w, b)``, to be changed by tests."""

from __future__ import annotations

import copy
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: The folder of all members.
ROOT = "model"
FLOAT = 7


def tensor(*sizes: int | dict[str, Any], dtype: int = FLOAT, strides: tuple[int, ...] | None = None) -> dict[str, Any]:
    """The description of a tensor."""
    steps = strides or tuple(int(np.prod([s for s in sizes[i + 1 :] if isinstance(s, int)])) for i in range(len(sizes)))
    return {
        "dtype": dtype,
        "sizes": [{"as_int": size} if isinstance(size, int) else {"as_expr": size} for size in sizes],
        "requires_grad": False,
        "device": {"type": "cpu", "index": None},
        "strides": [{"as_int": step} for step in steps],
        "storage_offset": {"as_int": 0},
        "layout": 7,
    }


def symbol(name: str = "s77", hint: int = 2) -> dict[str, Any]:
    return {"expr_str": f"Symbol('{name}', positive=True, integer=True)", "hint": {"as_int": hint}}


def node(target: str, outputs: list[Any], **arguments: Any) -> dict[str, Any]:
    return {
        "target": target,
        "inputs": [{"name": name, "arg": value, "kind": 1} for name, value in arguments.items()],
        "outputs": outputs,
        "metadata": {"stack_trace": "File model.py, line 1"},
        "is_hop_single_tensor_return": None,
        "name": "a_node",
    }


def named(name: str) -> dict[str, Any]:
    return {"as_tensor": {"name": name}}


class Archive:
    """The members of a ``.pt2`` file, to be changed before they are written."""

    def __init__(self) -> None:
        values = np.random.default_rng(0)
        self.weight: NDArray[np.float32] = values.standard_normal((3, 4)).astype(np.float32)
        self.bias: NDArray[np.float32] = values.standard_normal(3).astype(np.float32)
        self.graph: dict[str, Any] = {
            "inputs": [named("p_w"), named("p_b"), named("x")],
            "outputs": [named("y")],
            "nodes": [
                node(
                    "torch.ops.aten.linear.default",
                    [named("y")],
                    input=named("x"),
                    weight=named("p_w"),
                    bias=named("p_b"),
                )
            ],
            "tensor_values": {
                "p_w": tensor(3, 4),
                "p_b": tensor(3),
                "x": tensor(symbol(), 4),
                "y": tensor(symbol(), 3),
            },
            "sym_int_values": {},
            "sym_bool_values": {},
            "is_single_tensor_return": False,
            "custom_obj_values": {},
            "sym_float_values": {},
        }
        self.signature: dict[str, Any] = {
            "input_specs": [
                {"parameter": {"arg": {"name": "p_w"}, "parameter_name": "l.weight"}},
                {"buffer": {"arg": {"name": "p_b"}, "buffer_name": "l.bias", "persistent": False}},
                {"user_input": {"arg": named("x")}},
            ],
            "output_specs": [{"user_output": {"arg": named("y")}}],
        }
        self.program: dict[str, Any] = {
            "graph_module": {
                "graph": self.graph,
                "signature": self.signature,
                "module_call_graph": [],
                "metadata": {},
                "treespec_namedtuple_fields": {},
            },
            "opset_version": {"aten": 10},
            "range_constraints": {"s77": {"min_val": 2, "max_val": None}},
            "schema_version": {"major": 8, "minor": 20},
            "verifiers": ["TRAINING"],
            "torch_version": "2.13.0",
            "guards_code": [],
        }
        self.weights: dict[str, Any] = {"l.weight": self.payload("weight_0", tensor(3, 4))}
        self.constants: dict[str, Any] = {"l.bias": self.payload("tensor_0", tensor(3))}
        self.members: dict[str, bytes | None] = {
            "data/weights/weight_0": self.weight.tobytes(),
            "data/constants/tensor_0": self.bias.tobytes(),
            "archive_format": b"pt2",
            "archive_version": b"0",
            "byteorder": b"little",
            ".data/version": b"3",
        }

    @staticmethod
    def payload(path: str, meta: dict[str, Any] | None, pickled: bool = False) -> dict[str, Any]:
        return {"path_name": path, "is_param": True, "use_pickle": pickled, "tensor_meta": meta}

    def all_members(self) -> dict[str, bytes]:
        written = {
            "data/weights/model_weights_config.json": json.dumps({"config": self.weights}).encode(),
            "data/constants/model_constants_config.json": json.dumps({"config": self.constants}).encode(),
            "models/model.json": json.dumps(self.program).encode(),
        }
        return {name: data for name, data in (written | self.members).items() if data is not None}

    def write(self, path: Path) -> Path:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for name, data in self.all_members().items():
                archive.writestr(zipfile.ZipInfo(f"{ROOT}/{name}"), data)
        return path

    def copy(self) -> Archive:
        return copy.deepcopy(self)
