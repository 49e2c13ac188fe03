/* conv.h - convolution as a product: rows of weights, as they lie in the file, times panels of columns.
 *
 * The product of some rows with a panel is held in registers while the panel and the rows are read once, a weight being
 * spread over a vector when it is needed: nothing but the columns is ever copied, and those stay in the second-level
 * cache. A sum belongs to one output, and its terms are added in the order of the row of weights whatever else is
 * computed beside it.
 */
#ifndef STREAMRT_CONV_H
#define STREAMRT_CONV_H

#include "activation.h"
#include "columns.h"
#include "dots.h"

/* Rows whose sums with a panel are held in registers: 14 x 2 sums, 2 vectors of columns and a weight fit the 32
 * registers of AVX-512, 6 x 2 the 16 of AVX2, and 4 x 2 those of all others, where a product needs one too. */
enum { CONV_ROWS = VL == 16 ? 14 : VL == 8 ? 6 : 4 };

/* Floats of a column that is laid out by itself: its terms, and zeros to the next whole vector. */
enum { CONV_ENDS = SRT_CONV_DEPTH + VL };

/* What is the same for all tiles of a block of columns. Element (row, column) of y is y[row * stride + column]. */
typedef struct {
    int64_t plane;        /* of the input, where columns are read as they lie in it */
    const float *w;       /* at the first of the block's rows of the matrix; (rows, inner) */
    int64_t inner, depth; /* length of a row of weights; terms of it in this block */
    int64_t height, from; /* rows of a panel in memory; the first of them in this block */
    float *y;
    int64_t stride;
    const float *bias,
        *start;   /* what sums begin with: NULL, or one number a row; NULL, or one a sum, as they lie in y */
    vf low, high; /* clamp */
    /* The columns behind the last whole vector, if they are few: `last` of them from column `at` on, each a row of
     * `ends`. */
    int64_t last, at;
    const float (*ends)[CONV_ENDS];
} conv_block;

/* Rows of weights that are fetched into the second-level cache while a tile is computed, a line of each of them with
 * every line of its own. A row of a block is short, so that the processor would find out too late that it is read. */
typedef struct {
    const float *w;
    int64_t rows;
} conv_next;

enum { CONV_DIRECT = 8 }; /* tiles of rows for which columns are read twice as they lie rather than laid out */
enum { CONV_LINE = 16 };  /* floats of a cache line */

/* The sums of `rows` rows of weights from `row` on with `vectors` vectors of a panel, of which n columns count; `at` is
 * the first of them in y. */
V void conv_tile(const int rows, const int vectors, const bool direct, const conv_block *block, int64_t row,
                 const float *columns, int64_t at, int64_t n, conv_next next) {
    const int64_t step = direct ? block->plane : vectors * VL;
    const int64_t inner = block->inner, stride = block->stride;
    const float *w = block->w + row * inner, *start = block->start ? block->start + row * stride + at : NULL;
    float *y = block->y + row * stride + at;
    const bool whole = n == vectors * VL;
    vf sum[CONV_ROWS][2];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) sum[r][v] = splat(0.0f);
    for (int64_t line = 0; line < block->depth; line += CONV_LINE) {
        for (int64_t r = 0; r < next.rows; r++) __builtin_prefetch(next.w + r * inner + line, 0, 2);
        for (int64_t k = smaller(CONV_LINE, block->depth - line); k > 0; k--, w++, columns += step) {
            vf x[2];
            if (direct)
                for (int v = 0; v < vectors; v++) __builtin_prefetch(columns + PANEL + v * VL);
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++) x[v] = load(columns + v * VL);
#pragma GCC unroll 16
            for (int r = 0; r < rows; r++) {
                const vf weight = splat(w[r * inner]);
#pragma GCC unroll 2
                for (int v = 0; v < vectors; v++) sum[r][v] = muladd(weight, x[v], sum[r][v]);
            }
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) {
            vf total = sum[r][v] + splat(block->bias ? block->bias[row + r] : 0.0f);
            if (start && whole)
                total += load(start + r * stride + v * VL);
            else if (start)
                total += load_mask(start + r * stride + v * VL, lanes(0, n - v * VL), splat(0.0f));
            vf done = clamp(total, block->low, block->high);
            if (whole)
                store(y + r * stride + v * VL, done);
            else
                store_mask(y + r * stride + v * VL, lanes(0, n - v * VL), done);
        }
}

