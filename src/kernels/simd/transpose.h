/* transpose.h - from feature-major (rows, batch) to (batch, rows), with bias and activation. */
#ifndef STREAMRT_TRANSPOSE_H
#define STREAMRT_TRANSPOSE_H

#include "activation.h"

/* Rows and columns of a block of t: 16 KiB. The block and its transpose together fit a first-level cache of 32 KiB. */
enum { BLOCK_ROWS = 128, BLOCK_BATCH = 32 };

/* y[j][i] = t[i][j] for a block of t (rows, batch). */
FN void transpose_block(const float *t, int64_t t_stride, int64_t rows, int64_t batch, float *y, int64_t y_stride) {
    int64_t whole_rows = rows - rows % TILE, whole_batch = batch - batch % TILE;
    for (int64_t j = 0; j < whole_batch; j += TILE) {
        for (int64_t i = 0; i < whole_rows; i += TILE)
            transpose_tile(t + i * t_stride + j, t_stride, y + j * y_stride + i, y_stride);
        for (int64_t k = j; k < j + TILE; k++)
            for (int64_t i = whole_rows; i < rows; i++) y[k * y_stride + i] = t[i * t_stride + k];
    }
    for (int64_t j = whole_batch; j < batch; j++)
        for (int64_t i = 0; i < rows; i++) y[j * y_stride + i] = t[i * t_stride + j];
}

FN void transpose(const void *arguments, int64_t first, int64_t last) {
    const transpose_job *job = arguments;
    for (int64_t i0 = first; i0 < last; i0 += BLOCK_ROWS) {
        int64_t rows = smaller(BLOCK_ROWS, last - i0);
        const float *b = job->bias ? job->bias + i0 : NULL;
        for (int64_t j0 = 0; j0 < job->batch; j0 += BLOCK_BATCH) {
            int64_t batch = smaller(BLOCK_BATCH, job->batch - j0);
            float *y = job->y + j0 * job->stride + i0;
            transpose_block(job->t + i0 * job->batch + j0, job->batch, rows, batch, y, job->stride);
            for (int64_t j = 0; j < batch; j++) finish_row(y + j * job->stride, rows, b, job->act);
        }
    }
}

#endif
