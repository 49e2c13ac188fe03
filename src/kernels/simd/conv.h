/* conv.h - convolution as a product: rows of weights, as they lie in the file, times panels of columns.
 *
 * The product of some rows with a panel is held in registers while the panel and the rows are read once, a weight being
 * spread over a vector when it is needed: nothing but the columns is copied, which stay in the second-level cache, and
 * rows that would be in each other's way in the first-level cache. A sum belongs to one output, and its terms are added
 * in the order of the row of weights, or in the last columns of a map as dots.h adds them, whatever else is computed
 * beside it.
 */
#ifndef STREAMRT_CONV_H
#define STREAMRT_CONV_H

#include <stdatomic.h>

#include "activation.h"
#include "columns.h"
#include "dots.h"

/* Rows whose sums with a panel are held in registers: 14 x 2 sums, 2 vectors of columns and a weight fit the 32
 * registers of AVX-512, 6 x 2 the 16 of AVX2, and 4 x 2 those of all others, where a product needs one too. */
enum { CONV_ROWS = VL == 16 ? 14 : VL == 8 ? 6 : 4 };

/* The same for a panel of so many vectors: 9 x 3, 4 x 3 and 3 x 3. */
V int conv_rows_of(const int vectors) {
    return vectors < 3 ? CONV_ROWS : VL == 16 ? 9 : VL == 8 ? 4 : 3;
}

/* Floats of a column that is laid out by itself: its terms, and zeros to the next whole vector. */
enum { CONV_ENDS = SRT_CONV_DEPTH + VL };

/* What is the same for all tiles of a block of columns. Element (row, column) of y is y[row * stride + column]. */
typedef struct {
    const float *w;       /* at the first of the block's rows of the matrix; (rows, inner) */
    int64_t inner, depth; /* length of a row of weights; terms of it in this block */
    float *columns;       /* laid out: see columns.h */
    int64_t height, from; /* rows of a panel in memory; the first of them in this block */
    float *y;
    int64_t stride;
    int64_t panels; /* all but the last have PANEL columns */
    const float *bias,
        *start;   /* what sums begin with: NULL, or one number a row; NULL, or one a sum, as they lie in y */
    vf low, high; /* clamp */
    /* For a window of 1 x 1, where columns are not laid out yet: the input at the block's first row and column, its
     * rows `plane` apart, and, unless `scale` is NULL, what is done to it: see srt_convolution. */
    const float *x;
    int64_t plane;
    const float *scale, *shift;
    vf least, most;
    /* The columns behind the last whole vector, if they are few: `last` of them from column `at` on, each a row of
     * `ends`. */
    int64_t last, at;
    const float (*ends)[CONV_ENDS];
} conv_block;

/* Floats after which the sets of the first-level cache repeat, and the lines that it holds of a set: 8 at the least,
 * and 12 where it is 48 KiB. More rows of a tile, if they are a multiple of so many floats apart, push each other out.
 */
enum { CONV_SETS = 1024, CONV_WAYS = 8 };

/* Floats from one row to the next of a copy, in which they lie apart: lines enough for a block, and an odd number. */
enum { CONV_PITCH = SRT_CONV_DEPTH + CONV_LINE };
_Static_assert(CONV_PITCH % (2 * CONV_LINE) == CONV_LINE, "an odd number of lines");

/* The weights of a tile: rows, `pitch` floats from one to the next. */
typedef struct {
    const float *w;
    int64_t pitch;
} conv_weights;

/* Rows of weights that are needed next. They are fetched into the second-level cache while a tile is computed, as a row
 * of a block is so short that the processor would find out too late that it is read; and then copied, unless `copy`,
 * their place among rows of CONV_PITCH, is NULL. */
typedef struct {
    const float *w;
    int64_t rows;
    float *copy;
} conv_next;

/* Where a tile finds its columns. */
typedef enum {
    LAID_OUT,
    IN_PLACE, /* in the input; the tile lays them out for those that follow */
    SCALED,   /* the same, and scales them */
} conv_source;

