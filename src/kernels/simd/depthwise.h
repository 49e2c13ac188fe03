/* depthwise.h - convolution of one channel with one window. With a square window each input is read once, for all its
 * outputs.
 *
 * A strip of columns is computed from top to bottom. The sums of all outputs that read an input row are in registers;
 * with stride 1 there are as many as the window has rows. If a plane is at most half a vector wide, channels lie across
 * the lanes instead. The terms of a sum are in the order of the weights.
 */
#ifndef STREAMRT_DEPTHWISE_H
#define STREAMRT_DEPTHWISE_H

#include "rows.h"
#include "transpose.h"
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

/* With stride 2, an input row is fetched so many rows before it is read. A strip goes down a plane, so the processor
 * does not see that all its lines are read in turn, and a row has twice the lines that it has with stride 1. */
enum { ROLL_AHEAD = 8 };

/* Computes output rows p->first..p->last of the columns column..column + n. n <= strips * VL. */
V void roll(const int k, const int stride, const int strips, const bool masked, const window_plane *p, int64_t column,
            int64_t n) {
    const srt_window *w = p->window;
    const int live = (k - 1) / stride; /* outputs that begin before the first output ends */
    /* copies, because the compiler has to assume that writing outputs changes the originals */
    const int64_t first = p->first + live, last = p->last + live;
    const int64_t height = w->input[0], width = w->input[1], above = w->before[0];
    const int64_t x_row = p->x_row, y_row = p->y_row;
    const vf low = p->low, high = p->high, bias = splat(p->bias);
    float by[ROWS_MOST * ROWS_MOST];
    int64_t at[ROLL_STRIPS];
    vmask inside[ROLL_STRIPS][ROWS_MOST];
    vfirst there[ROLL_STRIPS];
    vf sum[ROLL_STRIPS][ROWS_MOST]; /* sum[.][i] belongs to output row o - i */
    for (int i = 0; i < k * k; i++) by[i] = p->weights[i];
    for (int t = 0; t < strips; t++) {
        at[t] = (column + t * VL) * stride - w->before[1];
        row_inside(k, stride, at[t], width, inside[t]);
        there[t] = first_lanes(n - t * VL);
        for (int i = 0; i <= live; i++) sum[t][i] = bias;
    }
    float *y = p->y + p->first * y_row + column;
    for (int64_t o = p->first, i = o * stride - above; o < last; o++) {
#pragma GCC unroll 2
        for (int phase = 0; phase < stride; phase++, i++) {
            if (i >= 0 && i < height)
#pragma GCC unroll 2
                for (int t = 0; t < strips; t++) {
                    const float *soon = p->x + smaller(i + ROLL_AHEAD, height - 1) * x_row + at[t];
                    if (stride > 1) {
                        __builtin_prefetch(soon);
                        __builtin_prefetch(soon + VL);
                    }
                    roll_row(k, stride, phase, masked, p->x + i * x_row + at[t], inside[t], by, sum[t]);
                }
            if (phase == (k - 1) % stride && o >= first) {
#pragma GCC unroll 2
                for (int t = 0; t < strips; t++) store_first(y + t * VL, there[t], clamp(sum[t][live], low, high));
                y += y_row;
            }
        }
#pragma GCC unroll 2
        for (int t = 0; t < strips; t++) {
            vf next[ROWS_MOST]; /* a loop within one array becomes a memmove in clang, for which it lies in memory */
            next[0] = bias;
#pragma GCC unroll 8
            for (int m = 0; m < live; m++) next[m + 1] = sum[t][m];
#pragma GCC unroll 8
            for (int m = 0; m <= live; m++) sum[t][m] = next[m];
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

/* Positions of a plane that is small, at most, and with padding for a window of ROWS_MOST x ROWS_MOST. The most are
 * those of a plane that is one position wide. */
enum { SMALL_PLANE = 64, SMALL_PADDED = (SMALL_PLANE + ROWS_MOST - 1) * ROWS_MOST };

/* Pictures whose rows would leave half of the lanes of a vector empty, with outputs of the same size, and without
 * padding that no window reads. Channels lie across the lanes instead. */
V bool is_small(const srt_window *w) {
    for (int axis = 0; axis < SRT_WINDOW_AXES; axis++)
        if (w->stride[axis] != 1 || w->output[axis] != w->input[axis] || w->before[axis] >= w->kernel[axis])
            return false;
    return w->input[2] == 1 && 2 * w->output[1] <= VL && w->output[0] <= SMALL_PLANE / w->output[1];
}

/* Sets out (count, VL) to the transpose of n <= VL rows of `count` floats, which lie `pitch` floats apart. Lanes from n
 * on are zero. */
V void to_lanes(const float *rows, int64_t pitch, int64_t n, int64_t count, float *out) {
    if (n < VL) memset(out, 0, sizeof *out * (size_t)(count * VL));
    transpose_block(rows, pitch, n, count, out, VL);
}

/* Computes a row of `count` outputs of VL channels. x: its first input, in rows of `pitch` vectors; w (taps, VL). */
V void small_row(const int count, const srt_window *window, const float *x, int64_t pitch, const float *w,
                 const window_plane *p, vf bias, float *y) {
    vf sum[VL / 2];
#pragma GCC unroll 8
    for (int c = 0; c < count; c++) sum[c] = bias;
    for (int64_t i = 0; i < window->kernel[0]; i++, x += pitch * VL)
        for (int64_t j = 0; j < window->kernel[1]; j++, w += VL) {
            const vf by = load(w);
#pragma GCC unroll 8
            for (int c = 0; c < count; c++) sum[c] = muladd(load(x + (j + c) * VL), by, sum[c]);
        }
#pragma GCC unroll 8
    for (int c = 0; c < count; c++) store(y + c * VL, clamp(sum[c], p->low, p->high));
}

#define SMALL_CASE(count)                                                                                              \
    case count:                                                                                                        \
        if (2 * count <= VL) small_row(2 * count <= VL ? count : 1, w, from, pitch, weights, p, bias, to);             \
        break;

/* Computes a band of n <= VL planes of neighbouring channels, each with an input plane of its own. p: the first plane;
 * biases: theirs, or NULL; padded: the inputs that the band reads, with their padding, which is zero. */
FN void small_planes(const window_job *job, const window_plane *p, const float *biases, int64_t n, float *padded) {
    const srt_window *w = p->window;
    const srt_steps x = job->x_steps;
    const int64_t height = w->output[0], width = w->output[1], taps = w->kernel[0] * w->kernel[1];
    const int64_t pitch = width + w->kernel[1] - 1, above = w->before[0];
    const int64_t top = above < 0 ? -above : 0, end = smaller(w->input[0], height + w->kernel[0] - 1 - above);
    float dense[SMALL_PLANE * VL], weights[ROWS_MOST * ROWS_MOST * VL];
    const vf bias = biases ? load_mask(biases, lanes(0, n), splat(0.0f)) : splat(0.0f);
    to_lanes(p->weights, taps, n, taps, weights);
    const int64_t together = x.row == width ? end - top : 1; /* rows without gaps */
    for (int64_t row = top; row < end; row += together)
        to_lanes(p->x + row * x.row, x.plane, n, together * width, dense + (row - top) * width * VL);
    const float *next = dense;
    for (int64_t row = top; row < end; row++) {
        float *to = padded + ((row + above) * pitch + w->before[1]) * VL;
        for (int64_t col = 0; col < width; col++, to += VL, next += VL) store(to, load(next));
    }
    for (int64_t row = 0; row < height; row++) {
        const float *from = padded + row * pitch * VL;
        float *to = dense + row * width * VL;
        switch (width) {
            SMALL_CASE(1)
            SMALL_CASE(2)
            SMALL_CASE(3)
            SMALL_CASE(4)
            SMALL_CASE(5)
            SMALL_CASE(6)
            SMALL_CASE(7)
            SMALL_CASE(8)
        }
    }
    const srt_steps y = job->y_steps;
    const int64_t lines = y.row == width ? 1 : height; /* pieces without gaps */
    for (int64_t line = 0; line < lines; line++)
        transpose_block(dense + line * width * VL, VL, height / lines * width, n, p->y + line * y.row, y.plane);
}

typedef void depthwise_plane(const window_plane *p);

/* The loop for a window; NULL if the window has no loop of its own. The loops read one input plane. */
V depthwise_plane *roll_for(const srt_window *w) {
    if (w->kernel[2] != 1 || w->before[2] != 0 || w->after[2] != 0) return NULL;
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

/* Applies an activation to the rows first..last of planes of y. */
FN void activate_rows(const window_job *job, float *y, int64_t planes, int64_t first, int64_t last) {
    const int64_t width = job->window->output[1], height = last - first;
    const srt_steps steps = job->y_steps;
    /* rows and planes without gaps between them */
    const int64_t rows = steps.row == width ? height : 1;
    const int64_t together = rows == height && steps.plane == height * width ? planes : 1;
    for (int64_t plane = 0; plane < planes; plane += together)
        for (int64_t row = first; row < last; row += rows) {
            float *from = y + plane * steps.plane + row * steps.row;
            activate(from, from, together * rows * width, job->act);
        }
}

FN void depthwise(const void *arguments, int64_t first, int64_t last) {
    const window_job *job = arguments;
    const srt_window *w = job->window;
    const srt_steps x_steps = job->x_steps, y_steps = job->y_steps;
    depthwise_plane *roll = roll_for(w), *plane_of = roll ? roll : any_plane;
    const bool small = roll && job->multiplier == 1 && is_small(job->picture);
    float padded[SMALL_PADDED * VL];
    const int64_t wide = w->output[1] + w->kernel[1] - 1, high = w->output[0] + w->kernel[0] - 1;
    if (small) memset(padded, 0, sizeof *padded * (size_t)(high * wide * VL));
    const int64_t samples = job->volumes / job->span, taps = srt_volume(w->kernel);
    int64_t band = first / job->volumes, place = first % job->volumes;
    int64_t sample = place / job->span, channel = job->first + place % job->span;
    window_plane p = {
        .window = w,
        .x_row = x_steps.row,
        .y_row = y_steps.row,
        .low = splat(job->act->low),
        .high = splat(job->act->high),
    };
    for (int64_t n; first < last; first += n) {
        const int64_t volume = sample * job->channels_in_total + channel;
        const float *x = job->x + (job->multiplier == 1 ? volume : volume / job->multiplier) * x_steps.plane;
        const float *weights = job->w + channel * taps, *biases = job->bias ? job->bias + channel : NULL;
        float *y = job->y + volume * y_steps.plane;
        n = 1;
        if (small) { /* planes are not cut: the units of their first bands have all rows */
            n = smaller(smaller(VL, last - first), job->first + job->span - channel);
            if (band == 0) {
                p.x = x, p.y = y, p.weights = weights, p.last = w->output[0];
                small_planes(job, &p, biases, n, padded);
                if (job->act->separate) activate_rows(job, y, n, 0, p.last);
            }
        } else {
            p.bias = biases ? *biases : 0.0f;
            p.first = band * w->output[0] / job->bands;
            p.last = (band + 1) * w->output[0] / job->bands;
            for (int64_t depth = 0; depth < w->output[2]; depth++) {
                plane_at_depth(&p, x, y, weights, depth);
                plane_of(&p);
                if (job->act->separate) activate_rows(job, p.y, 1, p.first, p.last);
            }
        }
        /* the next unit, without divisions: they would take as long as a small plane */
        channel += n;
        if (channel < job->first + job->span) continue;
        channel = job->first;
        if (++sample < samples) continue;
        sample = 0;
        band++;
    }
}

#endif