/* A loop of its own for every number of rows, as the sums are in registers only if the compiler knows it. */
#define CONV_CASE(count)                                                                                               \
    case count:                                                                                                        \
        if (count <= CONV_ROWS)                                                                                        \
            conv_tile(count <= CONV_ROWS ? count : 1, vectors, direct, block, row, columns, at, n, next);              \
        break;

V void conv_rows(const int vectors, const bool direct, const conv_block *block, int64_t row, int64_t rows,
                 const float *columns, int64_t at, int64_t n, conv_next next) {
    switch (rows) {
        CONV_CASE(1)
        CONV_CASE(2)
        CONV_CASE(3)
        CONV_CASE(4)
        CONV_CASE(5)
        CONV_CASE(6)
        CONV_CASE(7)
        CONV_CASE(8)
        CONV_CASE(9)
        CONV_CASE(10)
        CONV_CASE(11)
        CONV_CASE(12)
        CONV_CASE(13)
        CONV_CASE(14)
    }
}

FN void conv_rows_narrow(const conv_block *block, int64_t row, int64_t rows, const float *columns, int64_t at,
                         int64_t n, conv_next next) {
    conv_rows(1, false, block, row, rows, columns, at, n, next);
}

FN void conv_rows_wide(const conv_block *block, int64_t row, int64_t rows, const float *columns, int64_t at, int64_t n,
                       conv_next next) {
    conv_rows(2, false, block, row, rows, columns, at, n, next);
}

FN void conv_rows_direct(const conv_block *block, int64_t row, int64_t rows, const float *columns, int64_t at,
                         conv_next next) {
    conv_rows(2, true, block, row, rows, columns, at, PANEL, next);
}

/* Rows begin..end of y with the last columns of a block. */
FN void conv_last_columns(const conv_block *block, int64_t begin, int64_t end) {
    const int64_t count = block->last;
    int64_t rows;
    for (int64_t row = begin; row < end; row += rows) {
        float sums[VL];
        rows = dots_rows(end - row, count);
        dots(rows, count, block->w + row * block->inner, block->inner, block->ends[0], CONV_ENDS, block->depth, sums);
        for (int64_t i = 0; i < rows * count; i++) {
            const int64_t to = row + i / count, at = to * block->stride + block->at + i % count;
            float total = sums[i] + (block->bias ? block->bias[to] : 0.0f);
            if (block->start) total += block->start[at];
            block->y[at] = clamp(splat(total), block->low, block->high)[0];
        }
    }
}

/* Rows begin..end of y with the n columns of a block. Rows are shared out evenly among tiles, as a tile of few of them
 * reads more columns than it multiplies. */
V void conv_block_rows(const conv_block *block, int64_t begin, int64_t end, const float *columns, int64_t n) {
    const int64_t panels = (n + PANEL - 1) / PANEL;
    int64_t count, ready = begin; /* rows before it have their last columns */
    for (int64_t tiles = (end - begin + CONV_ROWS - 1) / CONV_ROWS, row = begin; tiles > 0; tiles--, row += count) {
        count = (end - row + tiles - 1) / tiles;
        const int64_t left = smaller(count, end - row - count); /* rows of the next tile, shared out among the panels */
        for (int64_t i = 0; i < panels; i++) {
            const int64_t at = i * PANEL, from = i * left / panels, to = (i + 1) * left / panels;
            const conv_next next = {block->w + (row + count + from) * block->inner, to - from};
            const float *panel = columns + at * block->height;
            if (block->plane)
                conv_rows_direct(block, row, count, columns + at, at, next);
            else if (n - at > VL)
                conv_rows_wide(block, row, count, panel + block->from * PANEL, at, smaller(PANEL, n - at), next);
            else
                conv_rows_narrow(block, row, count, panel + block->from * VL, at, n - at, next);
        }
        if (block->last && (row + count - ready >= VL || tiles == 1)) { /* while the weights are in the cache */
            conv_last_columns(block, ready, row + count);
            ready = row + count;
        }
    }
}

