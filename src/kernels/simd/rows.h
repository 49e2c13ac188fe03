/* rows.h - what neighbouring outputs see of an input row, when windows are one or two columns apart.
 *
 * With stride 2 a row is read by whole vectors, which are sorted into even and odd elements; every two columns of the
 * window on, outputs see the same ones, one lane further.
 */
#ifndef STREAMRT_ROWS_H
#define STREAMRT_ROWS_H

#include "functions.h"

/* Columns of the largest window for which there are loops. */
enum { ROWS_MOST = 7 };

/* Where vector j of those that VL outputs with a window of k columns read begins. There are k of them. */
V int64_t row_vector(const int stride, int64_t j) {
    return stride == 1 ? j : j < 2 ? j * VL : 2 * VL + j - 2;
}

/* The lanes of each of these vectors that lie in a row of `width`, of which output 0 reads column `at` first. */
V void row_inside(const int k, const int stride, int64_t at, int64_t width, vmask *inside) {
    for (int j = 0; j < k; j++) {
        const int64_t from = at + row_vector(stride, j);
        inside[j] = lanes(-from, width - from);
    }
}

/* Whether all of them do. */
V bool row_is_whole(const int k, const int stride, int64_t at, int64_t width) {
    return at >= 0 && at + row_vector(stride, k - 1) + VL <= width;
}

/* From these vectors to what the outputs see in each column of the window. */
V void row_columns(const int k, const int stride, const vf *v, vf *q) {
#pragma GCC unroll 8
    for (int j = 0; j < k; j++)
        q[j] = stride == 1 ? v[j]
               : j == 0    ? unzip_even(v[0], v[1])
               : j == 1    ? unzip_odd(v[0], v[1])
                           : slide(q[j - 2], v[j]);
}

#endif
