/* columns.h - the windows of a convolution as the columns of a matrix, a panel of columns at a time.
 *
 * Row k of the matrix is one tap of one input channel: k = channel * taps + tap, the order of a row of weights. A panel
 * holds PANEL columns of some rows, row after row, so that a product reads it from front to back. Where its inputs lie
 * depends on the tap and on the panel, not on the channel: it is found out once, and used for all channels.
 */
#ifndef STREAMRT_COLUMNS_H
#define STREAMRT_COLUMNS_H

#include "activation.h"
#include "span.h"

/* Two vectors: each weight, once in a register, serves both. */
enum { PANEL = 2 * VL };
_Static_assert(SRT_CONV_COLUMNS % PANEL == 0, "a block of columns is whole panels");

/* The columns at..at + n of the output positions, counted row by row; 0 < n <= PANEL. */
typedef struct {
    const srt_window *window;
    int64_t at, n;
} panel;

/* Where a tap looks: input row of output row o is o * stride + down, and so on. */
typedef struct {
    int64_t down, right;
    span rows, cols; /* the outputs for which that is inside the input */
} tap_place;

V tap_place place_of(const srt_window *w, int64_t tap) {
    int64_t down = tap / w->kernel[1] * w->dilation[0] - w->before[0];
    int64_t right = tap % w->kernel[1] * w->dilation[1] - w->before[1];
    return (tap_place){down, right, valid_outputs(down, w->stride[0], w->input[0], w->output[0]),
                       valid_outputs(right, w->stride[1], w->input[1], w->output[1])};
}

/* The part of a panel that lies in one output row and inside the input: columns to..to + n, read from `from` on in a
 * plane. */
typedef struct {
    int32_t to, n;
    int64_t from;
} stretch;

/* The stretches of a panel for one tap, at most one an output row; returns their number. */
V int stretches_of(const panel *p, const tap_place *place, stretch *out) {
    const srt_window *w = p->window;
    int64_t row = p->at / w->output[1], col = p->at - row * w->output[1];
    int count = 0;
    for (int64_t to = 0, n; to < p->n; to += n, row++, col = 0) {
        n = smaller(w->output[1] - col, p->n - to);
        if (row < place->rows.first || row >= place->rows.last) continue;
        int64_t first = place->cols.first > col ? place->cols.first : col, last = smaller(place->cols.last, col + n);
        if (first >= last) continue;
        int64_t from = (row * w->stride[0] + place->down) * w->input[1] + first * w->stride[1] + place->right;
        out[count++] = (stretch){(int32_t)(to + first - col), (int32_t)(last - first), from};
    }
    return count;
}

/* y[i] = x[i * stride] for i < n <= PANEL. */
V void copy_strided(const float *x, float *y, int64_t n, int64_t stride) {
    const vf zero = splat(0.0f);
    if (stride == 1)
        for (int64_t i = 0; i < n; i += VL) store_mask(y + i, lanes(0, n - i), load_mask(x + i, lanes(0, n - i), zero));
    else if (stride == 2)
        for (int64_t i = 0; i < n; i += VL) { /* the high part begins at lane VL - 1 of the low one: see load_even */
            if (i + VL <= n) {
                store(y + i, load_even(x + 2 * i));
                continue;
            }
            vmask low = lanes(0, 2 * (n - i) - 1), high = lanes(0, 2 * (n - i) - VL);
            store_mask(y + i, lanes(0, n - i), load_even_mask(x + 2 * i, low, high, zero));
        }
    else
        for (int64_t i = 0; i < n; i++) y[i] = x[i * stride];
}

/* Places that are found out together and then used for one channel after the other. */
enum { PLACES = 64 };

/* Where the inputs of one panel for one tap lie. */
typedef struct {
    int64_t from;    /* moved: where the move leads */
    uint64_t inside; /* the columns that are not padding */
    int parts;       /* not moved: stretches */
    stretch part[PANEL];
} place;

/* `panels` panels from column `at` on, and the taps tap..tap + taps of each. */
typedef struct {
    const srt_window *window;
    int64_t at, end, panels; /* no column from `end` on is there */
    int64_t tap, taps;
    bool moved;           /* every panel is the plane itself, moved */
    place places[PLACES]; /* (panels, taps) */
} place_table;

