/* avx512.c - the loops for x86-64 with AVX-512 F, DQ, BW and VL. */
#ifdef __x86_64__
/* prfchw: a processor that does not have it takes the hint for a no-op. */
#define TARGET __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,prfchw")))
#define TABLE srt_table_avx512
#include "vec_avx512.h"

#include "bodies.h"
#endif
