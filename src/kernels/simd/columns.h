/* columns.h - the windows of a convolution as the columns of a matrix, one panel of columns after the other.
 *
 * Row k of the matrix is one tap of one input channel: k = channel * taps + tap, as in a row of weights. A panel holds
 * some columns of some rows, row after row, so that a product reads it from front to back. The places of its inputs
 * depend on the tap and the panel, but not on the channel. They are found once and used for all channels.
 */
#ifndef STREAMRT_COLUMNS_H
#define STREAMRT_COLUMNS_H

#include "panel.h"
#include "span.h"

/* The inputs of a tap: output row o reads input row o * stride + down, output column o column o * stride + right, and
 * output plane o plane o * stride + back. */
typedef struct {
    int64_t down, right, back;
    span rows, cols, planes; /* the outputs whose input is not padding */
} tap_place;

V tap_place place_of(const srt_window *w, int64_t tap) {
    const int64_t row = tap / w->kernel[1], depth = w->kernel[2] > 1 ? row / w->kernel[0] : 0;
    const int64_t down = (row - depth * w->kernel[0]) * w->dilation[0] - w->before[0];
    const int64_t right = tap % w->kernel[1] * w->dilation[1] - w->before[1];
    const int64_t back = depth * w->dilation[2] - w->before[2];
    return (tap_place){down,
                       right,
                       back,
                       valid_outputs(down, w->stride[0], w->input[0], w->output[0]),
                       valid_outputs(right, w->stride[1], w->input[1], w->output[1]),
                       valid_outputs(back, w->stride[2], w->input[2], w->output[2])};
}

/* Lanes of a vector of columns whose inputs lie one step apart in memory: those of one output row, or all lanes if the
 * next row's inputs continue with the same step. */
typedef struct {
    int64_t from;       /* the element of the volume at lane 0, which may be outside */
    uint32_t inside;    /* lanes that are read; the others are padding, or belong to another piece */
    uint32_t low, high; /* with stride 2: the masks of load_even_mask */
} column_piece;

/* The bits first..last of VL bits, for any two integers. */
V uint32_t bits(int64_t first, int64_t last) {
    const uint32_t a = first < 0 ? 0 : first > VL ? VL : (uint32_t)first;
    const uint32_t b = last < 0 ? 0 : last > VL ? VL : (uint32_t)last;
    return ((1u << b) - 1) & ~((1u << a) - 1);
}

/* The piece of the lanes first..last. */
V column_piece piece_of(int64_t from, int64_t first, int64_t last) {
    return (column_piece){from, bits(first, last), bits(2 * first, 2 * last - 1),
                          bits(2 * first - VL + 1, 2 * last - VL)};
}

/* Lanes lane..lane + n of one vector of a panel: output positions of one row, the first at (plane, row, col). */
typedef struct {
    int32_t vector, lane, n;
    int64_t plane, row, col;
    column_piece all; /* the elements that they read for a tap at (0, 0, 0), as if no input were padding */
} run;

/* Sets runs to those of the columns at..at + n, counted row by row, and returns their number. n <= WIDEST. Input rows
 * are `pitch` elements apart, here and below. */
V int runs_of(const srt_window *w, int64_t pitch, int64_t at, int64_t n, run runs[WIDEST]) {
    int64_t row = at / w->output[1], col = at - row * w->output[1], plane = 0;
    if (w->output[2] > 1) plane = row / w->output[0], row -= plane * w->output[0];
    int count = 0;
    for (int64_t to = 0, length; to < n; to += length) {
        const int64_t lane = to % VL;
        length = smaller(smaller(w->output[1] - col, n - to), VL - lane);
        const int64_t line = plane * w->stride[2] * w->input[0] + row * w->stride[0]; /* of all planes */
        const int64_t from = line * pitch + (col - lane) * w->stride[1];
        const column_piece all = piece_of(from, lane, lane + length);
        runs[count++] = (run){(int32_t)(to / VL), (int32_t)lane, (int32_t)length, plane, row, col, all};
        col += length;
        if (col == w->output[1]) row++, col = 0;
        if (row == w->output[0]) plane++, row = 0;
    }
    return count;
}

