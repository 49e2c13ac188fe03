/* dense.h - products of many rows of weights with few samples. BLAS would copy the weights before it multiplies.
 *
 * Each weight is read once from memory, in order, and multiplied with all samples while it is in the first-level cache.
 * A sum belongs to one row and one sample. The order of its terms does not depend on other sums.
 */
#ifndef STREAMRT_DENSE_H
#define STREAMRT_DENSE_H

#include "activation.h"

/* Adds the products of `rows` rows with `samples` samples to the sums, over whole chunks. w (rows, inner) and
 * x (chunks, samples, SRT_DENSE_CHUNK), from the first chunk on. Meanwhile it fetches weights from `next` on: a chunk
 * of each row after every `every` chunks; 0: none. */
V void dense_chunks(const int rows, const int samples, const float *w, int64_t inner, const float *x, int64_t chunks,
                    const float *next, int64_t every, vf (*sums)[SRT_DENSE_BATCH]) {
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
                    __builtin_prefetch(next + r * inner);
                else
                    __builtin_prefetch(next + r * inner, 0, 2); /* a whole block is for the second-level cache */
            next += SRT_DENSE_CHUNK;
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

/* Adds the products of `rows` rows with all samples to the sums. */
V void dense_rows(const int rows, const dense_job *job, const float *w, vf (*sums)[SRT_DENSE_BATCH]) {
    const int64_t inner = job->inner, chunks = inner / SRT_DENSE_CHUNK, rest = inner % SRT_DENSE_CHUNK;
    const int64_t sample = (chunks + (rest != 0)) * SRT_DENSE_CHUNK; /* floats of a sample, filled up to whole chunks */
    /* The last block also has the rest of a row, and may have no whole chunk. */
    const int64_t groups = (job->batch + SRT_DENSE_GROUP - 1) / SRT_DENSE_GROUP;
    for (int64_t c = 0; c <= chunks; c += DENSE_BLOCK) {
        int64_t n = smaller(DENSE_BLOCK, chunks - c);
        /* The weights to fetch. Only the first group of samples reads weights from memory, so the next block is fetched
         * in parts, one with each group. After the last block of these rows comes the first block of the next rows. */
        const float *next = c + n < chunks ? w + (c + n) * SRT_DENSE_CHUNK : w + rows * inner;
        if (groups == 1) next = w + c * SRT_DENSE_CHUNK + DENSE_AHEAD;
        const int64_t every = groups == 1 && DENSE_AHEAD == 0 ? 0 : groups;
        for (int64_t s = 0; s < job->batch; s += SRT_DENSE_GROUP) {
            int64_t samples = smaller(SRT_DENSE_GROUP, job->batch - s);
            const float *part = w + c * SRT_DENSE_CHUNK, *x = job->x + s * sample + c * samples * SRT_DENSE_CHUNK;
            vf(*sum)[SRT_DENSE_BATCH] = (vf(*)[SRT_DENSE_BATCH]) & sums[0][s];
            switch (samples) {
            case 1:
                dense_chunks(rows, 1, part, inner, x, n, next, every, sum);
                break;
            case 2:
                dense_chunks(rows, 2, part, inner, x, n, next, every, sum);
                break;
            case 3:
                dense_chunks(rows, 3, part, inner, x, n, next, every, sum);
                break;
            default:
                dense_chunks(rows, 4, part, inner, x, n, next, every, sum);
            }
            next += (n + groups - 1) / groups * SRT_DENSE_CHUNK; /* the part that this group fetched */
            if (c + n == chunks && n < DENSE_BLOCK) {
                int64_t whole = n * SRT_DENSE_CHUNK;
                dense_rest(rows, samples, part + whole, inner, rest, x + whole * samples, sum);
            }
        }
    }
}

V float dense_total(vf v) {
    float part[VL];
    store(part, v);
    for (int width = VL / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++) part[i] += part[i + width];
    return part[0];
}

FN void dense(const void *arguments, int64_t first, int64_t last) {
    const dense_job *job = arguments;
    int64_t begin = first * SRT_DENSE_UNIT, end = smaller(last * SRT_DENSE_UNIT, job->rows);
    for (int64_t r = begin; r < end;) {
        vf sums[DENSE_ROWS][SRT_DENSE_BATCH];
        const float *w = job->w + r * job->inner;
        int64_t rows = end - r >= DENSE_ROWS ? DENSE_ROWS : 1;
        for (int64_t i = 0; i < rows; i++)
            for (int64_t s = 0; s < job->batch; s++) sums[i][s] = splat(0.0f);
        if (rows > 1)
            dense_rows(DENSE_ROWS, job, w, sums);
        else
            dense_rows(1, job, w, sums);
        for (int64_t i = 0; i < rows; i++, r++)
            for (int64_t s = 0; s < job->batch; s++) job->y[s * job->stride + r] = dense_total(sums[i][s]);
    }
    for (int64_t s = 0; s < job->batch; s++)
        finish_row(job->y + s * job->stride + begin, end - begin, job->bias ? job->bias + begin : NULL, job->act);
}

#endif
