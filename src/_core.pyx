"""The binding of the compiled core: lifetimes, buffers and errors; the work is in the C files.

One module, a file a subject, in the order that they build on each other.
"""

include "_status.pxi"
include "_mapping.pxi"
include "_prefetch.pxi"
include "_kernels.pxi"
include "_steps.pxi"