/* Rows of the input that are fetched ahead of those that are read in place: they are too far apart for the processor.
 */
enum { CONV_AHEAD = 8 };

/* What is done for the next tile with a line of this one: in the first half of a block two lines of each row are
 * fetched, in the second half two are copied. Blocks of rows that are copied have an even number of whole lines, for
 * they are multiples of CONV_SETS: see conv.c. */
V void conv_bring(const conv_next *next, int64_t inner, int64_t depth, int64_t line) {
    const int64_t half = (depth + 2 * CONV_LINE - 1) / (2 * CONV_LINE) * CONV_LINE;
    const int64_t first = 2 * (line < half ? line : line - half), last = smaller(first + 2 * CONV_LINE, depth);
    if (line < half) {
        for (int64_t r = 0; r < next->rows; r++)
            for (int64_t i = first; i < last; i += CONV_LINE) __builtin_prefetch(next->w + r * inner + i, 0, 2);
    } else if ((int)CONV_ROWS > (int)CONV_WAYS && next->copy) {
        for (int64_t r = 0; r < next->rows; r++) {
            const float *from = next->w + r * inner;
            float *to = next->copy + r * CONV_PITCH;
            for (int64_t i = first; i < last; i += VL) store(to + i, load(from + i));
        }
    }
}

/* The sums of `rows` rows of weights, which make rows of y from `row` on, with the columns at..at + n,
 * n <= vectors * VL. */
