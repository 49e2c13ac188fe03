"""Faults of the room program."""

from __future__ import annotations

from faults.fault import ENGINE, Fault

FAULTS = (
    Fault(
        "sizes-constant-life",
        "program",
        "streamrt/program/placement.py",
        "for name in (*(spec.name for spec in graph.outputs), *constants)}",
        "for name in (spec.name for spec in graph.outputs)}",
        "a constant computed from sizes is overwritten during the first pass",
        ("tests/program",),
    ),
    Fault(
        "sizes-batch-as-data",
        "program",
        "streamrt/program/compile.py",
        "self.whole &= value.from_batch is None",
        "self.whole &= True",
        "a batch is divided although the number of its samples is data",
        ("tests/program",),
    ),
    Fault(
        "arena-alive",
        "program",
        "streamrt/program/arena.py",
        "(last[:count] >= block.first)",
        "(last[:count] > block.first)",
        "a node's output gets the memory of its input",
        ("tests/program", *ENGINE),
    ),
    Fault(
        "in-place",
        "program",
        "streamrt/program/placement.py",
        "if name in params or last[home[name].block] != step:",
        "if name in params:",
        "a node runs in place although a later node reads its input",
        ("tests/program", *ENGINE),
    ),
    Fault(
        "bytes-of-integers",
        "program",
        "streamrt/program/placement.py",
        "math.prod(tensor.shape) * NUMPY_TYPES[tensor.dtype].itemsize",
        "math.prod(tensor.shape) * 4",
        "tensors of int64 overlap others in the arena",
        ("tests/model", "tests/convert"),
    ),
    Fault(
        "case-of-a-part",
        "program",
        "streamrt/program/compile.py",
        "self.whole &= not any(value.depends_on_batch for value in inputs if isinstance(value, Value))",
        "pass",
        "a batch is divided into parts that run another case",
        ("tests/convert",),
    ),
)
