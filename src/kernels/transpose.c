/* transpose.c - from feature-major to sample-major; shared out by features: see kernels.h. */
#include "simd/table.h"

void srt_transpose_bias_act(const float *t, float *y, int64_t rows, int64_t batch, int64_t stride, const float *bias,
                            const srt_activation *act) {
    transpose_job job = {.t = t, .y = y, .batch = batch, .stride = stride, .bias = bias, .act = act};
    srt_parallel(rows, srt_grain(batch * (act->cost + 1)), srt_table_active()->transpose, &job);
}
