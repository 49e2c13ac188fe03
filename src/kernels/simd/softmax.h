/* softmax.h - exp(x - max) / sum, or its logarithm, along the middle axis of (outer, k, inner). */
#ifndef STREAMRT_SOFTMAX_H
#define STREAMRT_SOFTMAX_H

#include "activation.h"
#include "reduce.h"

/* Returns the sum of exp(x - max), whose blocks are added in float64. Unless y is NULL, it gets the terms. */
FN double exp_row(const float *x, float *y, int64_t n, float max) {
    double total = 0.0;
    for (int64_t start = 0; start < n; start += SRT_SUM_BLOCK) {
        int64_t end = smaller(n, start + SRT_SUM_BLOCK);
        vf sum = splat(0.0f);
        for (int64_t i = start; i < end; i += VL) {
            vmask some = lanes(0, end - i);
            vf e = exp_of(load_mask(x + i, some, splat(-INFINITY)) - max); /* absent lanes add 0 */
            if (y) store_first(y + i, first_lanes(end - i), e);
            sum += e;
        }
        total += sum_of_lanes(sum);
    }
    return total;
}

FN void softmax_row(const float *x, float *y, int64_t n, bool log_of_it) {
    float max = row_maximum(x, n);
    double sum = exp_row(x, log_of_it ? NULL : y, n, max);
    if (log_of_it) {
        const float shift = (float)log(sum);
        MAP(x, y, n, (v - max) - shift);
    } else {
        const float divisor = (float)sum;
        MAP(y, y, n, v / divisor);
    }
}

/* Rows that are added together before they are added to the sum. So k terms round like k / 32 + 32 terms. */
enum { SUM_ROWS = 32 };

/* The softmax of n <= VL columns: k elements each, `inner` apart. */
V void softmax_columns(const float *x, float *y, int64_t k, int64_t inner, int64_t n, bool log_of_it) {
    const vmask some = lanes(0, n);
    const vfirst first = first_lanes(n);
    const vf none = splat(0.0f);
    vf max = splat(-INFINITY), sum = none;
    for (int64_t i = 0; i < k; i++) max = max_nan(max, load_mask(x + i * inner, some, none));
    for (int64_t start = 0; start < k; start += SUM_ROWS) {
        vf part = none;
        for (int64_t i = start; i < smaller(k, start + SUM_ROWS); i++) {
            vf e = exp_of(load_mask(x + i * inner, some, none) - max);
            part += e;
            if (!log_of_it) store_first(y + i * inner, first, e);
        }
        sum += part;
    }
    if (log_of_it) {
        vf shift = log_of(sum);
        for (int64_t i = 0; i < k; i++)
            store_first(y + i * inner, first, (load_mask(x + i * inner, some, none) - max) - shift);
    } else {
        for (int64_t i = 0; i < k; i++) store_first(y + i * inner, first, load_mask(y + i * inner, some, none) / sum);
    }
}

FN void softmax(const void *arguments, int64_t first, int64_t last) {
    const softmax_job *job = arguments;
    int64_t k = job->k, inner = job->inner;
    if (inner == 1) {
        for (int64_t r = first; r < last; r++) softmax_row(job->x + r * k, job->y + r * k, k, job->log);
        return;
    }
    for (int64_t n; first < last; first += n) {
        int64_t outer = first / inner, column = first - outer * inner;
        n = smaller(smaller(inner - column, last - first), VL);
        int64_t at = outer * k * inner + column;
        softmax_columns(job->x + at, job->y + at, k, inner, n, job->log);
    }
}

#endif
