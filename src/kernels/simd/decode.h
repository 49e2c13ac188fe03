/* decode.h - weights that are stored in fewer bytes become float32, some rows at a time: see srt_weights.
 *
 * Kernels decode the rows of a tile into memory that stays in the cache, and compute with that as with any weights. So
 * the order of a sum's terms does not depend on how its weights are stored.
 */
#ifndef STREAMRT_DECODE_H
#define STREAMRT_DECODE_H

#include <string.h>

#include "functions.h"

/* Decoding n floats of a row may overwrite as many floats behind them. */
enum { DECODE_SLACK = VL - 1 };

V const float *floats_of(const srt_weights *w) {
    return w->data;
}

V bool is_coded(const srt_weights *w) {
    return w->type != SRT_FLOAT32;
}

V bool is_integer(const int type) {
    return type == SRT_INT8 || type == SRT_INT4;
}

/* Codes of int4 that lie in the same halves of the bytes that follow each other. */
enum { HALF_GROUP = 16 };
_Static_assert(HALF_GROUP % VL == 0, "a vector has codes of one half");

/* Bytes of n codes or floats; for int4, n <= HALF_GROUP or a multiple of 2 HALF_GROUP. */
V int64_t bytes_of(const int type, int64_t n) {
    if (type == SRT_INT4) return n <= HALF_GROUP ? n : n / 2;
    return type == SRT_INT8 ? n : type == SRT_FLOAT32 ? 4 * n : 2 * n;
}

V const uint8_t *row_of(const srt_weights *w, int64_t row) {
    return (const uint8_t *)w->data + row * w->pitch;
}

/* The block of weight k. */
V int64_t block_of(const srt_weights *w, int64_t k) {
    return w->block >= w->inner ? 0 : k / w->block; /* a division takes as long as decoding 100 weights */
}

/* The VL codes from p on, as numbers. Not for int4. */
V vf number(const int type, const uint8_t *p) {
    return type == SRT_FLOAT16 ? load_half(p) : type == SRT_BFLOAT16 ? load_bfloat(p) : load_int8(p);
}

/* A block's scale and zero point. */
typedef struct {
    vf scale, zero;
} block_scale;

/* Numbers become weights. zeros: whether there are zero points. */
V vf weights_of(const int type, const bool zeros, vf numbers, block_scale block) {
    if (is_integer(type) && zeros) numbers -= block.zero;
    if (is_integer(type)) numbers *= block.scale;
    return numbers;
}

/* Decodes the codes k..k + n of a row, which are in one block. Not for int4. */
V void decode_span(const int type, const bool zeros, const uint8_t *codes, int64_t k, int64_t n, block_scale block,
                   float *out) {
    const uint8_t *from = codes + bytes_of(type, k);
    int64_t i = 0;
    for (; i + VL <= n; i += VL, from += bytes_of(type, VL))
        store(out + i, weights_of(type, zeros, number(type, from), block));
    if (i < n) {
        uint8_t rest[2 * VL] = {0};
        memcpy(rest, from, (size_t)bytes_of(type, n - i));
        store(out + i, weights_of(type, zeros, number(type, rest), block));
    }
}

/* As decode_span, for int4. inner: codes of the row. */
V void decode_nibbles(const bool zeros, const uint8_t *codes, int64_t inner, int64_t k, int64_t n, block_scale block,
                      float *out) {
    const int64_t end = k + n;
    if (k % (2 * HALF_GROUP) == 0) /* whole groups */
        for (; k + 2 * HALF_GROUP <= end; k += 2 * HALF_GROUP, out += 2 * HALF_GROUP)
#pragma GCC unroll 4
            for (int64_t i = 0; i < HALF_GROUP; i += VL) {
                const uint8_t *from = codes + k / 2 + i;
                store(out + i, weights_of(SRT_INT4, zeros, load_int4(from, false), block));
                store(out + HALF_GROUP + i, weights_of(SRT_INT4, zeros, load_int4(from, true), block));
            }
    for (int64_t next; k < end; out += next - k, k = next) {
        const int64_t group = k / (2 * HALF_GROUP), skip = k % HALF_GROUP;
        const bool upper = k / HALF_GROUP % 2 != 0;
        next = smaller(k - skip + HALF_GROUP, end);
        const uint8_t *from = codes + group * HALF_GROUP;
        uint8_t rest[HALF_GROUP] = {0};
        const int64_t there = inner - group * 2 * HALF_GROUP; /* bytes of the group, or more */
        if (there < HALF_GROUP) from = memcpy(rest, from, (size_t)there);
        float part[HALF_GROUP], *to = skip ? part : out; /* up to DECODE_SLACK floats more */
        for (int64_t i = skip / VL * VL; i < HALF_GROUP && k - skip + i < next; i += VL)
            store(to + i, weights_of(SRT_INT4, zeros, load_int4(from + i, upper), block));
        if (skip) memcpy(out, part + skip, (size_t)(next - k) * sizeof *out);
    }
}

