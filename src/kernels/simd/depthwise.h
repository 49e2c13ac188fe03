/* depthwise.h - convolution of one plane with one square window. Each input is read once, for all its outputs.
 *
 * A strip of columns is computed from top to bottom. The sums of all outputs that read an input row are in registers;
 * with stride 1 there are as many as the window has rows. A plane that is at most half a vector wide is one row
 * instead, and inputs that would wrap around are masked. The terms of a sum are in the order of the weights.
 */
#ifndef STREAMRT_DEPTHWISE_H
#define STREAMRT_DEPTHWISE_H

#include "rows.h"
#include "window.h"

/* Adds an input row of a strip to the sums of all outputs that read it. For sum[m] it is row phase + m * stride of the
 * window. */
V void roll_row(const int k, const int stride, const int phase, const bool masked, const float *row,
                const vmask *inside, const float *by, vf *sum) {
    vf v[ROWS_MOST], q[ROWS_MOST];
#pragma GCC unroll 8
    for (int j = 0; j < k; j++) {
        const float *from = row + row_vector(stride, j);
        v[j] = masked ? load_mask(from, inside[j], splat(0.0f)) : load(from);
    }
    row_columns(k, stride, v, q);
#pragma GCC unroll 8
    for (int m = 0; m <= (k - 1) / stride; m++)
#pragma GCC unroll 8
        for (int j = 0; j < k && phase + m * stride < k; j++)
            sum[m] = muladd(q[j], splat(by[(phase + m * stride) * k + j]), sum[m]);
}

/* Computes output rows p->first..p->last of the columns column..column + n. n <= strips * VL. */
V void roll(const int k, const int stride, const int strips, const bool masked, const window_plane *p, int64_t column,
            int64_t n) {
    const srt_window *w = p->window;
    const int live = (k - 1) / stride; /* outputs that begin before the first output ends */
    /* copies, because the compiler has to assume that writing outputs changes the originals */
    const int64_t first = p->first + live, last = p->last + live;
    const int64_t height = w->input[0], width = w->input[1], above = w->before[0], across = w->output[1];
    const vf low = p->low, high = p->high, bias = splat(p->bias);
    float by[ROWS_MOST * ROWS_MOST];
    int64_t at[ROLL_STRIPS];
    vmask inside[ROLL_STRIPS][ROWS_MOST], there[ROLL_STRIPS];
    vf sum[ROLL_STRIPS][ROWS_MOST]; /* sum[.][i] belongs to output row o - i */
    for (int i = 0; i < k * k; i++) by[i] = p->weights[i];
    for (int t = 0; t < strips; t++) {
        at[t] = (column + t * VL) * stride - w->before[1];
        row_inside(k, stride, at[t], width, inside[t]);
        there[t] = lanes(0, n - t * VL);
        for (int i = 0; i <= live; i++) sum[t][i] = bias;
    }
    float *y = p->y + p->first * across + column;
    for (int64_t o = p->first, i = o * stride - above; o < last; o++) {
#pragma GCC unroll 2
        for (int phase = 0; phase < stride; phase++, i++) {
            if (i >= 0 && i < height)
#pragma GCC unroll 2
                for (int t = 0; t < strips; t++)
                    roll_row(k, stride, phase, masked, p->x + i * width + at[t], inside[t], by, sum[t]);
            if (phase == (k - 1) % stride && o >= first) {
#pragma GCC unroll 2
                for (int t = 0; t < strips; t++) store_mask(y + t * VL, there[t], clamp(sum[t][live], low, high));
                y += across;
            }
        }
#pragma GCC unroll 2
        for (int t = 0; t < strips; t++) {
#pragma GCC unroll 8
            for (int m = live; m > 0; m--) sum[t][m] = sum[t][m - 1];
            sum[t][0] = bias;
        }
    }
}

V void roll_plane(const int k, const int stride, const window_plane *p) {
    const srt_window *w = p->window;
    const int64_t columns = w->output[1];
    for (int64_t column = 0; column < columns;) {
        const int strips = columns - column > VL ? ROLL_STRIPS : 1;
        const int64_t n = smaller(strips * VL, columns - column);
        const int64_t at = column * stride - w->before[1], last = at + (strips - 1) * VL * stride;
        const bool masked = at < 0 || !row_is_whole(k, stride, last, w->input[1]);
        if (strips > 1 && masked)
            roll(k, stride, ROLL_STRIPS, true, p, column, n);
        else if (strips > 1)
            roll(k, stride, ROLL_STRIPS, false, p, column, n);
        else if (masked)
            roll(k, stride, 1, true, p, column, n);
        else
            roll(k, stride, 1, false, p, column, n);
        column += n;
    }
}

/* Each window has a function of its own: in a larger one the compiler keeps nothing in registers. */
#define ROLL(k, stride)                                                                                                \
    FN void roll_##k##_##stride(const window_plane *p) {                                                               \
        roll_plane(k, stride, p);                                                                                      \
    }
ROLL(3, 1)
ROLL(3, 2)
ROLL(5, 1)
ROLL(5, 2)
ROLL(7, 1)
ROLL(7, 2)

/* Vectors of a plane that is computed as one row, at most. */
enum { FLAT_VECTORS = 4 };

