"""The instruction set and the threads of the kernels."""

from libc.stdlib cimport getenv


def isa():
    """The instruction set in use: "numpy", "scalar", "avx2", "avx512" or "neon".

    It is the best of this processor, unless the environment variable STREAMRT_ISA named another at import. With "numpy"
    NumPy computes all products with weights; the other loops are plain C.
    """
    return srt_isa_active().decode()


def _isas():
    """The instruction sets of this processor, the best last."""
    cdef int code = 0
    names = []
    while srt_isa_name(code) != NULL:
        if srt_isa_available(code):
            names.append(srt_isa_name(code).decode())
        code += 1
    return tuple(names)


def _use_isa(name):
    """Switches to another instruction set. For tests, and only while no kernel runs.

    Raises:
        ValueError: an unknown name, or the processor lacks the instruction set.
    """
    if not srt_isa_use(name.encode()):
        raise ValueError(f"no instruction set {name!r} on this processor, expected one of {_isas()}")


if not srt_isa_use(getenv("STREAMRT_ISA")):
    raise ImportError(
        f"STREAMRT_ISA: no instruction set {getenv('STREAMRT_ISA').decode(errors='replace')!r} on this "
        f"processor, expected one of {_isas()}"
    )


def set_threads(n):
    """Makes kernels use ``n`` threads, 1 to 256, the caller's included. Applies to the whole process.

    Waits for the job in progress.

    Raises:
        ValueError: ``n`` is out of range.
    """
    if not 1 <= n <= SRT_MAX_THREADS:
        raise ValueError(f"{n} threads, expected 1 to {SRT_MAX_THREADS}")
    cdef int count = n
    with nogil:
        srt_set_threads(count)


def threads():
    """The number of threads of kernels, the caller's included. By default one for each processor that may be used."""
    return srt_threads()


def rouse(int threads):
    """Wakes threads of the kernels before a job of ``threads`` threads, because waking takes longer than many kernels.
    """
    with nogil:
        srt_rouse(threads)


def widest():
    """The most threads that a kernel on the calling thread could use since the last call of this function.

    0 if no kernel has run that shares its work.
    """
    return srt_widest()
