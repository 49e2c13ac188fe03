/* window.h - a window that slides over volumes: depthwise convolution, max and average pooling.
 *
 * Neighbouring outputs of a row are computed together, a vector at a time. Each tap of the kernel adds the vector of
 * inputs at its distance. Lanes in the padding are masked, so that borders need no code of their own. Masks depend on
 * the columns only, and are made once for all rows. The planes of a volume are computed one after the other.
 */
#ifndef STREAMRT_WINDOW_H
#define STREAMRT_WINDOW_H

#include "activation.h"
#include "rows.h"
#include "span.h"

typedef enum { DEPTHWISE, MAX_POOL, AVERAGE_POOL } window_kind;

/* How the inputs of a tap are read. */
typedef enum {
    ADJACENT,        /* stride 1, no padding */
    ADJACENT_MASKED, /* stride 1 */
    EVEN,            /* stride 2, no padding */
    EVEN_MASKED,     /* stride 2 */
    ANY,             /* any stride, lane by lane */
} window_access;

/* Kernel columns whose masks are kept at most; wider kernels are read lane by lane. */
enum { MAX_TAPS = 32 };

typedef struct {
    int64_t at; /* input column of lane 0 */
    vmask low, high;
} window_tap;

/* An output plane. Its window has `deep` planes that lie in the input. */
typedef struct {
    const float *x;       /* the first of the input planes (h, w) that it reads; the next are `apart` elements apart */
    float *y;             /* (oh, ow): the output plane */
    const float *weights; /* (deep, kh, kw), depthwise only */
    float bias;
    const srt_window *window;
    int64_t first, last; /* output rows */
    int64_t deep, apart;
    int64_t x_row, y_row; /* elements from one row to the next */
    vf low, high;         /* clamp */
    bool count_padding;
    float counted; /* for average pooling: planes of the window that count */
} window_plane;

/* The taps of the window at output o whose inputs lie in `from`..`to`. */
V span window_taps_inside(const srt_window *w, int axis, int64_t o, int64_t from, int64_t to) {
    return valid_outputs(o * w->stride[axis] - w->before[axis] - from, w->dilation[axis], to - from, w->kernel[axis]);
}

/* The number of taps of the window at output o that lie in the input, or in the padded input. */
V int64_t window_count(const srt_window *w, int axis, int64_t o, bool count_padding) {
    span s = count_padding ? window_taps_inside(w, axis, o, -w->before[axis], w->input[axis] + w->after[axis])
                           : window_taps_inside(w, axis, o, 0, w->input[axis]);
    return s.last - s.first;
}

/* Makes p the output plane at `depth` of a volume. x, y: the volumes; weights (kd, kh, kw), depthwise only. */
V void plane_at_depth(window_plane *p, const float *x, float *y, const float *weights, int64_t depth) {
    const srt_window *w = p->window;
    const int64_t plane = w->input[0] * p->x_row;
    const span taps = window_taps_inside(w, 2, depth, 0, w->input[2]);
    p->y = y + depth * w->output[0] * p->y_row;
    p->deep = taps.last - taps.first;
    if (p->deep == 0) return;
    p->x = x + (depth * w->stride[2] - w->before[2] + taps.first * w->dilation[2]) * plane;
    p->apart = p->deep > 1 ? w->dilation[2] * plane : 0; /* it may overflow if no second plane is inside */
    if (weights) p->weights = weights + taps.first * w->kernel[0] * w->kernel[1];
}

V vf read_tap(const float *row, const window_tap *tap, window_access access, int64_t stride, int64_t width, vf fill) {
    switch (access) {
    case ADJACENT:
        return load(row + tap->at);
    case ADJACENT_MASKED:
        return load_mask(row + tap->at, tap->low, fill);
    case EVEN:
        return load_even(row + tap->at);
    case EVEN_MASKED:
        return load_even_mask(row + tap->at, tap->low, tap->high, fill);
    default:
        for (int i = 0; i < VL; i++) {
            int64_t column = tap->at + i * stride;
            if (column >= 0 && column < width) fill[i] = row[column];
        }
        return fill;
    }
}