V void conv_tile(const int rows, const int vectors, const conv_source source, const conv_block *block,
                 conv_weights weights, int64_t row, int64_t at, int64_t n, const conv_next *next) {
    const int64_t pitch = weights.pitch, stride = block->stride, plane = block->plane;
    const float *w = weights.w, *start = block->start ? block->start + row * stride + at : NULL;
    float *columns = block->columns + at * block->height + block->from * vectors * VL;
    const float *x = block->x + at, *scale = block->scale, *shift = block->shift;
    const vf least = block->least, most = block->most;
    float *y = block->y + row * stride + at;
    const bool whole = n == vectors * VL;
    vmask some[WIDEST / VL];
    vf sum[CONV_ROWS][WIDEST / VL];
#pragma GCC unroll 3
    for (int v = 0; v < vectors; v++) some[v] = lanes(0, n - v * VL);
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
        for (int v = 0; v < vectors; v++) sum[r][v] = splat(0.0f);
    int64_t sought = 0;
    for (int64_t line = 0; line < block->depth; line += CONV_LINE) {
        conv_bring(next, block->inner, block->depth, line);
        for (int64_t to = smaller(rows, (line + CONV_LINE) * 2 * rows / block->depth); sought < to; sought++)
#pragma GCC unroll 3
            for (int v = 0; v < vectors; v++) {
                if (start && start != y) __builtin_prefetch(start + sought * stride + v * VL);
                __builtin_prefetch(y + sought * stride + v * VL, 1);
            }
        for (int64_t k = smaller(CONV_LINE, block->depth - line); k > 0; k--, w++, columns += vectors * VL) {
            vf c[WIDEST / VL];
#pragma GCC unroll 3
            for (int v = 0; v < vectors; v++) {
                if (source == LAID_OUT) {
                    c[v] = load(columns + v * VL);
                    continue;
                }
                __builtin_prefetch(x + CONV_AHEAD * plane + v * VL);
                c[v] = whole ? load(x + v * VL) : load_mask(x + v * VL, some[v], splat(0.0f));
                if (source == SCALED)
                    c[v] = clamp(muladd(c[v], splat(*scale), splat(shift ? *shift : 0.0f)), least, most);
                store(columns + v * VL, c[v]);
            }
            if (source != LAID_OUT) x += plane;
            if (source == SCALED) {
                scale++;
                if (shift) shift++;
            }
#pragma GCC unroll 16
            for (int r = 0; r < rows; r++) {
                const vf weight = splat(w[r * pitch]);
#pragma GCC unroll 3
                for (int v = 0; v < vectors; v++) sum[r][v] = muladd(weight, c[v], sum[r][v]);
            }
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
        for (int v = 0; v < vectors; v++) {
            vf total = sum[r][v] + splat(block->bias ? block->bias[row + r] : 0.0f);
            if (start && whole)
                total += load(start + r * stride + v * VL);
            else if (start)
                total += load_mask(start + r * stride + v * VL, some[v], splat(0.0f));
            vf done = clamp(total, block->low, block->high);
            if (whole)
                store(y + r * stride + v * VL, done);
            else
                store_mask(y + r * stride + v * VL, some[v], done);
        }
}

/* A loop of its own for every number of rows, as the sums are in registers only if the compiler knows it. */
#define CONV_CASE(count)                                                                                               \
    case count:                                                                                                        \
        if (count <= conv_rows_of(vectors))                                                                            \
            conv_tile(count <= conv_rows_of(vectors) ? count : 1, vectors, source, block, weights, row, at, n, next);  \
        break;

V void conv_rows(const int vectors, const conv_source source, const conv_block *block, conv_weights weights,
                 int64_t row, int64_t rows, int64_t at, int64_t n, const conv_next *next) {
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

typedef void conv_function(const conv_block *block, conv_weights weights, int64_t row, int64_t rows, int64_t at,
                           int64_t n, const conv_next *next);

/* A function of its own for each source and number of vectors. */
#define CONV_FUNCTION(source, vectors)                                                                                 \
    FN void conv_##source##_##vectors(const conv_block *block, conv_weights weights, int64_t row, int64_t rows,        \
                                      int64_t at, int64_t n, const conv_next *next) {                                  \
        conv_rows(vectors, source, block, weights, row, rows, at, n, next);                                            \
    }
CONV_FUNCTION(LAID_OUT, 1)
CONV_FUNCTION(LAID_OUT, 2)
CONV_FUNCTION(LAID_OUT, 3)
CONV_FUNCTION(IN_PLACE, 1)
CONV_FUNCTION(IN_PLACE, 2)
CONV_FUNCTION(IN_PLACE, 3)
CONV_FUNCTION(SCALED, 1)
CONV_FUNCTION(SCALED, 2)
CONV_FUNCTION(SCALED, 3)

static conv_function *const conv_functions[][WIDEST / VL] = {
    [LAID_OUT] = {conv_LAID_OUT_1, conv_LAID_OUT_2, conv_LAID_OUT_3},
    [IN_PLACE] = {conv_IN_PLACE_1, conv_IN_PLACE_2, conv_IN_PLACE_3},
    [SCALED] = {conv_SCALED_1, conv_SCALED_2, conv_SCALED_3},
};

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
 * reads more columns than it multiplies. The first tile reads its weights where they lie. */
FN void conv_block_rows(const conv_block *block, int64_t begin, int64_t end, int64_t n) {
    const int64_t before = block->panels > 0 ? block->panels - 1 : 0, at_last = before * PANEL;
    const int vectors = (int)((n - at_last + VL - 1) / VL), least = conv_rows_of(vectors);
    const int most = before > 0 ? CONV_ROWS : least;
    _Alignas(64) float copies[2][CONV_ROWS * CONV_PITCH];
    const bool copied = (int)CONV_ROWS > (int)CONV_WAYS && block->inner % CONV_SETS == 0 && block->panels > 1;
    conv_weights weights = {block->w + begin * block->inner, block->inner};
    int64_t count, ready = begin; /* rows before it have their last columns */
    for (int64_t tiles = (end - begin + most - 1) / most, row = begin; tiles > 0; tiles--, row += count) {
        count = (end - row + tiles - 1) / tiles;
        float *copy = copied ? copies[tiles % 2] : NULL;
        const int64_t parts = n > 0 ? (count + least - 1) / least : 0; /* of the last panel's rows */
        const int64_t left = smaller(count, end - row - count); /* rows of the next tile, shared out among the panels */
        for (int64_t i = 0; i < before + parts; i++) {
            const int64_t from = i * left / (before + parts), to = (i + 1) * left / (before + parts);
            const conv_next next = {.w = block->w + (row + count + from) * block->inner,
                                    .rows = to - from,
                                    .copy = copy ? copy + from * CONV_PITCH : NULL};
            const int64_t part = i < before ? 0 : i - before;
            const conv_source source = row > begin || part > 0 || block->x == NULL ? LAID_OUT
                                       : block->scale == NULL                      ? IN_PLACE
                                                                                   : SCALED;
            if (i < before) {
                conv_functions[source][1](block, weights, row, count, i * PANEL, PANEL, &next);
            } else {
                const int64_t first = part * count / parts, last = (part + 1) * count / parts;
                const conv_weights some = {weights.w + first * weights.pitch, weights.pitch};
                conv_functions[source][vectors - 1](block, some, row + first, last - first, at_last, n - at_last,
                                                    &next);
            }
        }
        weights =
            copy ? (conv_weights){copy, CONV_PITCH} : (conv_weights){weights.w + count * block->inner, block->inner};
        if (block->last && (row + count - ready >= VL || tiles == 1)) { /* while the weights are in the cache */
            conv_last_columns(block, ready, row + count);
            ready = row + count;
        }
    }
}

/* Whether columns are rows of the input. */
V bool conv_is_pointwise(const srt_window *w) {
    for (int axis = 0; axis < 2; axis++)
        if (w->kernel[axis] != 1 || w->stride[axis] != 1 || w->before[axis] != 0 || w->output[axis] != w->input[axis])
            return false;
    return true;
}

/* The last columns of a block, each laid out by itself, which takes two steps; room is for a panel of a vector. */
V void conv_fill_ends(const conv_block *block, const srt_window *w, bool across, const float *x, int64_t at,
                      int64_t first, float *room, float (*ends)[CONV_ENDS]) {
    const int64_t depth = block->depth;
    if (across)
        fill_across(x, block->inner, block->last, depth, room);
    else
        fill_panels(w, at, block->last, x, first, first + depth, room);
    for (int64_t i = 0; i < block->last; i++) {
        for (int64_t k = 0; k < depth; k++) ends[i][k] = room[k * VL + i];
        store(ends[i] + depth, splat(0.0f));
        for (int64_t k = 0; block->scale && k < depth; k += VL) {
            const vmask some = lanes(0, depth - k);
            const vf zero = splat(0.0f), by = load_mask(block->scale + k, some, zero);
            const vf plus = block->shift ? load_mask(block->shift + k, some, zero) : zero;
            store_mask(ends[i] + k, some, clamp(muladd(load(ends[i] + k), by, plus), block->least, block->most));
        }
    }
}

/* The second of two threads that made the parts of a share adds them up: rows begin..end of y, columns at..at + n. */
V void conv_add(const conv_job *job, int64_t begin, int64_t end, int64_t at, int64_t n) {
    const srt_convolution *c = &job->of;
    const int64_t positions = c->window->output[0] * c->window->output[1];
    const vf low = splat(c->act->low), high = splat(c->act->high), zero = splat(0.0f);
    for (int64_t row = begin; row < end; row++) {
        float *y = c->y + row * positions + at;
        const float *sums = c->sums + row * positions + at;
        for (int64_t i = 0; i < n; i += VL) {
            const vmask some = lanes(0, n - i);
            const vf all = load_mask(sums + i, some, zero) + load_mask(y + i, some, zero);
            store_mask(y + i, some, clamp(all, low, high));
        }
        if (c->act->separate) activate(y, y, n, c->act);
    }
}

/* Parts part..parts of the shares first..last of a block of positions: shares of its output channels. */
V void conv_shares(const conv_job *job, int64_t sample, int64_t group, int64_t at, int64_t first, int64_t last,
                   int64_t part, int64_t parts, float *columns) {
    const srt_convolution *c = &job->of;
    const srt_window *w = c->window;
    const int64_t positions = w->output[0] * w->output[1];
    const int64_t n = at / job->width + 1 == job->blocks ? positions - at : job->width;
    const int64_t from = group * c->outputs > c->first ? group * c->outputs : c->first;
    const int64_t rows = smaller((group + 1) * c->outputs, c->last) - from;
    const int64_t begin = from + first * rows / job->shares, end = from + last * rows / job->shares;
    const int64_t channels = sample * c->groups * c->channels + group * c->channels; /* before those of x */
    const float *x = c->x + channels * w->input[0] * w->input[1];
    const float *scale = c->scale ? c->scale + (c->each ? channels : group * c->channels) : NULL;
    const float *shift = c->shift ? c->shift + group * c->channels : NULL;
    const int64_t place = sample * c->groups * c->outputs * positions + at;
    const bool in_place = !c->across && conv_is_pointwise(w);
    const float *rows_of_x = x + at * job->inner; /* with `across` */
    const int64_t ends = n % VL <= DOTS ? n % VL : 0, whole = n - ends;
    float laid_out[DOTS][CONV_ENDS];
    for (; part < parts; part++) {
        const bool apart = job->arrived && part > 0; /* in memory of their own, to be added later */
        const int64_t k = part * job->inner / job->parts, depth = (part + 1) * job->inner / job->parts - k;
        const bool done = !job->arrived && part + 1 == job->parts;
        conv_block block = {.w = c->w + k,
                            .inner = job->inner,
                            .depth = depth,
                            .columns = columns,
                            .height = depth,
                            .y = (apart ? c->sums : c->y) + place,
                            .stride = positions,
                            .panels = panels_of(whole),
                            .bias = part == 0 ? c->bias : NULL,
                            .start = apart         ? NULL
                                     : part > 0    ? c->y + place
                                     : c->residual ? c->residual + place
                                                   : NULL,
                            .low = splat(done ? c->act->low : -INFINITY),
                            .high = splat(done ? c->act->high : INFINITY),
                            .x = in_place ? x + k * positions + at : NULL,
                            .plane = positions,
                            .scale = scale ? scale + k : NULL,
                            .shift = shift ? shift + k : NULL,
                            .least = splat(c->low),
                            .most = splat(c->high),
                            .last = ends,
                            .at = whole,
                            .ends = laid_out};
        if (c->across)
            fill_across(rows_of_x + k, job->inner, whole, depth, columns);
        else if (!in_place)
            fill_panels(w, at, whole, x, k, k + depth, columns);
        const float *from = c->across ? rows_of_x + whole * job->inner + k : x;
        if (ends) conv_fill_ends(&block, w, c->across, from, at + whole, k, columns + whole * depth, laid_out);
        conv_block_rows(&block, begin, end, whole);
    }
    if (job->arrived == NULL && c->act->separate)
        for (int64_t row = begin; row < end; row++) {
            float *y = c->y + place + row * positions;
            activate(y, y, n, c->act);
        }
    for (int64_t share = first; job->arrived && share < last; share++) {
        _Atomic int32_t *arrived = &job->arrived[at / job->width * job->shares + share];
        if (atomic_fetch_add(arrived, 1) + 1 == job->parts)
            conv_add(job, from + share * rows / job->shares, from + (share + 1) * rows / job->shares, at, n);
    }
}

FN void conv(const void *arguments, int64_t first, int64_t last) {
    const conv_job *job = arguments;
    float *columns = job->of.scratch + srt_seat() * job->of.seat;
    const int64_t groups = (job->of.last - 1) / job->of.outputs + 1 - job->of.first / job->of.outputs;
    for (int64_t shares; first < last; first += shares) {
        int64_t block = first / job->shares, share = first - block * job->shares;
        shares = smaller(job->shares - share, last - first);
        const int64_t plane = block / job->blocks, at = (block - plane * job->blocks) * job->width;
        if (job->arrived)
            conv_shares(job, 0, 0, at, share, share + shares, plane, plane + 1, columns);
        else
            conv_shares(job, plane / groups, job->of.first / job->of.outputs + plane % groups, at, share,
                        share + shares, 0, job->parts, columns);
    }
}

#endif
