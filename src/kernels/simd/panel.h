/* panel.h - how many columns of a matrix are multiplied together. */
#ifndef STREAMRT_PANEL_H
#define STREAMRT_PANEL_H

#include "functions.h"

/* Columns of a panel. Two vectors: each weight, once in a register, serves both. The last panel takes in the vector
 * that would be left by itself, for which every weight would have to be brought into a register once more. */
enum { PANEL = 2 * VL, WIDEST = 3 * VL };
_Static_assert(SRT_CONV_COLUMNS / 2 % VL == 0, "a block of columns is whole vectors");

/* The panels of n columns: PANEL columns each, and the last one the rest, at most WIDEST. */
V int64_t panels_of(int64_t n) {
    return n > VL ? (n + VL - 1) / PANEL : n > 0;
}

/* The columns of the first panel of `left` ones. */
V int64_t panel_of(int64_t left) {
    return left > WIDEST ? PANEL : left;
}

enum { CONV_LINE = 16 }; /* floats of a cache line */

#endif
