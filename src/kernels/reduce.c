/* reduce.c - mean and maximum of rows are shared out by rows, sums of planes by planes: see kernels.h. */
#include "simd/table.h"

void srt_row_mean(const float *x, float *y, int64_t rows, int64_t cols, int64_t block) {
    row_job job = {.x = x, .y = y, .cols = cols, .block = block};
    srt_parallel(rows, srt_grain(cols), srt_table_active()->row_mean, &job);
}

int64_t srt_rows_together(int64_t width) {
    int64_t rows = 1;
    while (rows * width < SRT_SUM_BLOCK) rows *= 2;
    return rows;
}

void srt_plane_sums(const float *x, srt_steps steps, double *y, int64_t planes, int64_t rows, int64_t width,
                    int64_t numbers, bool begins) {
    plane_job job = {
        .x = x,
        .y = y,
        .steps = steps,
        .rows = rows,
        .width = width,
        .numbers = numbers,
        .begins = begins,
        .together = srt_rows_together(width),
    };
    srt_parallel(planes, srt_grain(numbers * rows * width), srt_table_active()->plane_sums, &job);
}

void srt_row_max(const float *x, float *y, int64_t rows, int64_t cols) {
    row_job job = {.x = x, .y = y, .cols = cols};
    srt_parallel(rows, srt_grain(cols), srt_table_active()->row_max, &job);
}
