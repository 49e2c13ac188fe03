/* avx512.c - the loops for x86-64 with AVX-512 F, DQ, BW and VL. */
#ifdef __x86_64__
#include "vec_avx512.h"

#include "bodies.h"
#endif