/* For every tap of the window: the lanes of the plane whose input is not padding. */
typedef struct {
    vmask inside[ROWS_MOST * ROWS_MOST][FLAT_VECTORS];
} flat_masks;

V bool is_flat(const srt_window *w) {
    for (int axis = 0; axis < 2; axis++)
        if (w->stride[axis] != 1 || w->output[axis] != w->input[axis]) return false;
    return 2 * w->output[1] <= VL && w->output[0] <= FLAT_VECTORS * VL / w->output[1];
}

FN void find_flat(const srt_window *w, flat_masks *masks) {
    for (int64_t tap = 0; tap < w->kernel[0] * w->kernel[1]; tap++) {
        const int64_t down = tap / w->kernel[1] - w->before[0], right = tap % w->kernel[1] - w->before[1];
        const span rows = valid_outputs(down, 1, w->input[0], w->output[0]);
        const span cols = valid_outputs(right, 1, w->input[1], w->output[1]);
        uint64_t bits = 0;
        for (int64_t o = rows.first; o < rows.last; o++)
            bits |= ((UINT64_C(1) << cols.last) - (UINT64_C(1) << cols.first)) << o * w->output[1];
        for (int v = 0; v < FLAT_VECTORS; v++) masks->inside[tap][v] = mask_of((uint32_t)(bits >> v * VL));
    }
}

/* Computes a whole plane as one row. */
FN void flat_plane(const window_plane *p, const flat_masks *masks) {
    const srt_window *w = p->window;
    const int64_t positions = w->output[0] * w->output[1], width = w->input[1];
    const float *row = p->x - w->before[0] * width - w->before[1], *weight = p->weights;
    const vf low = p->low, high = p->high;
    vf sum[FLAT_VECTORS];
    for (int v = 0; v < FLAT_VECTORS; v++) sum[v] = splat(p->bias);
    int tap = 0;
    for (int64_t i = 0; i < w->kernel[0]; i++, row += width)
        for (int64_t j = 0; j < w->kernel[1]; j++, tap++) {
            const vf by = splat(*weight++);
#pragma GCC unroll 4
            for (int v = 0; v < FLAT_VECTORS; v++)
                sum[v] = muladd(load_mask(row + j + v * VL, masks->inside[tap][v], splat(0.0f)), by, sum[v]);
        }
    for (int v = 0; v < FLAT_VECTORS; v++)
        store_mask(p->y + v * VL, lanes(0, positions - v * VL), clamp(sum[v], low, high));
}

typedef void depthwise_plane(const window_plane *p);

/* The loop for a window; NULL if the window has no loop of its own. */
V depthwise_plane *roll_for(const srt_window *w) {
    for (int axis = 0; axis < 2; axis++)
        if (w->dilation[axis] != 1 || w->stride[axis] != w->stride[0] || w->kernel[axis] != w->kernel[0]) return NULL;
    const bool once = w->stride[0] == 1;
    if (!once && w->stride[0] != 2) return NULL;
    switch (w->kernel[0]) {
    case 3:
        return once ? roll_3_1 : roll_3_2;
    case 5:
        return once ? roll_5_1 : roll_5_2;
    case 7:
        return once ? roll_7_1 : roll_7_2;
    default:
        return NULL;
    }
}

FN void any_plane(const window_plane *p) {
    window_rows(p, DEPTHWISE);
}

FN void depthwise(const void *arguments, int64_t first, int64_t last) {
    const window_job *job = arguments;
    const srt_window *w = job->window;
    const int64_t input = w->input[0] * w->input[1], output = w->output[0] * w->output[1];
    depthwise_plane *roll = roll_for(w), *plane_of = roll ? roll : any_plane;
    const bool flat = roll && is_flat(w), whole = flat || job->bands == 1;
    flat_masks masks;
    if (flat) find_flat(w, &masks);
    const int64_t samples = job->planes / job->span;
    int64_t band = first / job->planes, place = first % job->planes;
    int64_t sample = place / job->span, channel = job->first + place % job->span;
    for (; first < last; first++) {
        /* a plane that is one row is not cut, so that results do not depend on the number of bands */
        const int64_t rows = w->output[0], from = whole ? 0 : band * rows / job->bands;
        const int64_t to = !whole ? (band + 1) * rows / job->bands : band == 0 ? rows : 0;
        const int64_t plane = sample * job->channels_in_total + channel;
        window_plane p = {
            .x = job->x + (job->multiplier == 1 ? plane : plane / job->multiplier) * input,
            .y = job->y + plane * output,
            .weights = job->w + channel * w->kernel[0] * w->kernel[1],
            .bias = job->bias ? job->bias[channel] : 0.0f,
            .window = w,
            .first = from,
            .last = to,
            .low = splat(job->act->low),
            .high = splat(job->act->high),
        };
        if (!flat)
            plane_of(&p);
        else if (band == 0)
            flat_plane(&p, &masks);
        if (job->act->separate) {
            float *y = p.y + p.first * w->output[1];
            activate(y, y, (p.last - p.first) * w->output[1], job->act);
        }
        /* the next unit, without divisions: they would take as long as a small plane */
        if (++channel < job->first + job->span) continue;
        channel = job->first;
        if (++sample < samples) continue;
        sample = 0;
        band++;
    }
}

#endif