/* Places of a table. They are found together and then used for all channels. */
enum { PLACES = 64 };

/* The inputs of one tap for one panel: the pieces of vector v are begin[v]..begin[v + 1]. Places are in the order of
 * panels, then taps. */
typedef struct {
    int32_t begin[WIDEST / VL + 1];
} place;
typedef struct {
    place places[PLACES];
    column_piece pieces[PLACES * WIDEST];
} place_table;

/* Sets *piece to the lanes of a run whose input is not padding for a tap. False: there are none. moved: elements
 * from the inputs of a tap at (0, 0, 0) to those of this tap. */
V bool inside_piece(const tap_place *tap, const run *r, int64_t moved, column_piece *piece) {
    if (r->row < tap->rows.first || r->row >= tap->rows.last) return false;
    if (r->plane < tap->planes.first || r->plane >= tap->planes.last) return false;
    *piece = r->all;
    piece->from += moved;
    if (r->col >= tap->cols.first && r->col + r->n <= tap->cols.last) return true;
    const int64_t first = tap->cols.first > r->col ? tap->cols.first - r->col : 0;
    const int64_t last = smaller(tap->cols.last - r->col, r->n);
    if (first >= last) return false;
    *piece = piece_of(piece->from, r->lane + first, r->lane + last);
    return true;
}

/* Finds the place of a tap for the panel of some runs. Its pieces begin at pieces[used]; returns the index behind them.
 */
V int32_t find_place(const srt_window *w, int64_t pitch, const tap_place *tap, const run *runs, int count, place *to,
                     column_piece *pieces, int32_t used) {
    const bool any =
        tap->rows.first < tap->rows.last && tap->cols.first < tap->cols.last && tap->planes.first < tap->planes.last;
    int64_t moved = 0; /* it may overflow if no output is inside */
    if (any) moved = (tap->back * w->input[0] + tap->down) * pitch + tap->right;
    int vector = 0; /* the one whose pieces are being found */
    to->begin[0] = used;
    for (int k = 0; any && k < count; k++) {
        for (; vector < runs[k].vector; vector++) to->begin[vector + 1] = used;
        column_piece next;
        if (!inside_piece(tap, &runs[k], moved, &next)) continue;
        column_piece *before = &pieces[used > to->begin[vector] ? used - 1 : used];
        if (used > to->begin[vector] && before->from == next.from)
            before->inside |= next.inside, before->low |= next.low, before->high |= next.high;
        else
            pieces[used++] = next;
    }
    for (; vector < WIDEST / VL; vector++) to->begin[vector + 1] = used;
    return used;
}

/* Finds the places of `count` taps for `panels` panels from column `at` on. Columns from `end` on do not exist. */
FN void find_places(const srt_window *w, int64_t pitch, const tap_place *taps, int64_t count, int64_t at, int64_t end,
                    int64_t panels, place_table *table) {
    place *to = table->places;
    int32_t used = 0;
    for (int64_t j = 0; j < panels; j++, at += PANEL) {
        run runs[WIDEST];
        const int parts = runs_of(w, pitch, at, panel_of(end - at), runs);
        for (int64_t i = 0; i < count; i++, to++)
            used = find_place(w, pitch, &taps[i], runs, parts, to, table->pieces, used);
    }
}

/* y[lane] = from[lane * stride] for the lanes of a piece. */
V void copy_lanes(const float *from, int64_t stride, uint32_t inside, float *y) {
    for (int lane = 0; lane < VL; lane++)
        if (inside >> lane & 1) y[lane] = from[lane * stride];
}

