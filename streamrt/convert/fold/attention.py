"""Products of computed tensors: transposed operands, and attention that a model spells out.

``softmax(scale * (q @ transpose(k)) + mask) @ v`` becomes one node, which never holds all scores. The scale may be on
either operand or on the product, and may be missing, and so may the mask. Only intermediate results that nothing else
reads are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from streamrt.convert import limits
from streamrt.convert.draft import Draft, DraftNode, may_differ, unique
from streamrt.ops import Shape


def recognise_attention(draft: Draft, shapes: Mapping[str, Shape]) -> None:
    """Make each attention one node. Nodes that nothing reads any more stay."""
    if len({spec.dims[0] for spec in draft.inputs if spec.dims and isinstance(spec.dims[0], str)}) > 1:
        return  # batches that are equal under a probe may differ in a run
    finder, transposes = _Finder(draft, shapes), _Transposes(draft)
    for node in draft.nodes:
        limits.current().check_time()
        found = finder.attention(node) if node.op == "MatMul" else None
        if found is None:
            continue
        name, perm = found.keys
        node.op, node.attrs = "Attention", {"scale": found.scale, "nan": 1}
        node.inputs = [found.queries, name, node.inputs[1], *found.mask]
        if perm is not None:
            transposes.add(node, 1, perm)
    transposes.insert()


def fold_transposes(draft: Draft) -> None:
    """Let products read a computed right operand as it was before its last two axes were swapped."""
    readers, producers, transposes = draft.readers(), draft.producers(), _Transposes(draft)
    for node in draft.nodes:
        limits.current().check_time()
        maker = producers.get(node.inputs[1]) if node.op == "MatMul" and "transB" not in node.attrs else None
        if maker is None or maker.op != "Transpose" or maker.activation or readers[node.inputs[1]] != 1:
            continue
        perm = _swapped(maker)
        # A Transpose that keeps the last axis in place moves whole rows.
        if perm is not None and perm[-1] == len(perm) - 1 and maker.inputs[0] not in draft.params:
            node.attrs["transB"] = 1
            node.inputs[1] = maker.inputs[0]
            transposes.add(node, 1, perm)
    transposes.insert()


class _Found(NamedTuple):
    queries: str
    keys: tuple[str, tuple[int, ...] | None]  # a tensor, and how to transpose it, or None
    scale: float
    mask: list[str]


class _Finder:
    def __init__(self, draft: Draft, shapes: Mapping[str, Shape]) -> None:
        self._draft, self._shapes = draft, shapes
        self._producers, self._readers = draft.producers(), draft.readers()

    def attention(self, node: DraftNode) -> _Found | None:
        """The attention whose last product is ``node``; None if it is another product."""
        if node.activation or node.attrs.get("transB"):
            return None
        softmax = self._inner(node.inputs[0], "Softmax")
        if softmax is None or softmax.attrs.get("coerce"):
            return None
        scores, rank = softmax.inputs[0], len(self._shapes[softmax.inputs[0]])
        axis = softmax.attrs.get("axis", -1)
        if rank < 3 or axis not in (-1, rank - 1):
            return None
        found = self._scores(scores)
        if found is None or not self._fits(found, node.inputs[1], self._shapes[scores]):
            return None
        return found

    def _fits(self, found: _Found, values: str, scores: Shape) -> bool:
        """Whether the shapes are those of an Attention: the operands do not broadcast, and the mask does."""
        queries, keys = self._shapes[found.queries], self._shapes[found.keys[0]]
        if found.keys[1] is not None:
            keys = tuple(keys[axis] for axis in found.keys[1])
        lead = scores[:-2]
        if (queries[:-1], keys[:-1], self._shapes[values][:-1]) != (
            scores[:-1],
            (*lead, scores[-1]),
            (*lead, scores[-1]),
        ):
            return False
        dims = [self._draft.dims.get(name, ()) for name in (found.queries, found.keys[0], values)]
        if found.keys[1] is not None and dims[1]:
            dims[1] = tuple(dims[1][axis] for axis in found.keys[1])
        if may_differ(*(each[: len(lead)] for each in dims if each)):
            return False  # one of them could broadcast for other sizes
        if found.queries in self._draft.params or found.keys[0] in self._draft.params or values in self._draft.params:
            return False
        for name in found.mask:
            mask = self._shapes[name]
            if len(mask) > len(scores) or any(
                extent not in (1, whole) for extent, whole in zip(mask[::-1], scores[::-1], strict=False)
            ):
                return False
            ahead = ((1,) * (len(scores) - len(mask)) + mask)[:-3]
            if set(ahead) - {1} and ahead != scores[:-3]:
                return False
        return True

    def _scores(self, name: str) -> _Found | None:
        """Scores, with or without a mask."""
        node = self._inner(name, "Add")
        if node is None:
            return self._product(name, [])
        for product, mask in (tuple(node.inputs), tuple(reversed(node.inputs))):
            if self._shapes[product] == self._shapes[name] and product != mask:
                found = self._product(product, [mask])
                if found is not None:
                    return found
        return None

    def _product(self, name: str, mask: list[str]) -> _Found | None:
        """``scale * (q @ transpose(k))``."""
        name, scale = self._scaled(name)
        node = self._inner(name, "MatMul")
        if node is None:
            return None
        queries, by = self._scaled(node.inputs[0])
        scale *= by
        keys, by = self._scaled(node.inputs[1])
        scale *= by
        perm: tuple[int, ...] | None = None
        if not node.attrs.get("transB"):
            swapped = self._untransposed(keys)
            if swapped is None:
                return None
            keys, by = self._scaled(swapped[0])
            scale, perm = scale * by, swapped[1]
        return _Found(queries, (keys, perm), scale, mask) if math.isfinite(scale) else None

    def _untransposed(self, name: str) -> tuple[str, tuple[int, ...]] | None:
        """A tensor whose last two axes are swapped, as another tensor and how to transpose that before the swap.

        torch makes one axis of all axes before the last two, swaps those, and takes the axis apart.
        """
        maker = self._inner(name, "Transpose")
        if maker is not None:
            perm = _swapped(maker)
            return None if perm is None else (maker.inputs[0], perm)
        after = self._inner(name, "Reshape")
        maker = self._inner(after.inputs[0], "Transpose") if after is not None else None
        before = self._inner(maker.inputs[0], "Reshape") if maker is not None else None
        if maker is None or before is None or _swapped(maker) != (0, 1, 2):
            return None
        source, result = self._shapes[before.inputs[0]], self._shapes[name]
        flat = self._shapes[maker.inputs[0]]
        if len(source) < 3 or source[-2:] != flat[1:] or result != (*source[:-2], source[-1], source[-2]):
            return None
        return before.inputs[0], tuple(range(len(source)))

    def _inner(self, name: str, op: str) -> DraftNode | None:
        """The node that computes a tensor, if it has this operator, and nothing but one input reads the tensor."""
        node = self._producers.get(name)
        plain = node is not None and node.op == op and node.activation is None and self._readers[name] == 1
        return node if plain else None

    def _scaled(self, name: str) -> tuple[str, float]:
        """A tensor as another tensor times a number."""
        scale = 1.0
        while (node := self._inner(name, "Mul") or self._inner(name, "Div")) is not None:
            x, number = node.inputs[0], self._number(node.inputs[1])
            if number is None and node.op == "Mul":
                x, number = node.inputs[1], self._number(node.inputs[0])
            if number is None or (node.op == "Div" and number == 0) or self._shapes[x] != self._shapes[name]:
                break
            name, scale = x, scale * number if node.op == "Mul" else scale / number
        return name, scale

    def _number(self, name: str) -> float | None:
        """The value of a weight that is one number."""
        weight = self._draft.params.get(name)
        return float(weight.float64().reshape(())) if weight is not None and weight.size == 1 else None


def _swapped(node: DraftNode) -> tuple[int, ...] | None:
    """The permutation of a Transpose without its swap of the last two axes; None if there are none."""
    perm = node.attrs.get("perm")
    if not isinstance(perm, tuple) or len(perm) < 2:
        return None
    *lead, last, before = (int(axis) for axis in perm)
    return (*lead, before, last)


class _Transposes:
    """Transposes that are added to a draft, each before the node that reads it."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._tensors = draft.params.keys() | draft.producers().keys() | {spec.name for spec in draft.inputs}
        self._nodes = {node.name for node in draft.nodes}
        self._added: dict[int, DraftNode] = {}  # by the identity of the node that reads it

    def add(self, node: DraftNode, index: int, perm: tuple[int, ...]) -> None:
        """Let ``node`` read its input ``index`` transposed."""
        if perm == tuple(range(len(perm))):
            return
        tensor, name = unique(f"{node.outputs[0]}.right", self._tensors), unique(f"{node.name}.right", self._nodes)
        self._tensors.add(tensor)
        self._nodes.add(name)
        self._added[id(node)] = DraftNode(name, "Transpose", [node.inputs[index]], [tensor], {"perm": perm})
        node.inputs[index] = tensor

    def insert(self) -> None:
        """Put the Transposes in their places."""
        self._draft.nodes = [
            other
            for node in self._draft.nodes
            for other in (*([self._added[id(node)]] if id(node) in self._added else []), node)
        ]
