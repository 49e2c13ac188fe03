/* dense_blocks.h - src/kernels/simd/dense.h and dense_wide.h for weights in blocks of rows: the lanes are rows. */
#ifndef STREAMRT_DENSE_BLOCKS_H
#define STREAMRT_DENSE_BLOCKS_H

#include "activation.h"
#include "decode.h"

/* Vectors of a block, and the terms that lie this far ahead are fetched. */
enum { BLOCK_VECTORS = (SRT_BLOCK + VL - 1) / VL, BLOCK_AHEAD = 64 };

/* The sums of a block of `height` rows with `samples` samples, `turns` terms at a time, so that sums do not wait for
 * each other. x: as srt_dense has a group. */
V void block_few(const int samples, const int turns, const float *w, int64_t height, int64_t inner, const float *x,
                 float sums[SRT_DENSE_GROUP][SRT_BLOCK + VL]) {
    vf sum[SRT_DENSE_GROUP * 4][BLOCK_VECTORS];
    vmask some[BLOCK_VECTORS];
#pragma GCC unroll 2
    for (int v = 0; v < BLOCK_VECTORS; v++) some[v] = lanes(0, height - v * VL);
#pragma GCC unroll 16
    for (int i = 0; i < samples * turns; i++)
#pragma GCC unroll 2
        for (int v = 0; v < BLOCK_VECTORS; v++) sum[i][v] = splat(0.0f);
    for (int64_t chunk = 0; chunk < inner; chunk += SRT_DENSE_CHUNK, x += samples * SRT_DENSE_CHUNK) {
        const int64_t most = smaller(SRT_DENSE_CHUNK, inner - chunk);
        for (int64_t line = 0; line < SRT_BLOCK; line++)
            __builtin_prefetch(w + BLOCK_AHEAD * SRT_BLOCK + line * CONV_LINE);
        for (int64_t k = 0; k < most; k += turns)
#pragma GCC unroll 4
            for (int turn = 0; turn < turns; turn++, w += height) {
                if (k + turn >= most) break;
                vf weights[BLOCK_VECTORS];
#pragma GCC unroll 2
                for (int v = 0; v < BLOCK_VECTORS; v++) weights[v] = load_mask(w + v * VL, some[v], splat(0.0f));
#pragma GCC unroll 4
                for (int s = 0; s < samples; s++) {
                    const vf number = splat(x[s * SRT_DENSE_CHUNK + k + turn]);
#pragma GCC unroll 2
                    for (int v = 0; v < BLOCK_VECTORS; v++)
                        sum[s * turns + turn][v] = muladd(weights[v], number, sum[s * turns + turn][v]);
                }
            }
    }
#pragma GCC unroll 4
    for (int s = 0; s < samples; s++)
#pragma GCC unroll 2
        for (int v = 0; v < BLOCK_VECTORS; v++) {
            vf total = sum[s * turns][v];
#pragma GCC unroll 4
            for (int turn = 1; turn < turns; turn++) total += sum[s * turns + turn][v];
            store(sums[s] + v * VL, total);
        }
}

FN void dense(const void *arguments, int64_t first, int64_t last) {
    const dense_job *job = arguments;
    const int64_t inner = job->w.inner, begin = first * SRT_BLOCK, end = smaller(last * SRT_BLOCK, job->rows);
    const int64_t sample = (inner + SRT_DENSE_CHUNK - 1) / SRT_DENSE_CHUNK * SRT_DENSE_CHUNK;
    for (int64_t row = begin; row < end; row += SRT_BLOCK) {
        const int64_t height = smaller(SRT_BLOCK, end - row);
        const float *w = floats_of(&job->w) + row * inner;
        for (int64_t s = 0; s < job->batch; s += SRT_DENSE_GROUP) {
            float sums[SRT_DENSE_GROUP][SRT_BLOCK + VL];
            const float *x = job->x + s * sample;
            const int64_t samples = smaller(SRT_DENSE_GROUP, job->batch - s);
            if (samples == 1)
                block_few(1, 4, w, height, inner, x, sums);
            else if (samples == 2)
                block_few(2, 2, w, height, inner, x, sums);
            else if (samples == 3)
                block_few(3, 1, w, height, inner, x, sums);
            else
                block_few(4, VL == 16 ? 2 : 1, w, height, inner, x, sums);
            for (int64_t i = 0; i < samples; i++)
                memcpy(job->y + (s + i) * job->stride + row, sums[i], (size_t)height * sizeof(float));
        }
    }
    for (int64_t s = 0; s < job->batch; s++)
        finish_row(job->y + s * job->stride + begin, end - begin, job->bias ? job->bias + begin : NULL, job->act);
}

enum { WIDE_VECTORS = SRT_DENSE_WIDE / VL, WIDE_TERMS = 64 };

/* Adds the products of `rows` rows of a block with all samples to the sums, over n terms. x (n, SRT_DENSE_WIDE). */
V void block_wide(const int rows, const float *w, int64_t height, const float *x, int64_t n, float *sums) {
    vf acc[SRT_BLOCK][WIDE_VECTORS];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < WIDE_VECTORS; v++) acc[r][v] = load(sums + r * SRT_DENSE_WIDE + v * VL);
    for (int64_t k = 0; k < n; k++, x += SRT_DENSE_WIDE, w += height) {
        vf samples[WIDE_VECTORS];
        __builtin_prefetch(w + BLOCK_AHEAD * SRT_BLOCK);
#pragma GCC unroll 2
        for (int v = 0; v < WIDE_VECTORS; v++) samples[v] = load(x + v * VL);
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            const vf weight = splat(w[r]);
#pragma GCC unroll 2
            for (int v = 0; v < WIDE_VECTORS; v++) acc[r][v] = muladd(weight, samples[v], acc[r][v]);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < WIDE_VECTORS; v++) store(sums + r * SRT_DENSE_WIDE + v * VL, acc[r][v]);
}

FN void dense_wide(const void *arguments, int64_t first, int64_t last) {
    const dense_job *job = arguments;
    const int64_t inner = job->w.inner, begin = first * SRT_BLOCK, end = smaller(last * SRT_BLOCK, job->rows);
    for (int64_t row = begin; row < end; row += SRT_BLOCK) {
        _Alignas(64) float sums[SRT_BLOCK * SRT_DENSE_WIDE] = {0};
        const int64_t height = smaller(SRT_BLOCK, end - row);
        const float *w = floats_of(&job->w) + row * inner;
        for (int64_t k = 0; k < inner; k += WIDE_TERMS, w += WIDE_TERMS * height) {
            const float *x = job->x + k * SRT_DENSE_WIDE;
            const int64_t n = smaller(WIDE_TERMS, inner - k);
            if (height < SRT_BLOCK)
                for (int64_t r = 0; r < height; r++) block_wide(1, w + r, height, x, n, sums + r * SRT_DENSE_WIDE);
            else if (WIDE_VECTORS == 1)
                block_wide(SRT_BLOCK, w, SRT_BLOCK, x, n, sums);
            else
                for (int64_t r = 0; r < SRT_BLOCK; r += SRT_BLOCK / 2)
                    block_wide(SRT_BLOCK / 2, w + r, SRT_BLOCK, x, n, sums + r * SRT_DENSE_WIDE);
        }
        for (int64_t s = 0; s < job->batch; s++)
            for (int64_t r = 0; r < height; r++) job->y[s * job->stride + row + r] = sums[r * SRT_DENSE_WIDE + s];
    }
    for (int64_t s = 0; s < job->batch; s++)
        finish_row(job->y + s * job->stride + begin, end - begin, job->bias ? job->bias + begin : NULL, job->act);
}

#endif
