/* dense.c - products with few samples are shared out by rows of the weights: see kernels.h. */
#include "simd/table.h"

/* At least this many weights fit in no cache: 2^23 floats are 32 MiB. */
enum { LARGE = 1 << 23 };

int srt_dense_most(int64_t weights) {
    if (!srt_products_pay()) return 0;
    const srt_table *table = srt_table_active();
    return weights >= LARGE ? table->dense_most_large : table->dense_most;
}

static void by_rows(srt_range *range, int64_t unit, const srt_weights *w, const float *x, const float *bias, float *y,
                    int64_t rows, int64_t batch, int64_t stride, const srt_activation *act) {
    dense_job job = {.w = *w, .x = x, .bias = bias, .y = y, .rows = rows, .batch = batch, .stride = stride, .act = act};
    srt_parallel((rows + unit - 1) / unit, srt_grain(unit * (w->inner + batch)), range, &job);
}

void srt_dense(const srt_weights *w, const float *x, const float *bias, float *y, int64_t rows, int64_t batch,
               int64_t stride, const srt_activation *act) {
    by_rows(srt_table_active()->dense, SRT_DENSE_UNIT, w, x, bias, y, rows, batch, stride, act);
}

void srt_dense_wide(const srt_weights *w, const float *x, const float *bias, float *y, int64_t rows, int64_t batch,
                    int64_t stride, const srt_activation *act) {
    by_rows(srt_table_active()->dense_wide, SRT_WIDE_UNIT, w, x, bias, y, rows, batch, stride, act);
}
