"""The memory that a model may take: what the platform gives the function, less what everything else needs."""

from __future__ import annotations

import os

from streamrt.host import memory

_MIB = 1 << 20
#: Bytes for an event and its answer. Lambda limits each to 6 MB. A text of 6 MB with tensors in base64 is there as the
#: bytes that arrived, as a string, as a string in the parsed event, and as an array; the answer likewise: 8 times 6 MB.
#: 16 MiB more are for parts of the heap that stay empty, and for the kernel's buffers, which count as the function's.
EVENTS = 64 * _MIB


def budget() -> int:
    """Bytes for weights, window and activations.

    Two limits hold: that of the memory cgroups and of the machine, and that which Lambda tells a function. A container
    on another platform has only the first.

    Raises:
        ValueError: ``AWS_LAMBDA_FUNCTION_MEMORY_SIZE`` is not a number of MB.
    """
    left = memory.available()
    if told := os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE"):
        left = min(left, int(told) * _MIB - memory.anonymous_bytes())
    return max(1, left - EVENTS)  # with too little, the model's error tells how much it needs
