/* scalar.c - the loops in plain C, for any architecture. */
#include "vec_scalar.h"

#include "bodies.h"
