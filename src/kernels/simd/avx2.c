/* avx2.c - the loops for x86-64 with AVX2 and FMA. */
#ifdef __x86_64__
#include "vec_avx2.h"

#include "bodies.h"
#endif