/* Columns at..at + count of a block, each laid out by itself; room is for a panel of a vector. */
V void fill_ends(const srt_window *w, int64_t at, int64_t count, const float *x, int64_t first, int64_t last,
                 float *room, float (*ends)[CONV_ENDS]) {
    fill_panels(w, at, count, x, first, last, room);
    for (int64_t c = 0; c < count; c++) {
        for (int64_t k = 0; k < last - first; k++) ends[c][k] = room[k * VL + c];
        store(ends[c] + (last - first), splat(0.0f));
    }
}

/* Whether columns are read as they lie in the input: those of a 1 x 1 window, for so few tiles of rows that laying them
 * out first does not pay, if their vectors do not lie across cache lines. */
V bool conv_is_direct(const srt_window *w, int64_t rows) {
    for (int axis = 0; axis < 2; axis++)
        if (w->kernel[axis] != 1 || w->stride[axis] != 1 || w->before[axis] != 0 || w->output[axis] != w->input[axis])
            return false;
    return rows <= CONV_DIRECT * CONV_ROWS && w->output[0] * w->output[1] % CONV_LINE == 0;
}

/* Units first..last of a job, all of one block of positions: units are shares of its output channels. */
V void conv_shares(const conv_job *job, int64_t sample, int64_t group, int64_t at, int64_t first, int64_t last,
                   float *columns) {
    const srt_window *w = job->window;
    const int64_t positions = w->output[0] * w->output[1], n = smaller(job->width, positions - at);
    const int64_t from = group * job->outputs > job->first ? group * job->outputs : job->first;
    const int64_t rows = smaller((group + 1) * job->outputs, job->last) - from;
    const int64_t begin = from + first * rows / job->shares, until = from + last * rows / job->shares;
    const float *x = job->x + (sample * job->groups + group) * job->channels * w->input[0] * w->input[1];
    const int64_t place = sample * job->groups * job->outputs * positions + at;
    const bool direct = conv_is_direct(w, until - begin) && n % PANEL == 0;
    const int64_t ends = n % VL <= DOTS ? n % VL : 0, whole = n - ends;
    float end[DOTS][CONV_ENDS];
    for (int64_t part = 0; part < job->parts; part++) {
        const int64_t k = part * job->inner / job->parts, next = (part + 1) * job->inner / job->parts;
        const bool done = part + 1 == job->parts;
        if (!direct) fill_panels(w, at, whole, x, k, next, columns);
        if (ends) fill_ends(w, at + whole, ends, x, k, next, columns + whole * (next - k), end);
        conv_block block = {.plane = direct ? positions : 0,
                            .w = job->w + k,
                            .inner = job->inner,
                            .depth = next - k,
                            .height = next - k,
                            .y = job->y + place,
                            .stride = positions,
                            .bias = part == 0 ? job->bias : NULL,
                            .start = part > 0        ? job->y + place
                                     : job->residual ? job->residual + place
                                                     : NULL,
                            .low = splat(done ? job->act->low : -INFINITY),
                            .high = splat(done ? job->act->high : INFINITY),
                            .last = ends,
                            .at = whole,
                            .ends = end};
        conv_block_rows(&block, begin, until, direct ? x + k * positions + at : columns, whole);
    }
    if (job->act->separate)
        for (int64_t row = begin; row < until; row++) {
            float *y = job->y + place + row * positions;
            activate(y, y, n, job->act);
        }
}

FN void conv(const void *arguments, int64_t first, int64_t last) {
    const conv_job *job = arguments;
    float *columns = job->scratch + srt_seat() * job->seat;
    const int64_t groups = (job->last - 1) / job->outputs + 1 - job->first / job->outputs;
    for (int64_t shares; first < last; first += shares) {
        int64_t block = first / job->shares, share = first - block * job->shares;
        shares = smaller(job->shares - share, last - first);
        int64_t plane = block / job->blocks;
        conv_shares(job, plane / groups, job->first / job->outputs + plane % groups,
                    (block - plane * job->blocks) * job->width, share, share + shares, columns);
    }
}

#endif
