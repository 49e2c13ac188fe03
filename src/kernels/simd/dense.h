/* dense.h - products of many rows of weights with few samples. BLAS would copy the weights before it multiplies.
 *
 * Each weight is read once from memory, in order, and multiplied with all samples while it is in the first-level cache.
 * Weights in fewer bytes are decoded there, a block at a time. A sum belongs to one row and one sample. The order of
 * its terms does not depend on other sums.
 */
#ifndef STREAMRT_DENSE_H
#define STREAMRT_DENSE_H

#include "activation.h"
#include "decode.h"

/* For addresses that are only fetched: they may lie behind all weights, where a pointer may not point. */
V uintptr_t float_bytes(int64_t floats) {
    return (uintptr_t)floats * sizeof(float);
}

/* Adds the products of `rows` rows with `samples` samples to the sums, over whole chunks. w (rows, inner) and
 * x (chunks, samples, SRT_DENSE_CHUNK), from the first chunk on. Meanwhile it fetches weights from the address `next`
 * on: a chunk of each row after every `every` chunks; 0: none. */
V void dense_chunks(const int rows, const int samples, const float *w, int64_t inner, const float *x, int64_t chunks,
                    uintptr_t next, int64_t every, vf (*sums)[SRT_DENSE_BATCH]) {
    vf acc[DENSE_ROWS][SRT_DENSE_GROUP];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int s = 0; s < samples; s++) acc[r][s] = sums[r][s];
    for (int64_t c = 0, wait = 1; c < chunks; c++, w += SRT_DENSE_CHUNK, x += samples * SRT_DENSE_CHUNK) {
#pragma GCC unroll 4
        for (int lane = 0; lane < SRT_DENSE_CHUNK; lane += VL) {
            vf weights[DENSE_ROWS];
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) weights[r] = load(w + r * inner + lane);
#pragma GCC unroll 8
            for (int s = 0; s < samples; s++) {
                vf sample = load(x + s * SRT_DENSE_CHUNK + lane);
#pragma GCC unroll 8
                for (int r = 0; r < rows; r++) acc[r][s] = muladd(weights[r], sample, acc[r][s]);
            }
        }
        if (every != 0 && --wait == 0) {
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++)
                if (every == 1)
                    __builtin_prefetch((const void *)(next + float_bytes(r * inner)));
                else /* a whole block is for the second-level cache */
                    __builtin_prefetch((const void *)(next + float_bytes(r * inner)), 0, 2);
            next += float_bytes(SRT_DENSE_CHUNK);
            wait = every;
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int s = 0; s < samples; s++) sums[r][s] = acc[r][s];
}

/* As dense_chunks, for the `rest` weights of a row behind its last whole chunk. x is zero behind them. */
FN void dense_rest(int rows, int64_t samples, const float *w, int64_t inner, int64_t rest, const float *x,
                   vf (*sums)[SRT_DENSE_BATCH]) {
    for (int64_t lane = 0; lane < rest; lane += VL) {
        vmask some = lanes(0, rest - lane);
        for (int r = 0; r < rows; r++) {
            vf weights = load_mask(w + r * inner + lane, some, splat(0.0f));
            for (int64_t s = 0; s < samples; s++)
                sums[r][s] = muladd(weights, load(x + s * SRT_DENSE_CHUNK + lane), sums[r][s]);
        }
    }
}

/* Whether dense_direct computes a job: its samples are one group, and pairs of chunks have a scale in common. */
V bool is_direct(const dense_job *job) {
    const srt_weights *w = &job->w;
    const bool pairs = !is_integer(w->type) || w->block >= w->inner || w->block % (2 * SRT_DENSE_CHUNK) == 0;
    return is_coded(w) && !w->zeros && pairs && job->batch > 0 && job->batch <= SRT_DENSE_GROUP;
}

/* Bytes by which a row is fetched ahead of decoding, and weights by which blocks of rows are. */
enum { DECODED_AHEAD = 512 };

