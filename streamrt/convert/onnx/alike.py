"""Which size values are equal because they are computed alike. Exporters compute a value anew wherever they need it."""

from __future__ import annotations

from onnx import NodeProto

from streamrt.convert.onnx.facts import MOST_ELEMENTS, Facts


class Alike:
    """A number for each size value. Values with the same number are equal for all extents.

    Args:
        facts: about all tensors.
    """

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._numbers: dict[object, int] = {}  # by how a value is computed
        self._of: dict[str, int] = {}  # by name

    def learn(self, node: NodeProto) -> None:
        """Give numbers to the outputs of a node, if they are size values. Its inputs have theirs."""
        if self._facts.sizes.isdisjoint(node.output):
            return
        attributes = tuple(sorted(attribute.SerializeToString() for attribute in node.attribute))
        computed = node.op_type, attributes, tuple(self.number(name) if name else -1 for name in node.input)
        for index, name in enumerate(node.output):
            if name in self._facts.sizes:
                terms = self._terms(name)
                self._of[name] = self._numbered((computed, index) if terms is None else terms)

    def number(self, name: str) -> int:
        """The number of a tensor. One that is neither a size value nor a small constant has a number of its own."""
        constant = self._facts.constants.get(name)
        if constant is not None and constant.size <= MOST_ELEMENTS:
            array = constant.load()
            return self._numbered((array.dtype.str, array.shape, array.tobytes()))
        return self._of[name] if name in self._of else self._numbered(name)

    def _terms(self, name: str) -> object | None:
        """The shape and the elements of a value of which all elements are known; else None."""
        partial = self._facts.partial.get(name)
        elements = [None] if partial is None else partial.reshape(-1).tolist()
        return None if partial is None or None in elements else (partial.shape, *elements)

    def _numbered(self, computed: object) -> int:
        return self._numbers.setdefault(computed, len(self._numbers))
