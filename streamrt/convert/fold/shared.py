"""Size nodes that compute the same become one. Exporters write an extent anew wherever they need it."""

from __future__ import annotations

from streamrt.convert.draft import Draft


def share_size_nodes(draft: Draft) -> None:
    """Keep the first of size nodes with the same operator, inputs and attributes."""
    instead: dict[str, str] = {}
    seen: dict[object, list[str]] = {}
    kept = []
    for node in draft.size_nodes:
        node.inputs = [instead.get(name, name) for name in node.inputs]
        attrs = tuple((name, repr(value)) for name, value in sorted(node.attrs.items()))  # 1 and 1.0 differ
        key = node.op, tuple(node.inputs), attrs, len(node.outputs)
        if key in seen:
            instead.update(zip(node.outputs, seen[key], strict=True))
        else:
            seen[key] = node.outputs
            kept.append(node)
    draft.size_nodes = kept
    for node in draft.nodes:
        node.inputs = [instead.get(name, name) for name in node.inputs]
        node.sizes = {attribute: instead.get(name, name) for attribute, name in node.sizes.items()}
