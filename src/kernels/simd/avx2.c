/* avx2.c - the loops for x86-64 with AVX2 and FMA. */
#ifdef __x86_64__
/* prfchw: a processor that does not have it takes the hint for a no-op. */
#define TARGET __attribute__((target("avx2,fma,prfchw")))
#define TABLE srt_table_avx2
#include "vec_avx2.h"

#include "bodies.h"
#endif
