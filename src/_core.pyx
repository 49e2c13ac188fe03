"""The binding of the compiled core: lifetimes, buffers and errors; the work is in the C files.

One module, a file a subject, in the order that they build on each other.
"""

cimport cython

from bind.c_kernels cimport *
from bind.c_streamrt cimport *

include "bind/status.pxi"
include "bind/mapping.pxi"
include "bind/prefetch.pxi"
include "bind/processor.pxi"
include "bind/checksum.pxi"
include "bind/arrays.pxi"
include "bind/elementwise.pxi"
include "bind/reduce.pxi"
include "bind/window.pxi"
include "bind/kernel.pxi"
include "bind/scratch.pxi"
include "bind/dense.pxi"
include "bind/convolution.pxi"
include "bind/steps.pxi"
