/* pointwise.h - activations, biases, per-channel scales and slopes. */
#ifndef STREAMRT_POINTWISE_H
#define STREAMRT_POINTWISE_H

#include "activation.h"

FN void unary(const void *arguments, int64_t first, int64_t last) {
    const unary_job *job = arguments;
    activate(job->x + first, job->y + first, last - first, job->act);
}

/* Elements that are computed together: 8 KiB, so that an activation, which reads them again, finds them in the
 * first-level cache of at least 32 KiB. */
enum { PIECE = 2048 };

/* A range of elements is computed in pieces. A piece lies in one row of `cols` elements, and has at most PIECE. */
typedef struct {
    int64_t row, col, n;
} piece;

V piece first_piece(int64_t first, int64_t last, int64_t cols) {
    int64_t row = first / cols, col = first - row * cols;
    return (piece){row, col, smaller(smaller(cols - col, last - first), PIECE)};
}

/* The piece after p; `first` is where it begins. */
V piece next_piece(piece p, int64_t first, int64_t last, int64_t cols) {
    p.col += p.n;
    if (p.col == cols) {
        p.col = 0;
        p.row++;
    }
    p.n = smaller(smaller(cols - p.col, last - first), PIECE);
    return p;
}

#define FOR_PIECES(p, first, last, cols)                                                                               \
    for (piece p = first_piece((first), (last), (cols)); (first) < (last);                                             \
         (first) += p.n, p = next_piece(p, (first), (last), (cols)))

FN void bias(const void *arguments, int64_t first, int64_t last) {
    const bias_job *job = arguments;
    if (job->cols == 1 && job->stride == 1 && job->bias) { /* without gaps; each element has its own bias */
        finish_row(job->y + first, last - first, job->bias + first, job->act);
        return;
    }
    const vf low = splat(job->act->low), high = splat(job->act->high);
    FOR_PIECES(p, first, last, job->cols) {
        float *y = job->y + p.row * job->stride + p.col;
        const vf b = splat(job->bias ? job->bias[p.row] : 0.0f);
        MAP(y, y, p.n, clamp(v + b, low, high));
        if (job->act->separate) activate(y, y, p.n, job->act);
    }
}

/* For size == 1: each element belongs to another channel than the one before. */
FN void scale_shift_columns(const channel_job *job, int64_t first, int64_t last) {
    const vf low = splat(job->act->low), high = splat(job->act->high), zero = splat(0.0f);
    FOR_PIECES(p, first, last, job->channels) {
        const float *x = job->x + first, *scale = job->scale + p.col, *shift = job->shift + p.col;
        float *y = job->y + first;
        int64_t i = 0;
        for (; i + VL <= p.n; i += VL)
            store(y + i, clamp(muladd(load(x + i), load(scale + i), load(shift + i)), low, high));
        if (i < p.n) {
            vmask rest = lanes(0, p.n - i);
            vf v = muladd(load_mask(x + i, rest, zero), load_mask(scale + i, rest, zero),
                          load_mask(shift + i, rest, zero));
            store_first(y + i, first_lanes(p.n - i), clamp(v, low, high));
        }
        if (job->act->separate) activate(y, y, p.n, job->act);
    }
}

FN void scale_shift(const void *arguments, int64_t first, int64_t last) {
    const channel_job *job = arguments;
    if (job->size == 1) {
        scale_shift_columns(job, first, last);
        return;
    }
    const vf low = splat(job->act->low), high = splat(job->act->high);
    FOR_PIECES(p, first, last, job->size) {
        const float *x = job->x + first;
        float *y = job->y + first;
        const vf scale = splat(job->scale[p.row % job->channels]), shift = splat(job->shift[p.row % job->channels]);
        MAP(x, y, p.n, clamp(muladd(v, scale, shift), low, high));
        if (job->act->separate) activate(y, y, p.n, job->act);
    }
}

FN void prelu_columns(const channel_job *job, int64_t first, int64_t last) {
    const vf zero = splat(0.0f);
    FOR_PIECES(p, first, last, job->channels) {
        const float *x = job->x + first, *slope = job->scale + p.col;
        float *y = job->y + first;
        for (int64_t i = 0; i < p.n; i += VL) {
            vmask some = lanes(0, p.n - i);
            vf v = load_mask(x + i, some, zero);
            store_first(y + i, first_lanes(p.n - i), select_less(v, zero, v * load_mask(slope + i, some, zero), v));
        }
    }
}

FN void prelu(const void *arguments, int64_t first, int64_t last) {
    const channel_job *job = arguments;
    if (job->size == 1) {
        prelu_columns(job, first, last);
        return;
    }
    const vf zero = splat(0.0f);
    FOR_PIECES(p, first, last, job->size) {
        const float *x = job->x + first;
        float *y = job->y + first;
        const vf slope = splat(job->scale[p.row % job->channels]);
        MAP(x, y, p.n, select_less(v, zero, slope * v, v));
    }
}

#endif
