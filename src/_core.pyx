"""The binding of the compiled core: lifetimes, buffers and errors. The C files do the work.

It is one module. Each file has one subject, and may use the files above it.
"""

cimport cython

from bind.c_kernels cimport *
from bind.c_streamrt cimport *

include "bind/status.pxi"
include "bind/mapping.pxi"
include "bind/prefetch.pxi"
include "bind/processor.pxi"
include "bind/checksum.pxi"
include "bind/arena.pxi"
include "bind/arrays.pxi"
include "bind/weights.pxi"
include "bind/kernel.pxi"
include "bind/elementwise.pxi"
include "bind/reduce.pxi"
include "bind/window.pxi"
include "bind/band.pxi"
include "bind/copies.pxi"
include "bind/pooling.pxi"
include "bind/scratch.pxi"
include "bind/dense.pxi"
include "bind/convolution.pxi"
include "bind/matmul.pxi"
include "bind/steps.pxi"
