/* dots.h - sums of rows of weights with one to four columns: the last columns of a product, which would not fill a
 * vector. Here the terms of a sum lie across the lanes, which are added in the end, so that no lane is idle.
 */
#ifndef STREAMRT_DOTS_H
#define STREAMRT_DOTS_H

#include "functions.h"

/* Columns for which this is faster than a vector of columns of which most do not count. */
enum { DOTS = VL / 4 };

/* Lane i of the result is the sum of the lanes of v[i]. Neighbours are put into one vector, half of each added to the
 * other half, log2(VL) times; those that are to be neighbours in the end begin VL / 2 apart. */
V vf sums_of_lanes(vf v[VL]) {
#pragma GCC unroll 4
    for (int half = VL / 2; half > 0; half /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < half; i++) v[i] = zip_low(v[i], v[i + half]) + zip_high(v[i], v[i + half]);
    return v[0];
}

/* out[r * count + c]: the sum of row r with column c, for rows * count <= VL. w (rows, inner), of which `depth` terms
 * count; columns (count, apart), zero from `depth` on to the next whole vector. */
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

/* Rows that are summed at once: the most for which there is a lane for every sum, and a loop for. */
V int64_t dots_rows(int64_t rows, int64_t count) {
    int64_t most = VL;
    while (most > rows || most * count > VL) most /= 2;
    return most;
}

/* A loop of its own for every number of rows and columns, where registers can hold the sums. */
#define DOTS_CASE(rows_, count_)                                                                                       \
    case rows_ * 8 + count_:                                                                                           \
        if (rows_ * count_ <= VL && count_ <= DOTS)                                                                    \
            dots_tile(rows_, count_ <= DOTS ? count_ : 1, w, inner, columns, apart, depth, out);                       \
        break;

/* The same for as many rows as dots_rows says. */
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
