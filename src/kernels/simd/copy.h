/* copy.h - the loops of copies: matrices whose rows and columns lie at any distances. */
#ifndef STREAMRT_COPY_H
#define STREAMRT_COPY_H

#include <string.h>

#include "functions.h"

/* A vector to y, past the cache if `past`; then y is aligned. */
V void put(float *y, vf v, bool past) {
    if (past)
        store_past(y, v);
    else
        store(y, v);
}

/* The words before the first whole vector of y. */
V int64_t unaligned(const float *y) {
    return (int64_t)(-(uintptr_t)y % sizeof(vf) / sizeof *y);
}

/* Whether y can be written in aligned vectors whose first word is that of `words` successive columns. */
V bool fits(const float *y, int64_t words) {
    return unaligned(y) % words == 0;
}

FN void run_past(const float *x, float *y, int64_t n) {
    int64_t i = smaller(unaligned(y), n);
    memcpy(y, x, (size_t)i * sizeof *y);
    for (; i + VL <= n; i += VL) store_past(y + i, load(x + i));
    memcpy(y + i, x + i, (size_t)(n - i) * sizeof *y);
}

FN void copy_runs(const float *x, int64_t xs, float *y, int64_t ys, int64_t rows, int64_t cols, bool past) {
    if (cols == 2) /* values of 8 bytes, for example */
        for (int64_t i = 0; i < rows; i++) memcpy(y + i * ys, x + i * xs, 2 * sizeof *y);
    else if (WRITES_PAST && past && cols >= 4 * VL)
        for (int64_t i = 0; i < rows; i++) run_past(x + i * xs, y + i * ys, cols);
    else
        for (int64_t i = 0; i < rows; i++) memcpy(y + i * ys, x + i * xs, (size_t)cols * sizeof *y);
}

/* Two columns of y, whose rows are contiguous, from rows a and b. */
V void zip_two(const float *a, const float *b, float *y, int64_t n, bool past) {
    int64_t i = 0;
    if (past)
        for (const int64_t some = smaller(unaligned(y) / 2, n); i < some; i++) y[2 * i] = a[i], y[2 * i + 1] = b[i];
    for (; i + VL <= n; i += VL) {
        const vf u = load(a + i), v = load(b + i);
        put(y + 2 * i, zip_low(u, v), past);
        put(y + 2 * i + VL, zip_high(u, v), past);
    }
    for (; i < n; i++) y[2 * i] = a[i], y[2 * i + 1] = b[i];
}

/* Four columns from rows that lie xs apart. */
V void zip_four(const float *x, int64_t xs, float *y, int64_t n, bool past) {
    int64_t i = 0;
    if (past)
        for (const int64_t some = smaller(unaligned(y) / 4, n); i < some; i++)
            for (int j = 0; j < 4; j++) y[4 * i + j] = x[j * xs + i];
    for (; i + VL <= n; i += VL) {
        const vf a = load(x + i), b = load(x + xs + i), c = load(x + 2 * xs + i), d = load(x + 3 * xs + i);
        const vf even_low = zip_low(a, c), even_high = zip_high(a, c);
        const vf odd_low = zip_low(b, d), odd_high = zip_high(b, d);
        put(y + 4 * i, zip_low(even_low, odd_low), past);
        put(y + 4 * i + VL, zip_high(even_low, odd_low), past);
        put(y + 4 * i + 2 * VL, zip_low(even_high, odd_high), past);
        put(y + 4 * i + 3 * VL, zip_high(even_high, odd_high), past);
    }
    for (; i < n; i++)
        for (int j = 0; j < 4; j++) y[4 * i + j] = x[j * xs + i];
}