/* A strip of the output: columns column..column + n of all rows, n <= VL. */
typedef struct {
    int64_t column, n;
    span cols;              /* kernel columns that read the input for some output of the strip */
    const window_tap *taps; /* of these kernel columns, in order; not used with ANY */
    vf counts;              /* for average pooling: kernel columns that count, for each lane */
} window_strip;

V void strip_store(const window_plane *p, const window_strip *strip, int64_t o, vf v) {
    float *y = p->y + o * p->y_row + strip->column;
    store_first(y, first_lanes(strip->n), v);
}

/* The inputs of tap j of the strip in an input row. */
V vf strip_tap(const window_plane *p, const window_strip *strip, window_access access, const float *row, int64_t j,
               vf fill) {
    const srt_window *w = p->window;
    if (access != ANY) return read_tap(row, strip->taps + j, access, w->stride[1], w->input[1], fill);
    window_tap tap = {.at = strip->column * w->stride[1] - w->before[1] + (strip->cols.first + j) * w->dilation[1]};
    return read_tap(row, &tap, access, w->stride[1], w->input[1], fill);
}

V void strip_rows(const window_plane *p, const window_strip *strip, window_kind kind, window_access access,
                  int64_t wide) {
    const srt_window *w = p->window;
    const int64_t count = wide ? wide : strip->cols.last - strip->cols.first;
    const vf fill = splat(kind == MAX_POOL ? -INFINITY : 0.0f);
    for (int64_t o = p->first; o < p->last; o++) {
        span rows = window_taps_inside(w, 0, o, 0, w->input[0]);
        int64_t top = o * w->stride[0] - w->before[0];
        vf total = kind == DEPTHWISE ? splat(p->bias) : fill;
        for (int64_t depth = 0; depth < p->deep; depth++)
            for (int64_t i = rows.first; i < rows.last; i++) {
                const float *row = p->x + depth * p->apart + (top + i * w->dilation[0]) * p->x_row;
                const int64_t tap = (depth * w->kernel[0] + i) * w->kernel[1] + strip->cols.first;
                const float *weights = kind == DEPTHWISE ? p->weights + tap : NULL;
                vf line = fill; /* for average pooling: a sum of short sums rounds less than one long sum */
                for (int64_t j = 0; j < count; j++) {
                    vf v = strip_tap(p, strip, access, row, j, fill);
                    if (kind == DEPTHWISE)
                        total = muladd(v, splat(weights[j]), total);
                    else if (kind == MAX_POOL)
                        total = max_nan(total, v);
                    else
                        line += v;
                }
                if (kind == AVERAGE_POOL) total += line;
            }
        if (kind == AVERAGE_POOL) {
            const float height = (float)window_count(w, 0, o, p->count_padding);
            total = total / vmax(splat(1.0f), strip->counts * (height * p->counted));
        }
        strip_store(p, strip, o, kind == DEPTHWISE ? clamp(total, p->low, p->high) : total);
    }
}

/* 2, 3 and 5 taps, the usual numbers, have unrolled loops of their own. */
V void strip_unrolled(const window_plane *p, const window_strip *strip, window_kind kind, window_access access) {
    switch (strip->cols.last - strip->cols.first) {
    case 2:
        strip_rows(p, strip, kind, access, 2);
        break;
    case 3:
        strip_rows(p, strip, kind, access, 3);
        break;
    case 5:
        strip_rows(p, strip, kind, access, 5);
        break;
    default:
        strip_rows(p, strip, kind, access, 0);
    }
}

