"""Which instruction set the kernels use, and how many threads."""

from libc.stdlib cimport getenv


def isa():
    """The instruction set in use: "scalar", "avx2" or "avx512".

    The best one that the processor has, unless the environment variable STREAMRT_TEST_ISA named another
    when the module was imported.
    """
    return srt_isa_active().decode()


def _isas():
    """The instruction sets that this processor has, the best last."""
    cdef int code = 0
    names = []
    while srt_isa_name(code) != NULL:
        if srt_isa_available(code):
            names.append(srt_isa_name(code).decode())
        code += 1
    return tuple(names)


def _use_isa(name):
    """Switch to another instruction set, for tests; only while no kernel runs.

    Raises:
        ValueError: unknown, or not available here.
    """
    if not srt_isa_use(name.encode()):
        raise ValueError(f"no instruction set {name!r} here, expected one of {_isas()}")


if not srt_isa_use(getenv("STREAMRT_TEST_ISA")):
    raise ImportError(
        f"STREAMRT_TEST_ISA: no instruction set {getenv('STREAMRT_TEST_ISA').decode(errors='replace')!r} here, "
        f"expected one of {_isas()}"
    )


def set_threads(n):
    """Let kernels use ``n`` threads, the caller's included: 1 to 256.

    Waits for the job in progress. One setting for the whole process.

    Raises:
        ValueError: out of range.
    """
    if not 1 <= n <= SRT_MAX_THREADS:
        raise ValueError(f"{n} threads, expected 1 to {SRT_MAX_THREADS}")
    cdef int count = n
    with nogil:
        srt_set_threads(count)


def threads():
    """Threads that kernels use, the caller's included; to begin with, the cores of the affinity mask."""
    return srt_threads()


def rouse():
    """Wake the kernels' threads, if they sleep, for a kernel that is called soon."""
    with nogil:
        srt_rouse()
