/* reduce.c - mean, moments and maximum of rows are shared out by rows: see kernels.h. */
#include "simd/table.h"

void srt_row_mean(const float *x, float *y, int64_t rows, int64_t cols) {
    row_job job = {.x = x, .y = y, .cols = cols};
    srt_parallel(rows, srt_grain(cols), srt_table_active()->row_mean, &job);
}

void srt_row_moments(const float *x, float *y, int64_t rows, int64_t cols) {
    row_job job = {.x = x, .y = y, .cols = cols};
    srt_parallel(rows, srt_grain(2 * cols), srt_table_active()->row_moments, &job);
}

void srt_row_max(const float *x, float *y, int64_t rows, int64_t cols) {
    row_job job = {.x = x, .y = y, .cols = cols};
    srt_parallel(rows, srt_grain(cols), srt_table_active()->row_max, &job);
}
