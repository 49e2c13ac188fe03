/* decode.c - sizes of weights that are stored in fewer bytes, and all of their rows as float32: see kernels.h. */
#include "simd/table.h"

srt_weights srt_weights_make(const void *data, int type, int64_t inner, int64_t block, bool zeros) {
    const bool integers = type == SRT_INT8 || type == SRT_INT4;
    const int64_t blocks = integers ? inner / block + (inner % block != 0) : 0;
    return (srt_weights){.data = data,
                         .type = type,
                         .inner = inner,
                         .pitch = srt_row_bytes(type, inner, block, zeros),
                         .block = integers ? block : 0,
                         .zeros = integers && zeros,
                         .codes = blocks * (zeros ? 5 : 4)};
}

int64_t srt_row_bytes(int type, int64_t inner, int64_t block, bool zeros) {
    if (type == SRT_FLOAT32) return 4 * inner;
    if (type == SRT_FLOAT16 || type == SRT_BFLOAT16) return 2 * inner;
    const int64_t blocks = inner / block + (inner % block != 0), rest = inner % 32;
    const int64_t codes = type == SRT_INT8 ? inner : inner / 32 * 16 + (rest < 16 ? rest : 16);
    return (blocks * (zeros ? 5 : 4) + codes + 3) / 4 * 4;
}

void srt_decode(const srt_weights *w, int64_t first, int64_t last, float *out) {
    const decode_job job = {.w = *w, .first = first, .out = out};
    srt_parallel(last - first, srt_grain(w->inner), srt_table_active()->decode, &job);
}
