"""Writes docs/operators.md: every operator of ONNX that streamrt packs, from the code that converts and computes it.

python -P docs/operators.py [FILE]
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from types import ModuleType

import onnx

from streamrt.convert.onnx.constants import CONSTANT_INPUTS
from streamrt.convert.onnx.importer import OLDEST_OPSET
from streamrt.convert.onnx.ops import CONVERSIONS
from streamrt.convert.refused import REFUSED
from streamrt.ops import supported, traits_of
from streamrt.ops.coded import TYPES
from streamrt.ops.registry import lowering_of

Convert = Callable[..., None]

HEAD = f"""\
# Operators

This page is written by `docs/operators.py`, from the code; a test fails when it is out of date.

streamrt packs ONNX models of opset {OLDEST_OPSET} to the newest that the `onnx` package knows. A torch module is
exported to ONNX first. `streamrt.operators()` returns the names on this page.

* A number behind a name is the opset that brought the operator, if that is newer than {OLDEST_OPSET}. Exporters use
  operators in older opsets, too; such models are packed.
* **Constant** inputs must not depend on values of the model's inputs. They are weights, or they decide shapes. Values
  that a model computes from constants, and from extents of its inputs, count as constants.
* **Fuses** means that an activation behind the operator becomes its last step. An **activation** can be such a step.
* **Becomes** names the operators of a weights file that compute it, if it has no such operator of its own.
* **Weights** of the operators that say so are computed with as they are stored, in float16, bfloat16, int8 or int4.
  Other operators decode such a weight to float32 first.

Any operator is computed while packing if all its inputs are constants, or depend on extents of the model's inputs
alone: `Shape`, `Size`, `Range`, `ConstantOfShape`, and arithmetic with their results. `If` is packed if its condition
is such a value; [graphs.md](graphs.md#sizes) says how.
"""
REFUSALS = """\
## Refused

These operators are refused, each for a reason. Packing lists all problems of a model at once.
"""


@cache
def since(op: str) -> int:
    """The opset that brought an operator."""
    schemas = onnx.defs.get_all_schemas_with_history()
    return min(schema.since_version for schema in schemas if schema.domain == "" and schema.name == op)


def title(module: ModuleType) -> str:
    """The heading of a family of operators: the first sentence of its module's docstring."""
    first = (module.__doc__ or "").strip().split("\n")[0].split(". ")[0].rstrip(".")
    text = re.sub(r"^Conversion of (the ONNX )?", "", first)
    return text[0].upper() + text[1:]


def emitted(convert: Convert) -> set[str]:
    """The operators of a weights file that a conversion names, also in functions of its module."""
    module = inspect.getmodule(convert)
    pending, seen, found = [convert], set(), set()
    while pending:
        function = pending.pop()
        seen.add(function)
        for part in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
            if isinstance(part, ast.Constant) and part.value in supported():
                found.add(part.value)
            elif isinstance(part, ast.Call) and isinstance(part.func, ast.Name):
                called = getattr(module, part.func.id, None)
                if inspect.isfunction(called) and inspect.getmodule(called) is module and called not in seen:
                    pending.append(called)
    return found


def code(names: Iterable[str]) -> str:
    """Names as code."""
    return ", ".join(f"`{name}`" for name in names)


def about(op: str, convert: Convert) -> str:
    """The first line about an operator: of its conversion, or of its lowering if versions of ONNX do not differ."""
    first = (inspect.getdoc(convert) or "").split("\n")[0]
    if "same in all opsets" in first and op in supported():
        return (inspect.getdoc(lowering_of(op)) or "").split("\n")[0]
    return first


def facts(op: str, convert: Convert) -> str:
    """Sentences about one operator: its constants, its traits, and what it becomes."""
    parts = []
    if names := CONSTANT_INPUTS.get(op):
        parts.append(f"Constant: {code(names)}.")
    if op in supported():
        traits = traits_of(op)
        parts += ["Activation."] if traits.activation else []
        parts += ["Fuses."] if traits.fuses else []
        parts += ["Weights."] if any(set(types) > {TYPES[0]} for types in traits.dtypes.values()) else []
    elif names := sorted(emitted(convert)):
        parts.append(f"Becomes {code(names)}.")
    return " ".join(parts)


def entry(convert: Convert, ops: list[str]) -> list[str]:
    """The lines about the operators that a conversion converts: one item for each group of equal facts."""
    groups: dict[tuple[str, str], list[str]] = {}
    for op in sorted(ops):
        groups.setdefault((about(op, convert), facts(op, convert)), []).append(op)
    lines = []
    for (what, more), names in groups.items():
        shown = ", ".join(f"**{op}**" + (f" ({since(op)})" if since(op) > OLDEST_OPSET else "") for op in names)
        text = f"{shown}: {what.replace('``', '`')} {more}".strip()
        lines += textwrap.wrap(text, 116, initial_indent="* ", subsequent_indent="  ", break_on_hyphens=False)
    return lines


def document() -> str:
    """The whole document."""
    families: dict[ModuleType, dict[Convert, list[str]]] = {}
    for op, convert in CONVERSIONS.items():
        module = inspect.getmodule(convert)
        assert module is not None
        families.setdefault(module, {}).setdefault(convert, []).append(op)
    parts = [HEAD]
    for module in sorted(families, key=lambda module: module.__name__):
        lines = [f"## {title(module)}", ""]
        for convert, ops in families[module].items():
            lines += entry(convert, ops)
        parts.append("\n".join(lines) + "\n")
    lines = [REFUSALS]
    for reason in dict.fromkeys(REFUSED.values()):
        names = sorted(op for op, why in REFUSED.items() if why == reason)
        text = f"{reason[0].upper()}{reason[1:]}: {', '.join(f'**{op}**' for op in names)}."
        lines += textwrap.wrap(text, 116, initial_indent="* ", subsequent_indent="  ", break_on_hyphens=False)
    lines += ["", "Any operator that this page does not name has no conversion yet."]
    return "\n".join(parts) + "\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_suffix(".md")
    target.write_text(document())
