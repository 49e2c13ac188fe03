/* panel.h - the columns of a matrix that are multiplied together. */
#ifndef STREAMRT_PANEL_H
#define STREAMRT_PANEL_H

#include "functions.h"

/* Columns of a panel, and of the widest panel. A panel is two vectors, so that a weight in a register serves both. The
 * last panel has three vectors if one would be left, because a panel of one vector would load every weight again. */
enum { PANEL = 2 * VL, WIDEST = 3 * VL };
_Static_assert(SRT_CONV_COLUMNS / 2 % VL == 0, "a block of columns is whole vectors");

/* The number of panels of n columns: PANEL columns each, and at most WIDEST in the last. */
V int64_t panels_of(int64_t n) {
    return n > VL ? (n + VL - 1) / PANEL : n > 0;
}

/* The columns of the first panel of `left` columns. */
V int64_t panel_of(int64_t left) {
    return left > WIDEST ? PANEL : left;
}

enum { CONV_LINE = 16 }; /* floats of a cache line; where lines are longer, some are fetched twice */

#endif