/* Two rows of y from two columns, whose rows are contiguous. */
V void unzip_two(const float *x, float *y, int64_t ys, int64_t n, bool past) {
    int64_t i = 0;
    if (past)
        for (const int64_t some = smaller(unaligned(y), n); i < some; i++) y[i] = x[2 * i], y[ys + i] = x[2 * i + 1];
    for (; i + VL <= n; i += VL) {
        const vf a = load(x + 2 * i), b = load(x + 2 * i + VL);
        put(y + i, unzip_even(a, b), past);
        put(y + ys + i, unzip_odd(a, b), past);
    }
    for (; i < n; i++) y[i] = x[2 * i], y[ys + i] = x[2 * i + 1];
}

V void unzip_four(const float *x, float *y, int64_t ys, int64_t n, bool past) {
    int64_t i = 0;
    if (past)
        for (const int64_t some = smaller(unaligned(y), n); i < some; i++)
            for (int j = 0; j < 4; j++) y[j * ys + i] = x[4 * i + j];
    for (; i + VL <= n; i += VL) {
        const float *from = x + 4 * i;
        const vf a = load(from), b = load(from + VL), c = load(from + 2 * VL), d = load(from + 3 * VL);
        const vf even_low = unzip_even(a, b), even_high = unzip_even(c, d);
        const vf odd_low = unzip_odd(a, b), odd_high = unzip_odd(c, d);
        put(y + i, unzip_even(even_low, even_high), past);
        put(y + ys + i, unzip_even(odd_low, odd_high), past);
        put(y + 2 * ys + i, unzip_odd(even_low, even_high), past);
        put(y + 3 * ys + i, unzip_odd(odd_low, odd_high), past);
    }
    for (; i < n; i++)
        for (int j = 0; j < 4; j++) y[j * ys + i] = x[4 * i + j];
}

/* Words that lie at any distances. The barrier keeps the compiler from instructions that gather and scatter, which take
 * several times as long. */
V void copy_words(const float *x, int64_t xs, float *y, int64_t ys, int64_t n) {
    int64_t i = 0;
    for (; i + 4 <= n; i += 4, x += 4 * xs, y += 4 * ys) {
        const float a = x[0], b = x[xs], c = x[2 * xs], d = x[3 * xs];
        y[0] = a;
        y[ys] = b;
        y[2 * ys] = c;
        y[3 * ys] = d;
        __asm__ volatile("" ::: "memory");
    }
    for (; i < n; i++, x += xs, y += ys) *y = *x;
}

/* One row, of which at least one array has gaps. */
V void copy_line(const float *x, int64_t xs, float *y, int64_t ys, int64_t n) {
    int64_t i = 0;
    if (ys == 1 && xs == 2)
        for (; i + VL <= n; i += VL) store(y + i, load_even(x + 2 * i));
    else if (ys == 1 && xs == 0)
        for (const vf v = splat(*x); i + VL <= n; i += VL) store(y + i, v);
    else if (ys == 1 && xs == -1)
        for (; i < n; i++) y[i] = x[-i];
    if (i < n) copy_words(x + i * xs, xs, y + i * ys, ys, n - i);
}

/* In squares. Of the array whose lines fall into fewer sets of the cache, only TILE lines are used at a time, because
 * more of them would push each other out. It is the one whose step has the higher power of two. */
V void copy_squares(const float *x, int64_t xs, float *y, int64_t ys, int64_t rows, int64_t cols) {
    const int64_t whole_rows = rows - rows % TILE, whole_cols = cols - cols % TILE;
    if ((xs & -xs) > (ys & -ys))
        for (int64_t j = 0; j < whole_cols; j += TILE)
            for (int64_t i = 0; i < whole_rows; i += TILE) transpose_tile(x + j * xs + i, xs, y + i * ys + j, ys);
    else
        for (int64_t i = 0; i < whole_rows; i += TILE)
            for (int64_t j = 0; j < whole_cols; j += TILE) transpose_tile(x + j * xs + i, xs, y + i * ys + j, ys);
    for (int64_t i = 0; i < whole_rows && whole_cols < cols; i++)
        copy_line(x + whole_cols * xs + i, xs, y + i * ys + whole_cols, 1, cols - whole_cols);
    for (int64_t i = whole_rows; i < rows; i++) copy_line(x + i, xs, y + i * ys, 1, cols);
}