/* Lays out `count` taps of one panel for one channel. x: the channel's volume; y: (count, vectors * VL). */
V void fill_taps(const int vectors, const int64_t stride, const place_table *table, const place *at, int64_t count,
                 const float *x, float *y) {
    const vf zero = splat(0.0f);
    for (int64_t i = 0; i < count; i++, at++)
        for (int v = 0; v < vectors; v++, y += VL) {
            const column_piece *next = table->pieces + at->begin[v], *end = table->pieces + at->begin[v + 1];
            vf all = zero;
            if (stride > 2) store(y, zero);
            for (; next < end; next++) {
                const float *from = x + next->from;
                if (stride == 1) /* lanes of other pieces are zero */
                    all = (vf)((vi)all | (vi)load_mask(from, mask_of(next->inside), zero));
                else if (stride == 2)
                    all = (vf)((vi)all | (vi)load_even_mask(from, mask_of(next->low), mask_of(next->high), zero));
                else
                    copy_lanes(from, stride, next->inside, y);
            }
            if (stride <= 2) store(y, all);
        }
}

/* fill_taps with a loop of its own for strides 1 and 2, and for each number of vectors. */
V void fill_place(const int vectors, int64_t stride, const place_table *table, const place *at, int64_t count,
                  const float *x, float *y) {
    if (stride == 1)
        fill_taps(vectors, 1, table, at, count, x, y);
    else if (stride == 2)
        fill_taps(vectors, 2, table, at, count, x, y);
    else
        fill_taps(vectors, stride, table, at, count, x, y);
}

V void fill_places(int64_t vectors, int64_t stride, const place_table *table, const place *at, int64_t count,
                   const float *x, float *y) {
    if (vectors == 1)
        fill_place(1, stride, table, at, count, x, y);
    else if (vectors == 2)
        fill_place(2, stride, table, at, count, x, y);
    else
        fill_place(3, stride, table, at, count, x, y);
}

/* Elements of a plane, as `count` spans in order, `total` elements together. */
typedef struct {
    int64_t count, total;
    span of[PLACES];
} plane_part;

/* Sets *part to the elements that some taps read for the columns at..at + n: a span for each row of the window, of
 * whole rows if the columns are those of several rows. It is empty if windows leave out rows, if there are gaps between
 * rows, and for volumes: the rows of several planes lie apart. */
V void find_read(const srt_window *w, int64_t pitch, const tap_place *taps, int64_t count, int64_t at, int64_t n,
                 plane_part *part) {
    part->count = part->total = 0;
    if (w->stride[0] > w->kernel[0] || pitch > w->input[1] || w->input[2] > 1 || w->output[2] > 1) return;
    const int64_t width = w->input[1], top = at / w->output[1], bottom = (at + n - 1) / w->output[1];
    int64_t left = 0, right = width;
    if (top == bottom) {
        const int64_t col = at % w->output[1] * w->stride[1];
        left = width, right = 0;
        for (int64_t i = 0; i < count; i++) {
            left = smaller(left, col + taps[i].right);
            right = larger(right, col + taps[i].right + (n - 1) * w->stride[1] + 1);
        }
        left = larger(left, 0), right = smaller(right, width);
    }
    int64_t reached = 0;
    for (int64_t i = 0; i < count; i++) {
        const int64_t first = larger(top, taps[i].rows.first), last = smaller(bottom, taps[i].rows.last - 1);
        if (first > last || (i > 0 && taps[i].down == taps[i - 1].down)) continue;
        const int64_t from = larger(reached, (first * w->stride[0] + taps[i].down) * width + left);
        const int64_t to = (last * w->stride[0] + taps[i].down) * width + right;
        if (from >= to) continue;
        part->of[part->count++] = (span){from, to};
        part->total += to - from;
        reached = to;
    }
}

/* Fetches the elements from..to of a part of a plane. Returns the first element that was not fetched. */
V int64_t fetch_part(const float *plane, const plane_part *part, int64_t from, int64_t to) {
    int64_t begin = 0; /* of a span, in the part */
    for (int64_t i = 0; i < part->count && begin < to; i++) {
        const int64_t end = begin + part->of[i].last - part->of[i].first;
        for (; from < smaller(end, to); from += CONV_LINE) __builtin_prefetch(plane + part->of[i].first + from - begin);
        begin = end;
    }
    return from;
}

