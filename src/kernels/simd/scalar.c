/* scalar.c - the loops in plain C, for any architecture. */
#define TARGET
#define TABLE srt_table_scalar
#include "vec_scalar.h"

#include "bodies.h"
