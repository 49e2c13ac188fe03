/* im2col.c - shared out by rows of the matrix, that is by channel and kernel position: see kernels.h. */
#include "simd/table.h"

void srt_im2col(const float *x, float *out, int64_t channels, const srt_window *window, int64_t first, int64_t last) {
    im2col_job job = {.x = x, .out = out, .window = window, .first = first, .last = last};
    int64_t rows = channels * window->kernel[0] * window->kernel[1];
    if (last > first) srt_parallel(rows, srt_grain(last - first), srt_table_active()->im2col, &job);
}