/* xs: from a column of x to the next; ys: from a row of y to the next. */
FN void copy_transposed(const float *x, int64_t xs, float *y, int64_t ys, int64_t rows, int64_t cols, bool past) {
    const bool rows_fit = past && ys % VL == 0;
    if (cols == 2 && ys == 2) {
        if (past && fits(y, 2))
            zip_two(x, x + xs, y, rows, true);
        else
            zip_two(x, x + xs, y, rows, false);
    } else if (cols == 4 && ys == 4) {
        if (past && fits(y, 4))
            zip_four(x, xs, y, rows, true);
        else
            zip_four(x, xs, y, rows, false);
    } else if (rows == 2 && xs == 2) {
        if (rows_fit)
            unzip_two(x, y, ys, cols, true);
        else
            unzip_two(x, y, ys, cols, false);
    } else if (rows == 4 && xs == 4) {
        if (rows_fit)
            unzip_four(x, y, ys, cols, true);
        else
            unzip_four(x, y, ys, cols, false);
    } else {
        copy_squares(x, xs, y, ys, rows, cols);
    }
}

FN void copy_piece(const srt_copy *c, const float *x, float *y, int64_t rows, int64_t cols, bool past) {
    const srt_copy_axis row = c->axis[c->axes], col = c->axis[c->axes + 1];
    if (c->kind == SRT_COPY_RUNS)
        copy_runs(x, row.x, y, row.y, rows, cols, past);
    else if (c->kind == SRT_COPY_TRANSPOSE)
        copy_transposed(x, col.x, y, row.y, rows, cols, past);
    else
        for (int64_t i = 0; i < rows; i++) copy_line(x + i * row.x, col.x, y + i * row.y, col.y, cols);
}

/* The pieces first..last of a copy, in the order of y. */
FN void copy_pieces(const srt_copy *c, int64_t first, int64_t last, bool past) {
    const srt_copy_axis *axis = c->axis, row = axis[c->axes], col = axis[c->axes + 1];
    int64_t at[SRT_COPY_AXES], rest = first / c->col_pieces, i = rest % c->row_pieces, j = first % c->col_pieces;
    const float *x = c->x;
    float *y = c->y;
    rest /= c->row_pieces;
    for (int k = c->axes - 1; k >= 0; k--) {
        at[k] = rest % axis[k].extent;
        rest /= axis[k].extent;
        x += at[k] * axis[k].x;
        y += at[k] * axis[k].y;
    }
    for (; first < last; first++) {
        const int64_t r = i * c->piece_rows, s = j * c->piece_cols;
        copy_piece(c, x + r * row.x + s * col.x, y + r * row.y + s * col.y, smaller(c->piece_rows, row.extent - r),
                   smaller(c->piece_cols, col.extent - s), past);
        if (++j < c->col_pieces) continue;
        j = 0;
        if (++i < c->row_pieces) continue;
        i = 0;
        for (int k = c->axes - 1; k >= 0; k--) {
            x += axis[k].x;
            y += axis[k].y;
            if (++at[k] < axis[k].extent) break;
            at[k] = 0;
            x -= axis[k].extent * axis[k].x;
            y -= axis[k].extent * axis[k].y;
        }
    }
}

FN void copy(const void *arguments, int64_t first, int64_t last) {
    const copy_job *job = arguments;
    for (const srt_copy *c = job->copies; first < last; c++) {
        if (first >= c->units) continue;
        const int64_t end = smaller(last, c->units);
        copy_pieces(c, (first - c->first_unit) * c->together, smaller((end - c->first_unit) * c->together, c->pieces),
                    job->past);
        first = end;
    }
    if (job->past) settle();
}

#endif