V void decode_type(const int type, const bool zeros, const srt_weights *w, int64_t row, int64_t rows, int64_t k,
                   int64_t n, float *out, int64_t pitch) {
    const int64_t begin = is_integer(type) ? block_of(w, k) : 0, size = w->block;
    for (; rows > 0; rows--, row++, out += pitch) {
        const uint8_t *scales = row_of(w, row), *codes = scales + w->codes;
        const int8_t *points = zeros ? (const int8_t *)codes - w->codes / 5 : NULL;
        if (!is_integer(type)) {
            decode_span(type, false, codes, k, n, (block_scale){splat(1.0f), splat(0.0f)}, out);
            continue;
        }
        for (int64_t block = begin, at = k, end; at < k + n; at = end, block++) {
            end = smaller((block + 1) * size, k + n);
            float scale;
            memcpy(&scale, scales + block * (int64_t)sizeof scale, sizeof scale);
            const block_scale both = {splat(scale), splat(zeros ? points[block] : 0.0f)};
            if (type == SRT_INT4)
                decode_nibbles(zeros, codes, w->inner, at, end - at, both, out + at - k);
            else
                decode_span(type, zeros, codes, at, end - at, both, out + at - k);
        }
    }
}

/* Decodes the weights k..k + n of the rows row..row + rows: out (rows, n), whose rows lie `pitch` floats apart. Up to
 * DECODE_SLACK floats behind the n of each row are overwritten. Not for SRT_FLOAT32. */
FN void decode_rows(const srt_weights *w, int64_t row, int64_t rows, int64_t k, int64_t n, float *out, int64_t pitch) {
    switch (w->type + (w->zeros ? SRT_WEIGHT_TYPES : 0)) {
    case SRT_FLOAT16:
        decode_type(SRT_FLOAT16, false, w, row, rows, k, n, out, pitch);
        break;
    case SRT_BFLOAT16:
        decode_type(SRT_BFLOAT16, false, w, row, rows, k, n, out, pitch);
        break;
    case SRT_INT8:
        decode_type(SRT_INT8, false, w, row, rows, k, n, out, pitch);
        break;
    case SRT_INT4:
        decode_type(SRT_INT4, false, w, row, rows, k, n, out, pitch);
        break;
    case SRT_INT8 + SRT_WEIGHT_TYPES:
        decode_type(SRT_INT8, true, w, row, rows, k, n, out, pitch);
        break;
    case SRT_INT4 + SRT_WEIGHT_TYPES:
        decode_type(SRT_INT4, true, w, row, rows, k, n, out, pitch);
    }
}

/* Fetches the codes k..k + n of the rows row..row + rows into the second-level cache, and the scale of code k. The
 * codes may lie behind the weights, as they are not read. */
V void fetch_codes(const srt_weights *w, int64_t row, int64_t rows, int64_t k, int64_t n) {
    const bool nibbles = w->type == SRT_INT4;
    const int64_t first = nibbles ? k / (2 * HALF_GROUP) * HALF_GROUP : bytes_of(w->type, k);
    const int64_t size = nibbles ? n / 2 + HALF_GROUP : bytes_of(w->type, n);
    const int64_t scale = is_integer(w->type) ? block_of(w, k) * (int64_t)sizeof(float) : 0;
    for (; rows > 0; rows--, row++) {
        const uint8_t *start = row_of(w, row), *from = start + w->codes + first;
        if (is_integer(w->type)) __builtin_prefetch(start + scale, 0, 2);
        for (int64_t i = 0; i < size; i += CONV_LINE * (int64_t)sizeof(float)) __builtin_prefetch(from + i, 0, 2);
    }
}

FN void decode(const void *arguments, int64_t first, int64_t last) {
    const decode_job *job = arguments;
    const srt_weights *w = &job->w;
    enum { SPAN = 256 };
    float part[SPAN + DECODE_SLACK];
    for (int64_t row = first; row < last; row++)
        for (int64_t k = 0; k < w->inner; k += SPAN) {
            const int64_t n = smaller(SPAN, w->inner - k);
            decode_rows(w, job->first + row, 1, k, n, part, SPAN);
            memcpy(job->out + row * w->inner + k, part, (size_t)n * sizeof *part);
        }
}

#endif
