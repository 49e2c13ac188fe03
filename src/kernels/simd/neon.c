/* neon.c - the loops for aarch64 with NEON. */
#ifdef __aarch64__
#include "vec_neon.h"

#include "bodies.h"
#endif
