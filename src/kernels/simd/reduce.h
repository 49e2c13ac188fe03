/* reduce.h - mean, moments and maximum of rows. */
#ifndef STREAMRT_REDUCE_H
#define STREAMRT_REDUCE_H

#include "activation.h"

/* Elements that are added in float32; these sums are added in float64. Each of the 4 * VL partial sums has at most 32
 * elements. */
enum { SUM_BLOCK = 512 };

/* The sum of a row. In a block, four vectors of partial sums hide the latency of an addition. */
FN double row_sum(const float *x, int64_t n) {
    double total = 0.0;
    for (int64_t start = 0; start < n; start += SUM_BLOCK) {
        const float *p = x + start;
        int64_t left = smaller(SUM_BLOCK, n - start), i = 0;
        vf a = splat(0.0f), b = a, c = a, d = a;
        for (; i + 4 * VL <= left; i += 4 * VL) {
            a += load(p + i);
            b += load(p + i + VL);
            c += load(p + i + 2 * VL);
            d += load(p + i + 3 * VL);
        }
        for (; i < left; i += VL) a += load_mask(p + i, lanes(0, left - i), splat(0.0f));
        total += sum_of_lanes((a + b) + (c + d));
    }
    return total;
}

/* The sum of the squares of the differences from `mean`. */
FN double row_squares(const float *x, int64_t n, float mean) {
    const vf middle = splat(mean);
    double total = 0.0;
    for (int64_t start = 0; start < n; start += SUM_BLOCK) {
        const float *p = x + start;
        int64_t left = smaller(SUM_BLOCK, n - start), i = 0;
        vf a = splat(0.0f), b = a, c = a, d = a;
        for (; i + 4 * VL <= left; i += 4 * VL) {
            vf p0 = load(p + i) - middle, p1 = load(p + i + VL) - middle;
            vf p2 = load(p + i + 2 * VL) - middle, p3 = load(p + i + 3 * VL) - middle;
            a = muladd(p0, p0, a);
            b = muladd(p1, p1, b);
            c = muladd(p2, p2, c);
            d = muladd(p3, p3, d);
        }
        for (; i < left; i += VL) {
            vf p0 = load_mask(p + i, lanes(0, left - i), middle) - middle;
            a = muladd(p0, p0, a);
        }
        total += sum_of_lanes((a + b) + (c + d));
    }
    return total;
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
    for (int64_t r = first; r < last; r++)
        job->y[r] = (float)(row_sum(job->x + r * job->cols, job->cols) / (double)job->cols);
}

FN void row_moments(const void *arguments, int64_t first, int64_t last) {
    const row_job *job = arguments;
    for (int64_t r = first; r < last; r++) {
        const float *x = job->x + r * job->cols;
        float mean = (float)(row_sum(x, job->cols) / (double)job->cols);
        job->y[2 * r] = mean;
        job->y[2 * r + 1] = (float)(row_squares(x, job->cols, mean) / (double)job->cols);
    }
}

FN void row_max(const void *arguments, int64_t first, int64_t last) {
    const row_job *job = arguments;
    for (int64_t r = first; r < last; r++) job->y[r] = row_maximum(job->x + r * job->cols, job->cols);
}

#endif
