"""A shuffle of channels that exporters spell out becomes a Gather along channels, which computes rows from rows.

torch writes it as a Reshape to groups, a Transpose that exchanges groups and the channels of a group, and a Reshape.
The positions of a picture stay in their order. So their extents may be unknown: if the last Reshape could change them,
it stays behind the Gather. A pass in bands does without it where it changes none (`streamrt.program.casts`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from streamrt.convert.draft import Draft, DraftNode, keeps_shape
from streamrt.convert.fold.blocks import between_reshapes
from streamrt.graph import Attr
from streamrt.ops import Shape

#: The most channels of a picture: as many numbers as an attribute can have.
_MOST = 4096
#: The most indices of all shuffles, so that the header of the file has room for them.
_MOST_OF_ALL = 2**16
#: Size nodes whose result has numbers of input 0, or of all inputs of a Concat.
_MOVES = frozenset(("Cast", "Concat", "Gather", "Identity", "Slice", "Squeeze", "Unsqueeze"))


def recognise_shuffles(draft: Draft, shapes: dict[str, Shape]) -> None:
    """Replace the last node of each, or the Transpose. Nodes that nothing reads any more stay.

    Args:
        draft: the graph.
        shapes: of every tensor, for an example.
    """
    measured = draft.measured()
    sizes = {name: node for node in draft.size_nodes for name in node.outputs}
    count = 0
    for split, moved, last in between_reshapes(draft):
        x, between = split.inputs[0], moved.outputs[0]
        indices = _shuffle_of(draft, split, moved)
        if not indices or count + len(indices) > _MOST_OF_ALL:
            continue
        attrs: dict[str, Attr] = {"axis": 1, "indices": indices}
        if keeps_shape(draft.dims[x], draft.dims.get(last.outputs[0], ())):
            last.op, last.inputs, last.sizes, last.attrs = "Gather", [x], {}, attrs
            count += len(indices)
        elif between not in measured and _same_of_picture(draft, last, sizes):
            moved.op, moved.inputs, moved.attrs = "Gather", [x], attrs
            count += len(indices)
            draft.dims[between], shapes[between] = draft.dims[x], shapes[x]


def _shuffle_of(draft: Draft, split: DraftNode, moved: DraftNode) -> tuple[int, ...]:
    """The channel of a picture that is each channel of the result; empty if it is no such shuffle for all sizes."""
    x, apart = (draft.dims.get(name, ()) for name in (split.inputs[0], split.outputs[0]))
    if len(x) != 4 or len(apart) < 4 or moved.attrs.get("perm") != (0, 2, 1, *range(3, len(apart))):
        return ()
    samples, groups, each = apart[:3]
    if samples is None or not isinstance(groups, int) or not isinstance(each, int):
        return ()
    channels = groups * each
    if x[:2] != (samples, channels) or channels > _MOST:
        return ()
    return tuple(map(int, np.arange(channels).reshape(groups, each).T.flat))


def _same_of_picture(draft: Draft, last: DraftNode, sizes: Mapping[str, DraftNode]) -> bool:
    """Whether a Reshape to pictures gives the same if it reads a picture instead of one with its channels in groups.

    It does if it takes no extent of its input, which a 0 says, except that of samples.
    """
    if len(draft.dims.get(last.outputs[0], ())) != 4:
        return False
    wanted = last.attrs.get("shape")
    if isinstance(wanted, tuple):
        return 0 not in wanted[1:]
    if last.attrs.get("allowzero"):
        return True
    names, seen = [last.sizes["shape"]], set[str]()
    while names:
        name = names.pop()
        node = sizes.get(name)
        if node is None or (node.op not in _MOVES and node.op not in ("Shape", "Constant")):
            return False  # it may be 0 for some sizes
        if node.op == "Constant" and 0 in np.asarray(node.attrs["value"]):
            return False
        if node.op in _MOVES and name not in seen:
            names += node.inputs if node.op == "Concat" else node.inputs[:1]
        seen.add(name)
    return True
