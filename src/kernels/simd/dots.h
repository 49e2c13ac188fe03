/* dots.h - products of rows of weights with one to four columns: the last columns of a map, which do not fill a vector.
 *
 * The terms of a sum lie across the lanes, so that no lane is idle. The lanes are added at the end.
 */
#ifndef STREAMRT_DOTS_H
#define STREAMRT_DOTS_H

#include "functions.h"

/* The most columns for which this is faster than a vector of columns that is mostly empty. */
enum { DOTS = VL / 4 };

/* Lane i of the result is the sum of the lanes of v[i]. Each of log2(VL) steps makes one vector of two: it adds one
 * half of each to the other half. The first step joins vectors VL / 2 apart, so that the last one gives the order of v.
 */
V vf sums_of_lanes(vf v[VL]) {
#pragma GCC unroll 4
    for (int half = VL / 2; half > 0; half /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < half; i++) v[i] = fold(v[i], v[i + half], 2 * half);
    return v[0];
}

/* out[r * count + c] is the product of row r with column c, over `depth` terms; rows * count <= VL. w (rows, inner);
 * columns (count, apart), zero from `depth` to the next whole vector. */
V void dots_tile(const int rows, const int count, const float *w, int64_t inner, const float *columns, int64_t apart,
                 int64_t depth, float out[VL]) {
    vf sum[VL];
#pragma GCC unroll 16
    for (int i = 0; i < VL; i++) sum[i] = splat(0.0f);
    for (int64_t k = 0; k < depth; k += VL) {
        const bool whole = k + VL <= depth;
        const vmask some = lanes(0, depth - k);
        vf x[DOTS];
#pragma GCC unroll 4
        for (int c = 0; c < count; c++) x[c] = load(columns + c * apart + k);
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            const float *from = w + r * inner + k;
            const vf weights = whole ? load(from) : load_mask(from, some, splat(0.0f));
#pragma GCC unroll 4
            for (int c = 0; c < count; c++) sum[r * count + c] = muladd(weights, x[c], sum[r * count + c]);
        }
    }
    store(out, sums_of_lanes(sum));
}

/* Rows that are multiplied at once: a power of two, up to a lane for every sum. */
V int64_t dots_rows(int64_t rows, int64_t count) {
    int64_t most = VL;
    while (most > rows || most * count > VL) most /= 2;
    return most;
}

/* Each number of rows and columns has a loop of its own, if there are enough lanes. */
#define DOTS_CASE(rows_, count_)                                                                                       \
    case rows_ * 8 + count_:                                                                                           \
        if (rows_ * count_ <= VL && count_ <= DOTS)                                                                    \
            dots_tile(rows_, count_ <= DOTS ? count_ : 1, w, inner, columns, apart, depth, out);                       \
        break;

/* As dots_tile; rows is a result of dots_rows. */
FN void dots(int64_t rows, int64_t count, const float *w, int64_t inner, const float *columns, int64_t apart,
             int64_t depth, float out[VL]) {
    switch (rows * 8 + count) {
        DOTS_CASE(1, 1)
        DOTS_CASE(2, 1)
        DOTS_CASE(4, 1)
        DOTS_CASE(8, 1)
        DOTS_CASE(16, 1)
        DOTS_CASE(1, 2)
        DOTS_CASE(2, 2)
        DOTS_CASE(4, 2)
        DOTS_CASE(8, 2)
        DOTS_CASE(1, 3)
        DOTS_CASE(2, 3)
        DOTS_CASE(4, 3)
        DOTS_CASE(1, 4)
        DOTS_CASE(2, 4)
        DOTS_CASE(4, 4)
    }
}

#endif