V void window_rows(const window_plane *p, window_kind kind) {
    const srt_window *w = p->window;
    const int64_t width = w->input[1], stride = w->stride[1];
    window_tap taps[MAX_TAPS];
    for (int64_t column = 0; column < w->output[1]; column += VL) {
        int64_t n = smaller(VL, w->output[1] - column);
        /* kernel columns outside of `cols` lie in the padding for every lane */
        span cols = window_taps_inside(w, 1, column, -(n - 1) * stride, width);
        window_strip strip = {column, n, cols, taps, splat(0.0f)};
        if (kind == AVERAGE_POOL)
            for (int i = 0; i < n; i++) strip.counts[i] = (float)window_count(w, 1, column + i, p->count_padding);
        if (stride > 2 || cols.last - cols.first > MAX_TAPS) {
            strip_rows(p, &strip, kind, ANY, 0);
            continue;
        }
        bool padding = n < VL;
        for (int64_t j = cols.first; j < cols.last; j++) {
            int64_t at = column * stride - w->before[1] + j * w->dilation[1];
            padding |= at < 0 || at + (VL - 1) * stride >= width;
            /* the second load of load_even begins at element VL - 1 of the first */
            taps[j - cols.first] =
                (window_tap){at, lanes(-at, width - at), lanes(-at - (VL - 1), width - at - (VL - 1))};
        }
        if (stride == 1 && padding)
            strip_unrolled(p, &strip, kind, ADJACENT_MASKED);
        else if (stride == 1)
            strip_unrolled(p, &strip, kind, ADJACENT);
        else if (padding)
            strip_unrolled(p, &strip, kind, EVEN_MASKED);
        else
            strip_unrolled(p, &strip, kind, EVEN);
    }
}

/* Columns of the widest window for max pooling with stride 2. */
enum { MAX_WIDTH = 3 };

/* VL columns of all output rows of max pooling with stride 2, and the lanes of their inputs that lie in a row. */
typedef struct {
    int64_t column, at; /* the first column, and the input column where its window begins */
    bool whole;         /* whether all lanes lie in the row */
    vmask inside[MAX_WIDTH];
    vfirst there;
} max_strip;

/* The most strips that are computed row by row: their masks stay in the first-level cache. The rows of a window are
 * fetched while the window MAX_AHEAD rows above is computed: then they arrive in time also from the last-level cache.
 */
enum { MAX_STRIPS = 8, MAX_AHEAD = 4 };

/* Some input rows of a window. */
typedef struct {
    const float *first;
    int64_t count;
} max_window;

/* Vector j of a strip in an input row. */
V vf max_inputs(const max_strip *strip, const float *row, int j) {
    const float *from = row + strip->at + row_vector(2, j);
    return strip->whole ? load(from) : load_mask(from, strip->inside[j], splat(-INFINITY));
}

/* Sets v[j] to the maximum of each input column of the vectors first <= j < last of a strip. rows: their first input
 * row; the window has `count` rows in each of `deep` planes. */
V void max_columns(const window_plane *p, const max_strip *strip, const float *rows, int64_t count, int64_t deep,
                   int first, int last, vf *v) {
    const int64_t below = p->window->dilation[0] * p->x_row;
#pragma GCC unroll 8
    for (int j = first; j < last; j++) v[j] = count * deep > 0 ? max_inputs(strip, rows, j) : splat(-INFINITY);
    for (int64_t depth = 0; depth < deep; depth++)
#pragma GCC unroll 4
        for (int64_t i = depth > 0 ? 0 : 1; i < count; i++)
#pragma GCC unroll 8
            for (int j = first; j < last; j++)
                v[j] = max_nan(v[j], max_inputs(strip, rows + depth * p->apart + i * below, j));
}

/* The rows that output row o reads, but for the window's first `old` rows. None if o is not one of p's rows.
 * With several planes, the rows are those of the first. */
V max_window max_rows_of(const window_plane *p, int64_t o, int64_t old) {
    const srt_window *w = p->window;
    const span rows = window_taps_inside(w, 0, o, 0, w->input[0]);
    const int64_t first = rows.first > old ? rows.first : old, top = o * w->stride[0] - w->before[0];
    if (p->deep == 0 || o >= p->last || first >= rows.last) return (max_window){p->x, 0};
    return (max_window){p->x + (top + first * w->dilation[0]) * p->x_row, rows.last - first};
}

/* Row o of max pooling with stride 2 in neighbouring strips: first the maximum of each input column, then of
 * neighbouring columns. So even and odd columns are sorted once, and not for every row of the window. The third vector
 * of a strip is the first of the next one. The `ahead` rows are fetched. */
