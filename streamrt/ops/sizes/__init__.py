"""Size nodes: what a graph computes from extents of tensors, such as the target of a Reshape or a grid of anchors.

They are evaluated with NumPy when a graph is lowered, since extents are numbers then, and never during a pass. Unlike
other operators they have the inputs that ONNX's newest versions have: ``Slice`` has starts, ends, axes and steps as
inputs. Numbers are in ``Constant`` nodes. Integers are int64; ``Cast`` names the type in ``to``.

`registry` says how a size node is defined and what follows from the number of samples. Each other module holds one
family. A file is hostile: the sizes of results are known before they are made, and all values of a graph together have
at most `MOST_ELEMENTS` elements.
"""

from streamrt.ops.sizes import arithmetic, creation, movement, reduction  # noqa: F401 (registers them)
from streamrt.ops.sizes.registry import (
    MOST_ELEMENTS,
    Meter,
    OtherCaseError,
    evaluate,
    is_size_node,
    supported,
)

__all__ = ["MOST_ELEMENTS", "Meter", "OtherCaseError", "evaluate", "is_size_node", "supported"]
