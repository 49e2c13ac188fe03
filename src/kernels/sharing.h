/* sharing.h - how the products of a convolution are cut into units, which threads take in order. */
#ifndef STREAMRT_SHARING_H
#define STREAMRT_SHARING_H

#include <stdint.h>

/* Products of the same shape, rows times columns. A unit is some rows of one product with a block of its columns. The
 * thread that takes the unit lays out or transforms the columns, and fetches or transforms the rows. Costs are in units
 * of the time to multiply one row with one column. */
typedef struct {
    int64_t pieces;                /* products */
    int64_t columns, step, widest; /* a block is a multiple of `step` columns, and at most `widest` */
    int64_t rows, least;           /* a unit has at least `least` rows, or all rows */
    double layout, fetch;          /* cost of laying out a column, and of fetching a row */
    double late;                   /* cost until the other threads have begun */
    int64_t threads;
} srt_product;

typedef struct {
    int64_t width, blocks; /* columns of a block; number of blocks */
    int64_t shares;        /* units of a block: each has a share of the rows */
} srt_sharing;

/* The most units, unless there are more threads, or more blocks of the largest width. The limit bounds the search for
 * the best cut, and an array of 1 KiB on the stack of srt_conv. */
enum { SRT_MOST_UNITS = 256 };

/* The cut with which the threads end first. No number of p may be 0, and widest >= step. */
srt_sharing srt_share_out(const srt_product *p);

static inline int64_t divided_up(int64_t n, int64_t by) {
    return n / by + (n % by != 0);
}

static inline int64_t rounded_up(int64_t n, int64_t step) {
    return divided_up(n, step) * step;
}

#endif