/* Lays out rows first..last of the panels of columns at..at + n. x: all channels, with rows that lie apart; out: panel
 * after panel, each (last - first, PANEL), the last as wide as its vectors. Columns behind the last are zeros. Panels
 * of the same channel are filled in order, because their inputs are neighbours. */
FN void fill_panels(const srt_window *w, srt_steps steps, int64_t at, int64_t n, const float *x, int64_t first,
                    int64_t last, float *out) {
    const int64_t taps = srt_volume(w->kernel), pitch = steps.row, volume = steps.plane;
    const int64_t panels = panels_of(n), depth = last - first;
    if (depth == 0) return;                                     /* without channels there may be any number of taps */
    place_table table;                                          /* large: only the places in use are set */
    const int64_t together = taps < PLACES ? PLACES / taps : 1; /* panels */
    for (int64_t tap = 0, some; tap < taps; tap += some) {
        some = smaller(PLACES, taps - tap);
        /* in the first channel these taps may lie before the rows, and in the next channel behind them */
        const int64_t begins = first / taps * taps + tap;
        if (begins >= last || (begins + some <= first && begins + taps >= last)) continue;
        tap_place tap_places[PLACES];
        for (int64_t i = 0; i < some; i++) tap_places[i] = place_of(w, tap + i);
        for (int64_t panel = 0, count; panel < panels; panel += count) {
            count = smaller(together, panels - panel);
            find_places(w, pitch, tap_places, some, at + panel * PANEL, at + n, count, &table);
            const int64_t columns = panel + count < panels ? count * PANEL : n - panel * PANEL;
            plane_part read;
            find_read(w, pitch, tap_places, some, at + panel * PANEL, columns, &read);
            for (int64_t channel = first / taps; channel * taps + tap < last; channel++) {
                const int64_t row = channel * taps + tap; /* the matrix's row of the first tap */
                const int64_t begin = first > row ? smaller(first - row, some) : 0;
                const int64_t end = smaller(last - row, some);
                int64_t ahead = 0; /* of what is read of the next channel */
                for (int64_t j = panel; j < panel + count; j++) {
                    const int64_t to = (j + 1 - panel) * read.total / count;
                    ahead = row + taps < last ? fetch_part(x + (channel + 1) * volume, &read, ahead, to) : ahead;
                    const int64_t vectors = (panel_of(n - j * PANEL) + VL - 1) / VL;
                    fill_places(vectors, w->stride[1], &table, &table.places[(j - panel) * some + begin], end - begin,
                                x + channel * volume, out + j * depth * PANEL + (row + begin - first) * vectors * VL);
                }
            }
        }
    }
}

/* Lays out the panels of n columns that are rows of x, `inner` elements apart; out as for fill_panels. A few rows are
 * read to their end before the next rows: rows of a power of two elements share the sets of the first-level cache. */
FN void fill_across(const float *x, int64_t inner, int64_t n, int64_t depth, float *out) {
    const int64_t whole = depth - depth % TILE;
    for (int64_t panel = 0, count; panel < n; panel += count, x += count * inner) {
        count = panel_of(n - panel);
        const int64_t across = (count + VL - 1) / VL * VL;
        float *to = out + panel * depth;
        int64_t i = 0;
        for (; i + TILE <= count; i += TILE) {
            for (int64_t k = 0; k < whole; k += TILE)
                transpose_tile(x + i * inner + k, inner, to + k * across + i, across);
            for (int64_t k = whole; k < depth; k++)
                for (int64_t j = i; j < i + TILE; j++) to[k * across + j] = x[j * inner + k];
        }
        for (; i < across; i++)
            for (int64_t k = 0; k < depth; k++) to[k * across + i] = i < count ? x[i * inner + k] : 0.0f;
    }
}

#endif
