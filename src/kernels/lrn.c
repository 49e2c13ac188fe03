/* lrn.c - local response normalisation is shared out by channels: see kernels.h. */
#include "simd/table.h"

void srt_lrn(const float *x, float *y, int64_t n, int64_t channels, int64_t inner, int64_t size, float alpha,
             float beta, float bias) {
    lrn_job job = {
        .x = x,
        .y = y,
        .channels = channels,
        .inner = inner,
        .size = size,
        .alpha = alpha / (float)size,
        .beta = beta,
        .bias = bias,
    };
    enum { COST = 10 }; /* of an element, in times to copy one: a logarithm, an exponential and a few squares */
    srt_parallel(n * channels, srt_grain(inner < INT64_MAX / COST ? inner * COST : inner), srt_table_active()->lrn,
                 &job);
}