V void max_row(const int k, const window_plane *p, const max_strip *strips, int n, int64_t o, const float *rows,
               int64_t count, int64_t deep, max_window ahead) {
    const int64_t below = p->window->dilation[0] * p->x_row;
    float *y = p->y + o * p->y_row;
    vf v[ROWS_MOST], q[ROWS_MOST];
    if (k > 2) max_columns(p, &strips[n - 1], rows, count, deep, 2, k, v);
    for (int i = n - 1; i >= 0; i--) {
        const float *next = ahead.first + strips[i].at;
        for (int64_t row = 0; row < ahead.count; row++, next += below) {
            __builtin_prefetch(next);
            __builtin_prefetch(next + VL);
        }
        max_columns(p, &strips[i], rows, count, deep, 0, 2, v);
        row_columns(k, 2, v, q);
        v[2] = v[0];
#pragma GCC unroll 8
        for (int j = 1; j < k; j++) q[0] = max_nan(q[0], q[j]);
        store_first(y + strips[i].column, strips[i].there, q[0]);
    }
}

/* Max pooling with stride 2 in n neighbouring strips. Windows of k rows of one plane that lie in the input have a
 * loop of their own: in small planes, to find the rows of a window would take longer than to compute it. */
V void max_rows(const int k, const window_plane *p, const max_strip *strips, int n) {
    const srt_window *w = p->window;
    const int64_t stride = w->stride[0], old = larger(w->kernel[0] - stride, 0);
    const int64_t reach = (w->kernel[0] - 1) * w->dilation[0]; /* from the first row of a window to the last */
    const bool plain = p->deep == 1 && w->kernel[0] == k;
    for (int64_t o = p->first; o < p->last; o++) {
        const int64_t top = o * stride - w->before[0], later = top + MAX_AHEAD * stride;
        if (plain && top >= 0 && top + reach < w->input[0]) {
            const bool more = o + MAX_AHEAD < p->last && later + reach < w->input[0];
            const max_window ahead = {p->x + (more ? later + old * w->dilation[0] : 0) * p->x_row, more ? k - old : 0};
            max_row(k, p, strips, n, o, p->x + top * p->x_row, k, 1, ahead);
        } else {
            const max_window rows = max_rows_of(p, o, 0);
            max_row(k, p, strips, n, o, rows.first, rows.count, p->deep, max_rows_of(p, o + MAX_AHEAD, old));
        }
    }
}

FN void max_plane(const window_plane *p) {
    const srt_window *w = p->window;
    const int64_t columns = w->output[1], taps = w->kernel[1];
    if (w->stride[1] != 2 || w->dilation[1] != 1 || taps < 2 || taps > MAX_WIDTH) {
        window_rows(p, MAX_POOL);
        return;
    }
    max_strip strips[MAX_STRIPS];
    for (int64_t column = 0, count = 0; column < columns; column += VL) {
        max_strip *strip = &strips[count++];
        strip->column = column;
        strip->at = column * 2 - w->before[1];
        strip->whole = row_is_whole(taps, 2, strip->at, w->input[1]);
        strip->there = first_lanes(columns - column);
        row_inside(taps, 2, strip->at, w->input[1], strip->inside);
        if (count < MAX_STRIPS && column + VL < columns) continue;
        if (taps == 2)
            max_rows(2, p, strips, count);
        else
            max_rows(3, p, strips, count);
        count = 0;
    }
}

V void pool(const window_job *job, int64_t first, int64_t last, window_kind kind) {
    const srt_window *w = job->window;
    const srt_steps x_steps = job->x_steps, y_steps = job->y_steps;
    for (; first < last; first++) {
        const int64_t band = first / job->volumes, volume = first % job->volumes;
        const float *x = job->x + volume * x_steps.plane;
        window_plane p = {
            .x = x,
            .window = w,
            .first = band * w->output[0] / job->bands,
            .last = (band + 1) * w->output[0] / job->bands,
            .x_row = x_steps.row,
            .y_row = y_steps.row,
            .count_padding = job->count_padding,
        };
        for (int64_t depth = 0; depth < w->output[2]; depth++) {
            plane_at_depth(&p, x, job->y + volume * y_steps.plane, NULL, depth);
            p.counted = (float)window_count(w, 2, depth, job->count_padding);
            if (kind == MAX_POOL)
                max_plane(&p);
            else
                window_rows(&p, kind);
        }
    }
}

FN void max_pool(const void *arguments, int64_t first, int64_t last) {
    pool(arguments, first, last, MAX_POOL);
}

FN void average_pool(const void *arguments, int64_t first, int64_t last) {
    pool(arguments, first, last, AVERAGE_POOL);
}

#endif