/* Adds the products of DENSE_ROWS rows from `row` on with `samples` samples to the sums, over whole pairs of chunks.
 * Each weight is decoded in a register. Returns the number of chunks. */
V int64_t dense_direct(const int type, const int samples, const dense_job *job, int64_t row,
                       vf (*sums)[SRT_DENSE_BATCH]) {
    const srt_weights *w = &job->w;
    const uint8_t *codes = row_of(w, row) + w->codes, *scales = row_of(w, row);
    const float *x = job->x;
    const int64_t pairs = w->inner / (2 * SRT_DENSE_CHUNK), size = 2 * bytes_of(type, SRT_DENSE_CHUNK);
    const int64_t step = type == SRT_INT4 ? SRT_DENSE_CHUNK : size; /* bytes of a pair */
    const int64_t of_a_block = w->block >= w->inner ? pairs : w->block / (2 * SRT_DENSE_CHUNK);
    vf acc[DENSE_ROWS][SRT_DENSE_GROUP];
#pragma GCC unroll 8
    for (int r = 0; r < DENSE_ROWS; r++)
#pragma GCC unroll 8
        for (int s = 0; s < samples; s++) acc[r][s] = sums[r][s];
    for (int64_t p = 0, left = of_a_block; p < pairs; p++, codes += step) {
        if (is_integer(type) && left-- == 0) {
            scales += sizeof(float);
            left = of_a_block - 1;
        }
        /* behind the codes of these rows come those of the next rows; an address, as for `next` of dense_chunks */
        const bool inside = p * step + DECODED_AHEAD < w->pitch - w->codes;
        const int64_t ahead = DECODED_AHEAD + (inside ? 0 : (DENSE_ROWS - 1) * w->pitch + w->codes);
        const uintptr_t next = (uintptr_t)codes + (uintptr_t)ahead;
#pragma GCC unroll 8
        for (int r = 0; r < DENSE_ROWS; r++) __builtin_prefetch((const void *)(next + (uintptr_t)(r * w->pitch)));
#pragma GCC unroll 2
        for (int chunk = 0; chunk < 2; chunk++, x += samples * SRT_DENSE_CHUNK) {
#pragma GCC unroll 4
            for (int lane = 0; lane < SRT_DENSE_CHUNK; lane += VL) {
                vf weights[DENSE_ROWS];
#pragma GCC unroll 8
                for (int r = 0; r < DENSE_ROWS; r++) {
                    const uint8_t *from = codes + r * w->pitch;
                    float scale = 1;
                    if (is_integer(type)) memcpy(&scale, scales + r * w->pitch, sizeof scale);
                    weights[r] = type == SRT_INT4 ? load_int4(from + lane, chunk != 0)
                                                  : number(type, from + bytes_of(type, chunk * SRT_DENSE_CHUNK + lane));
                    weights[r] = weights_of(type, false, weights[r], (block_scale){.scale = splat(scale)});
                }
#pragma GCC unroll 8
                for (int s = 0; s < samples; s++) {
                    const vf sample = load(x + s * SRT_DENSE_CHUNK + lane);
#pragma GCC unroll 8
                    for (int r = 0; r < DENSE_ROWS; r++) acc[r][s] = muladd(weights[r], sample, acc[r][s]);
                }
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < DENSE_ROWS; r++)
#pragma GCC unroll 8
        for (int s = 0; s < samples; s++) sums[r][s] = acc[r][s];
    return 2 * pairs;
}

/* The function for a type and a number of samples. */
typedef int64_t direct_function(const dense_job *job, int64_t row, vf (*sums)[SRT_DENSE_BATCH]);

#define DIRECT(type, samples)                                                                                          \
    FN int64_t direct_##type##_##samples(const dense_job *job, int64_t row, vf(*sums)[SRT_DENSE_BATCH]) {              \
        return dense_direct(type, samples, job, row, sums);                                                            \
    }
#define DIRECT_TYPE(type) DIRECT(type, 1) DIRECT(type, 2) DIRECT(type, 3) DIRECT(type, 4)
DIRECT_TYPE(SRT_FLOAT16)
DIRECT_TYPE(SRT_BFLOAT16)
DIRECT_TYPE(SRT_INT8)
DIRECT_TYPE(SRT_INT4)
#define DIRECT_NAMES(type) [type] = {direct_##type##_1, direct_##type##_2, direct_##type##_3, direct_##type##_4}
static direct_function *const direct[SRT_WEIGHT_TYPES][SRT_DENSE_GROUP] = {
    DIRECT_NAMES(SRT_FLOAT16), DIRECT_NAMES(SRT_BFLOAT16), DIRECT_NAMES(SRT_INT8), DIRECT_NAMES(SRT_INT4)};

/* For weights that are decoded: chunks of a block, and floats from one row of a block to the next, an odd number of
 * lines. DENSE_ROWS rows of both take at most 13 KiB of the first-level cache. */
enum { DECODED_BLOCK = 16, DECODED_PITCH = (DECODED_BLOCK + 1) * SRT_DENSE_CHUNK };
_Static_assert((int)SRT_DENSE_CHUNK >= (int)DECODE_SLACK, "decoded rows may overwrite the gap between two rows");

/* Adds the products of `rows` rows from `row` on with all samples to the sums. */
V void dense_rows(const int rows, const dense_job *job, int64_t row, vf (*sums)[SRT_DENSE_BATCH]) {
    const int64_t inner = job->w.inner, chunks = inner / SRT_DENSE_CHUNK, rest = inner % SRT_DENSE_CHUNK;
    const int64_t sample = (chunks + (rest != 0)) * SRT_DENSE_CHUNK; /* floats of a sample, filled up to whole chunks */
    const int64_t groups = (job->batch + SRT_DENSE_GROUP - 1) / SRT_DENSE_GROUP;
    const bool coded = is_coded(&job->w);
    const float *w = coded ? NULL : floats_of(&job->w) + row * inner;
    _Alignas(64) float decoded[DENSE_ROWS * DECODED_PITCH];
    const int64_t pitch = coded ? DECODED_PITCH : inner;
    /* The chunk from which on the weights DENSE_AHEAD floats ahead are those of the next rows. */
    const int64_t turn = (inner - smaller(DENSE_AHEAD, inner) + SRT_DENSE_CHUNK - 1) / SRT_DENSE_CHUNK;
    const int64_t done = rows > 1 && is_direct(job) ? direct[job->w.type][job->batch - 1](job, row, sums) : 0;
    /* The last block also has the rest of a row, and may have no whole chunk. */
    for (int64_t c = done, block; c <= chunks; c += block) {
        block = coded ? DECODED_BLOCK : groups > 1 ? DENSE_BLOCK : c < turn ? turn - c : chunks - c + 1;
        const int64_t n = smaller(block, chunks - c), k = c * SRT_DENSE_CHUNK;
        const float *weights = decoded;
        uintptr_t next = 0;
        int64_t every = 0;
        if (coded) {
            const int64_t soon = k + DECODED_AHEAD, left = smaller(rows, job->rows - row - rows);
            if (soon < inner)
                fetch_codes(&job->w, row, rows, soon, n * SRT_DENSE_CHUNK);
            else if (soon - inner < inner) /* behind the end of these rows come the next rows */
                fetch_codes(&job->w, row + rows, left, soon - inner, n * SRT_DENSE_CHUNK);
            decode_rows(&job->w, row, rows, k, smaller(block * SRT_DENSE_CHUNK, inner - k), decoded, DECODED_PITCH);
        } else {
            /* Only the first group of samples reads weights from memory. If there are several, the next block is
             * fetched in parts, one with each group. After the last block of these rows comes the first block of the
             * next rows. */
            weights = w + k;
            next = (uintptr_t)weights;
            if (groups > 1) {
                next += float_bytes(c + n < chunks ? n * SRT_DENSE_CHUNK : rows * inner - k);
                every = groups;
            } else if (c < turn) {
                next += float_bytes(DENSE_AHEAD);
                every = DENSE_AHEAD != 0 && job->batch >= DENSE_FETCHED;
            } else {
                next += float_bytes(DENSE_AHEAD + (rows - 1) * inner);
                every = DENSE_AHEAD != 0;
            }
        }
        for (int64_t s = 0; s < job->batch; s += SRT_DENSE_GROUP) {
            int64_t samples = smaller(SRT_DENSE_GROUP, job->batch - s);
            const float *x = job->x + s * sample + k * samples;
            vf(*sum)[SRT_DENSE_BATCH] = (vf(*)[SRT_DENSE_BATCH]) & sums[0][s];
            switch (samples) {
            case 1:
                dense_chunks(rows, 1, weights, pitch, x, n, next, every, sum);
                break;
            case 2:
                dense_chunks(rows, 2, weights, pitch, x, n, next, every, sum);
                break;
            case 3:
                dense_chunks(rows, 3, weights, pitch, x, n, next, every, sum);
                break;
            default:
                dense_chunks(rows, 4, weights, pitch, x, n, next, every, sum);
            }
            next += float_bytes((n + groups - 1) / groups * SRT_DENSE_CHUNK); /* the part that this group fetched */
            if (c + n == chunks && n < block) {
                int64_t whole = n * SRT_DENSE_CHUNK;
                dense_rest(rows, samples, weights + whole, pitch, rest, x + whole * samples, sum);
            }
        }
    }
}

/* The sums of the lanes of `count` vectors, SRT_DENSE_BATCH vectors apart; count <= VL. Halves of vectors are added
 * until one lane is left. Each addition is for two vectors while there are several. */
V void dense_totals(const int count, const vf *sums, float *totals) {
    const int most = count > 4 ? 8 : count > 2 ? 4 : count; /* a power of two */
    vf v[8];
    float part[VL];
#pragma GCC unroll 8
    for (int i = 0; i < most; i++) v[i] = i < count ? sums[i * SRT_DENSE_BATCH] : splat(0.0f);
#pragma GCC unroll 4
    for (int width = VL, left = most; width > 1; width /= 2) {
        const int apart = left / 2; /* 0: one vector is left, and added to itself */
        left -= apart;
#pragma GCC unroll 4
        for (int i = 0; i < left; i++) v[i] = fold(v[i], v[i + apart], width);
    }
    store(part, v[0]); /* each total VL / most times */
#pragma GCC unroll 8
    for (int i = 0; i < count; i++) totals[i] = part[i * (VL / most)];
}

/* The outputs of `rows` rows from `row` on, without bias and activation. */
V void dense_tile(const int rows, const dense_job *job, int64_t row) {
    vf sums[DENSE_ROWS][SRT_DENSE_BATCH];
    for (int r = 0; r < rows; r++)
        for (int64_t s = 0; s < job->batch; s++) sums[r][s] = splat(0.0f);
    dense_rows(rows, job, row, sums);
    for (int64_t s = 0; s < job->batch; s++)
#pragma GCC unroll 2
        for (int r = 0; r < rows; r += VL)
            dense_totals(rows - r < VL ? rows - r : VL, &sums[r][s], job->y + s * job->stride + row + r);
}

FN void dense(const void *arguments, int64_t first, int64_t last) {
    const dense_job *job = arguments;
    int64_t begin = first * SRT_DENSE_UNIT, end = smaller(last * SRT_DENSE_UNIT, job->rows), row = begin;
    for (; row + DENSE_ROWS <= end; row += DENSE_ROWS) dense_tile(DENSE_ROWS, job, row);
    for (; row < end; row++) dense_tile(1, job, row);
    for (int64_t s = 0; s < job->batch; s++)
        finish_row(job->y + s * job->stride + begin, end - begin, job->bias ? job->bias + begin : NULL, job->act);
}

#endif
