/* sharing.h - how the products of a convolution are cut into units, which threads take in order. */
#ifndef STREAMRT_SHARING_H
#define STREAMRT_SHARING_H

#include <stdint.h>

/* Products of the same shape, rows times columns. A unit is some rows of one product with a block of its columns. A
 * thread takes many units at first and few at the end, so that all threads end together even if one is slow. A thread
 * lays out or transforms the columns of a block before it multiplies them, and fetches or transforms the rows. Costs
 * are in units of the time to multiply one row with one column. */
typedef struct {
    int64_t pieces;                /* products */
    int64_t columns, step, widest; /* a block is a multiple of `step` columns, and at most `widest` */
    int64_t rows, tile, most;      /* a unit has at most `tile` rows, unless there would be more than `most` units */
    double layout, fetch;          /* cost of laying out a column, and of fetching a row */
    int64_t threads;
} srt_product;

typedef struct {
    int64_t width, blocks; /* columns of a block; number of blocks of a product */
    int64_t shares;        /* units of a block: as many rows each, or one less */
} srt_sharing;

/* The cut with which the threads end first. No number of p may be 0, and widest >= step. `most` is at least the number
 * of the narrowest blocks of all products. */
srt_sharing srt_share_out(const srt_product *p);

static inline int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static inline int64_t divided_up(int64_t n, int64_t by) {
    return n / by + (n % by != 0);
}

static inline int64_t rounded_up(int64_t n, int64_t step) {
    return divided_up(n, step) * step;
}

#endif
