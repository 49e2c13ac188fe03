/* conv_tile.h - the product of some rows of weights with a panel of columns, whose sums are in registers: see conv.h.
 */
#ifndef STREAMRT_CONV_TILE_H
#define STREAMRT_CONV_TILE_H

#include "functions.h"
#include "panel.h"
#include "table.h"

/* Rows whose sums with a panel of `vectors` vectors are held in registers. */
V int conv_rows_of(const int vectors) {
    return vectors < 3 ? CONV_ROWS : CONV_ROWS_WIDE;
}

/* Floats of a column that is laid out by itself: its terms, then zeros up to a whole vector. */
enum { CONV_ENDS = SRT_CONV_DEPTH + VL };

/* A block of columns, for all its tiles. Element (row, column) of y is y[row * stride + column]. */
typedef struct {
    const float *w;           /* (rows, inner), from the block's first term on; not if the weights are decoded */
    const srt_weights *coded; /* the weights that are decoded, or NULL */
    int64_t term;             /* the block's first term, if they are */
    int64_t inner, depth;     /* terms of a row of weights, and those in this block */
    float *columns;           /* laid out: see columns.h */
    int64_t height, from;     /* rows of a panel in memory, and the first row in this block */
    float *y;
    int64_t stride;
    int64_t panels; /* all but the last have PANEL columns */
    const float *bias,
        *start;   /* added to the sums: a number for each row, or NULL; a number for each element of y, or NULL */
    vf low, high; /* clamp */
    /* For a window of 1 x 1 whose columns are not laid out yet: the input at the block's first row and column, its rows
     * `plane` elements apart. If `scale` is not NULL, the input is scaled and clamped: see srt_convolution. */
    const float *x;
    int64_t plane;
    const float *scale, *shift;
    vf least, most;
    /* If the columns behind the last whole vector are few: `last` columns from column `at` on, each a row of `ends`. */
    int64_t last, at;
    const float (*ends)[CONV_ENDS];
} conv_block;

/* Floats from one row of a copy to the next: an odd number of lines, so that rows lie in different sets. */
enum { CONV_PITCH = SRT_CONV_DEPTH + CONV_LINE };
_Static_assert(CONV_PITCH % (2 * CONV_LINE) == CONV_LINE, "an odd number of lines");

/* The weights of a tile: rows that lie `pitch` floats apart. */
typedef struct {
    const float *w;
    int64_t pitch;
} conv_weights;

/* The rows of weights that the next tile needs. They are fetched into the second-level cache while a tile is computed:
 * a row of a block is so short that the processor would fetch it too late. Then they are copied to `copy`, rows of
 * CONV_PITCH floats, unless it is NULL. */
typedef struct {
    const float *w;
    int64_t rows;
    float *copy;
} conv_next;

/* The place of a tile's columns. */
typedef enum {
    LAID_OUT,
    IN_PLACE, /* in the input; the tile lays them out for later tiles */
    SCALED,   /* in the input; the tile scales them and lays them out */
} conv_source;

/* Prepares rows of the next tile, with each line of a row of this tile. In the first half of a block two lines of each
 * row are fetched. In the second half two lines are copied. Rows that are copied have an even number of whole lines,
 * because CONV_SETS divides `inner`: see SRT_LEAST_SETS. */
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

/* Computes `rows` rows of y from `row` on, in the columns at..at + n. n <= vectors * VL. */
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
                __builtin_prefetch(x + (vectors + v) * VL); /* of the next panel: rows lie too far apart for hardware */
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
                store_first(y + r * stride + v * VL, first_lanes(n - v * VL), done);
        }
}

/* Each number of rows has a loop of its own: the compiler keeps sums in registers only if it knows their number. */
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

/* The functions of one source, by the number of vectors of a panel less 1. */
typedef conv_function *const conv_tiles[WIDEST / VL];

#define CONV_FUNCTION(source, vectors)                                                                                 \
    FN void conv_##source##_##vectors(const conv_block *block, conv_weights weights, int64_t row, int64_t rows,        \
                                      int64_t at, int64_t n, const conv_next *next) {                                  \
        conv_rows(vectors, source, block, weights, row, rows, at, n, next);                                            \
    }
#define CONV_TILES(name, source)                                                                                       \
    CONV_FUNCTION(source, 1)                                                                                           \
    CONV_FUNCTION(source, 2)                                                                                           \
    CONV_FUNCTION(source, 3)                                                                                           \
    conv_tiles name = {conv_##source##_1, conv_##source##_2, conv_##source##_3};

/* Defined in bodies.h, with CONV_TILES. */
extern conv_tiles EXPORT(laid_out), EXPORT(in_place), EXPORT(scaled);

#endif