FN void find_places(place_table *t) {
    const srt_window *w = t->window;
    t->moved = w->stride[0] == 1 && w->stride[1] == 1 && w->output[1] == w->input[1];
    for (int64_t i = 0; i < t->taps; i++) {
        tap_place tap = place_of(w, t->tap + i);
        for (int64_t j = 0; j < t->panels; j++) {
            panel p = {w, t->at + j * PANEL, smaller(PANEL, t->end - t->at - j * PANEL)};
            place *to = &t->places[j * t->taps + i];
            to->parts = stretches_of(&p, &tap, to->part);
            /* no more than lengths of the input and the output, where any column is inside */
            to->from = to->parts ? p.at + tap.down * w->input[1] + tap.right : 0;
            to->inside = 0;
            for (int k = 0; k < to->parts; k++) to->inside |= ((UINT64_C(1) << to->part[k].n) - 1) << to->part[k].to;
        }
    }
}

/* Some taps of one panel, for one channel: x its plane, y (count, vectors * VL). */
V void fill_taps(const int vectors, const place *at, bool moved, int64_t stride, const float *x, int64_t count,
                 float *y) {
    const vf zero = splat(0.0f);
    const uint64_t whole = (UINT64_C(1) << vectors * VL) - 1;
    for (int64_t i = 0; i < count; i++, at++, y += vectors * VL) {
        if (moved && at->inside == whole) {
            for (int v = 0; v < vectors; v++) store(y + v * VL, load(x + at->from + v * VL));
        } else if (moved) {
            for (int v = 0; v < vectors; v++)
                store(y + v * VL, load_mask(x + at->from + v * VL, mask_of((uint32_t)(at->inside >> v * VL)), zero));
        } else {
            for (int v = 0; v < vectors && at->inside != whole; v++) store(y + v * VL, zero);
            for (int j = 0; j < at->parts; j++)
                copy_strided(x + at->part[j].from, y + at->part[j].to, at->part[j].n, stride);
        }
    }
}

/* Rows first..last of the panels of columns at..at + n. x: the planes of all channels; out: panel after panel, each
 * (last - first, PANEL), or (last - first, VL) where a vector is enough for the last one. Columns from n on are zeros.
 * Panels of the same channel are filled one after the other, as their inputs lie next to each other. */
FN void fill_panels(const srt_window *w, int64_t at, int64_t n, const float *x, int64_t first, int64_t last,
                    float *out) {
    const int64_t taps = w->kernel[0] * w->kernel[1], plane = w->input[0] * w->input[1];
    const int64_t panels = (n + PANEL - 1) / PANEL, depth = last - first;
    if (depth == 0) return; /* no channels; the taps may be any number */
    place_table t;          /* filled in as far as it is used: it is large */
    t.window = w;
    t.end = at + n;
    for (int64_t panel = 0; panel < panels; panel += t.panels) {
        t.at = at + panel * PANEL;
        t.panels = smaller(taps < PLACES ? PLACES / taps : 1, panels - panel);
        for (t.tap = 0; t.tap < taps; t.tap += t.taps) {
            t.taps = smaller(PLACES, taps - t.tap);
            /* of the first channel these taps may come before the rows, and of the next one after them */
            const int64_t begins = first / taps * taps + t.tap;
            if (begins >= last || (begins + t.taps <= first && begins + taps >= last)) continue;
            find_places(&t);
            for (int64_t channel = first / taps; channel * taps + t.tap < last; channel++) {
                const int64_t row = channel * taps + t.tap; /* of the first tap */
                const int64_t begin = first > row ? smaller(first - row, t.taps) : 0;
                const int64_t end = smaller(last - row, t.taps);
                for (int64_t j = 0; j < t.panels; j++) {
                    const place *from = &t.places[j * t.taps + begin];
                    float *to = out + (panel + j) * depth * PANEL;
                    if (n - (panel + j) * PANEL > VL)
                        fill_taps(2, from, t.moved, w->stride[1], x + channel * plane, end - begin,
                                  to + (row + begin - first) * PANEL);
                    else
                        fill_taps(1, from, t.moved, w->stride[1], x + channel * plane, end - begin,
                                  to + (row + begin - first) * VL);
                }
            }
        }
    }
}

#endif
