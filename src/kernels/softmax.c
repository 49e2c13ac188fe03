/* softmax.c - shared out by rows, or by columns if the axis is not the last: see kernels.h. */
#include "simd/table.h"

void srt_softmax(const float *x, float *y, int64_t outer, int64_t k, int64_t inner, bool log) {
    softmax_job job = {.x = x, .y = y, .k = k, .inner = inner, .log = log};
    enum { COST = 6 }; /* of an element, in times to copy one: an exponential, a division, three reads */
    if (k > 0)
        srt_parallel(outer * inner, srt_grain(k < INT64_MAX / COST ? k * COST : k), srt_table_active()->softmax, &job);
}
