/* sharing.h - how the products of a convolution are cut into units, which threads take one after the other. */
#ifndef STREAMRT_SHARING_H
#define STREAMRT_SHARING_H

#include <stdint.h>

/* Some products of the same shape, rows times columns. A unit is some rows of one of them with a block of its columns:
 * whoever takes it lays the columns out, or transforms what they hold, and fetches or transforms the rows. Costs are
 * in the time that one row with one column takes. */
typedef struct {
    int64_t pieces;
    int64_t columns, step, widest; /* a block is a multiple of `step` columns, and at most `widest` */
    int64_t rows, least;           /* a unit has at least `least` of them, or all */
    double layout, fetch;          /* of a column, of a row */
    double late;                   /* until the other threads have begun */
    int64_t threads;
} srt_product;

typedef struct {
    int64_t width, blocks; /* columns of a block, and how many blocks there are */
    int64_t shares;        /* units of a block: shares of the rows */
} srt_sharing;

/* Units that are made, at most, unless there are more blocks of the widest. */
enum { SRT_MOST_UNITS = 256 };

/* That with which the threads are done soonest. No number may be 0, and widest >= step. */
srt_sharing srt_share_out(const srt_product *p);

static inline int64_t divided_up(int64_t n, int64_t by) {
    return n / by + (n % by != 0);
}

static inline int64_t rounded_up(int64_t n, int64_t step) {
    return divided_up(n, step) * step;
}

#endif
