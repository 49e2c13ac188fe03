/* rows.h - the elements of an input row that VL neighbouring outputs read, with stride 1 or 2.
 *
 * With stride 2 a row is read in whole vectors, which are sorted into even and odd elements. Column j + 2 of the window
 * reads the same elements as column j, one lane further.
 */
#ifndef STREAMRT_ROWS_H
#define STREAMRT_ROWS_H

#include "functions.h"

/* Columns of the largest window that has loops. */
enum { ROWS_MOST = 7 };

/* VL outputs with a window of k columns read k vectors. Vector j begins at this element. */
V int64_t row_vector(const int stride, int64_t j) {
    return stride == 1 ? j : j < 2 ? j * VL : 2 * VL + j - 2;
}

/* The lanes of each of the k vectors that lie in a row of `width` elements. Output 0 reads from element `at` on. */
V void row_inside(const int k, const int stride, int64_t at, int64_t width, vmask *inside) {
    for (int j = 0; j < k; j++) {
        const int64_t from = at + row_vector(stride, j);
        inside[j] = lanes(-from, width - from);
    }
}

/* Whether all lanes of the k vectors lie in the row. */
V bool row_is_whole(const int k, const int stride, int64_t at, int64_t width) {
    return at >= 0 && at + row_vector(stride, k - 1) + VL <= width;
}

/* Sets q[j] to the elements that the outputs read in column j of the window; v has the k vectors. */
V void row_columns(const int k, const int stride, const vf *v, vf *q) {
#pragma GCC unroll 8
    for (int j = 0; j < k; j++)
        q[j] = stride == 1 ? v[j]
               : j == 0    ? unzip_even(v[0], v[1])
               : j == 1    ? unzip_odd(v[0], v[1])
                           : slide(q[j - 2], v[j]);
}

#endif
