/* reduce.h - mean and maximum of rows, and sums of planes. */
#ifndef STREAMRT_REDUCE_H
#define STREAMRT_REDUCE_H

#include <string.h>

#include "activation.h"

/* The elements of the next piece: so many, or all that are left if these are less than twice SRT_SUM_BLOCK. */
FN int64_t sum_piece(int64_t left) {
    return left < 2 * SRT_SUM_BLOCK ? left : SRT_SUM_BLOCK;
}

/* The sum of one piece. Four vectors of partial sums hide the latency of an addition. */
FN double piece_sum(const float *x, int64_t n) {
    int64_t i = 0;
    vf a = splat(0.0f), b = a, c = a, d = a;
    for (; i + 4 * VL <= n; i += 4 * VL) {
        a += load(x + i);
        b += load(x + i + VL);
        c += load(x + i + 2 * VL);
        d += load(x + i + 3 * VL);
    }
    for (; i < n; i += VL) a += load_mask(x + i, lanes(0, n - i), splat(0.0f));
    return sum_of_lanes((a + b) + (c + d));
}

/* `total` and the elements of a row. */
FN double row_sum(double total, const float *x, int64_t n) {
    for (int64_t i = 0, count; i < n; i += count) {
        count = sum_piece(n - i);
        total += piece_sum(x + i, count);
    }
    return total;
}

typedef struct {
    double sum, squares;
} piece_moments;

/* The sum of the differences from `middle` in one piece, and that of their squares. */
FN piece_moments piece_differences(const float *x, int64_t n, float middle) {
    const vf from = splat(middle);
    int64_t i = 0;
    vf a = splat(0.0f), b = a, c = a, d = a, aa = a, bb = a, cc = a, dd = a;
    for (; i + 4 * VL <= n; i += 4 * VL) {
        vf p0 = load(x + i) - from, p1 = load(x + i + VL) - from;
        vf p2 = load(x + i + 2 * VL) - from, p3 = load(x + i + 3 * VL) - from;
        a += p0;
        b += p1;
        c += p2;
        d += p3;
        aa = muladd(p0, p0, aa);
        bb = muladd(p1, p1, bb);
        cc = muladd(p2, p2, cc);
        dd = muladd(p3, p3, dd);
    }
    for (; i < n; i += VL) {
        vf p0 = load_mask(x + i, lanes(0, n - i), from) - from;
        a += p0;
        aa = muladd(p0, p0, aa);
    }
    return (piece_moments){sum_of_lanes((a + b) + (c + d)), sum_of_lanes((aa + bb) + (cc + dd))};
}

/* Adds the elements of a row to y[0], and their squares to y[1]: with d = x - middle, x^2 = d^2 + middle (2x - middle).
 * `middle` is y[2], the mean of the first piece of the row that `begins`. */
FN void row_moments(double *y, const float *x, int64_t n, bool begins) {
    int64_t i = 0, count;
    if (begins) {
        i = sum_piece(n);
        y[0] = piece_sum(x, i);
        y[2] = (float)(y[0] / (double)i);
        y[1] = piece_differences(x, i, (float)y[2]).squares + y[2] * (2.0 * y[0] - (double)i * y[2]);
    }
    for (; i < n; i += count) {
        count = sum_piece(n - i);
        const piece_moments of = piece_differences(x + i, count, (float)y[2]);
        const double sum = of.sum + (double)count * y[2];
        y[0] += sum;
        y[1] += of.squares + y[2] * (2.0 * sum - (double)count * y[2]);
    }
}

FN float row_maximum(const float *x, int64_t n) {
    const vf none = splat(-INFINITY);
    vf a = none, b = none;
    int64_t i = 0;
    for (; i + 2 * VL <= n; i += 2 * VL) {
        a = max_nan(a, load(x + i));
        b = max_nan(b, load(x + i + VL));
    }
    for (; i < n; i += VL) a = max_nan(a, load_mask(x + i, lanes(0, n - i), none));
    return max_of_lanes(max_nan(a, b));
}

FN void row_mean(const void *arguments, int64_t first, int64_t last) {
    const row_job *job = arguments;
    for (int64_t r = first; r < last; r++) {
        const float *x = job->x + r * job->cols;
        double total = 0.0;
        if (job->block < 2 * SRT_SUM_BLOCK)
            for (int64_t i = 0; i < job->cols; i += job->block)
                total += piece_sum(x + i, smaller(job->block, job->cols - i));
        else
            for (int64_t i = 0; i < job->cols; i += job->block)
                total = row_sum(total, x + i, smaller(job->block, job->cols - i));
        job->y[r] = (float)(total / (double)job->cols);
    }
}

FN void plane_sums(const void *arguments, int64_t first, int64_t last) {
    const plane_job *job = arguments;
    const int64_t width = job->width;
    float together[2 * SRT_SUM_BLOCK];
    for (int64_t p = first; p < last; p++) {
        double *y = job->y + p * job->numbers;
        for (int64_t row = 0; row < job->rows; row += job->together) {
            const float *x = job->x + p * job->steps.plane + row * job->steps.row;
            const int64_t rows = smaller(job->together, job->rows - row), n = rows * width;
            if (rows > 1 && job->steps.row != width) {
                for (int64_t i = 0; i < rows; i++)
                    memcpy(together + i * width, x + i * job->steps.row, (size_t)width * sizeof(float));
                x = together;
            }
            const bool begins = job->begins && row == 0;
            if (job->numbers == 1)
                y[0] = row_sum(begins ? 0.0 : y[0], x, n);
            else
                row_moments(y, x, n, begins);
        }
    }
}

FN void row_max(const void *arguments, int64_t first, int64_t last) {
    const row_job *job = arguments;
    for (int64_t r = first; r < last; r++) job->y[r] = row_maximum(job->x + r * job->cols, job->cols);
}

#endif
