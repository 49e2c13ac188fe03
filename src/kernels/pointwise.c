/* pointwise.c - element-wise jobs are shared out by elements: see kernels.h. */
#include "simd/table.h"

void srt_unary(const float *x, float *y, int64_t n, const srt_activation *act) {
    unary_job job = {.x = x, .y = y, .act = act};
    srt_parallel(n, srt_grain(act->cost), srt_table_active()->unary, &job);
}

void srt_bias_act(float *y, int64_t rows, int64_t cols, int64_t stride, const float *bias, const srt_activation *act) {
    bias_job job = {.y = y, .cols = cols, .stride = stride, .bias = bias, .act = act};
    srt_parallel(rows * cols, srt_grain(act->cost), srt_table_active()->bias, &job);
}

void srt_scale_shift_act(const float *x, const float *scale, const float *shift, float *y, int64_t n, int64_t channels,
                         int64_t size, const srt_activation *act) {
    channel_job job = {.x = x, .y = y, .channels = channels, .size = size, .scale = scale, .shift = shift, .act = act};
    srt_parallel(n * channels * size, srt_grain(act->cost), srt_table_active()->scale_shift, &job);
}

void srt_prelu(const float *x, const float *slope, bool one_slope, float *y, int64_t n, int64_t channels,
               int64_t size) {
    /* one slope for all elements: the array counts as one channel */
    channel_job job = {.x = x, .y = y, .channels = channels, .size = size, .scale = slope};
    if (one_slope) {
        job.size = n * channels * size;
        job.channels = 1;
    }
    srt_parallel(n * channels * size, srt_grain(1), srt_table_active()->prelu, &job);
}
