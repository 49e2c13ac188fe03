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
    float *columns;           /* laid out: see columns.h; not if they are read in phases */
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
    /* If columns are read in phases of the input, x are the phases, and the columns of a term begin at its offset. */
    const int32_t *offsets;
    /* If the columns behind the last whole vector are few: `last` columns from column `at` on, each a row of `ends`. */
    int64_t last, at;
    const float (*ends)[CONV_ENDS];
} conv_block;

/* The first half of the steps in which a tile takes `depth` terms, SRT_CONV_STEP at a time. */
V int64_t conv_half(int64_t depth) {
    return (depth + 2 * SRT_CONV_STEP - 1) / (2 * SRT_CONV_STEP);
}

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
    PHASED,   /* in the phases of the input */
} conv_source;

/* Prepares a part of the next tile's rows; called at each step of this tile. A step of the first half fetches the terms
 * of two steps, of each row. A step of the second half copies them: rows that are copied have whole pairs of steps,
 * because CONV_SETS divides `inner`. See SRT_LEAST_SETS. */
V void conv_bring(const conv_next *next, int64_t inner, int64_t depth, int64_t step) {
    if (next->rows == 0) return;
    const int64_t half = conv_half(depth), first = (step < half ? step : step - half) * 2 * SRT_CONV_STEP;
    const int64_t last = smaller(first + 2 * SRT_CONV_STEP, depth);
    const float *from = next->w + first;
    if (step < half) {
        for (int64_t i = first; i < last; i += CONV_LINE, from += CONV_LINE)
            for (int64_t r = 0; r < next->rows; r++) __builtin_prefetch(from + r * inner, 0, 2);
    } else if ((int)CONV_ROWS > (int)CONV_WAYS && next->copy) {
        float *to = next->copy + first;
        for (int64_t r = 0; r < next->rows; r++, from += inner, to += CONV_PITCH)
            for (int64_t i = 0; i < last - first; i += VL) store(to + i, load(from + i));
    }
}

/* Pointers to the weights of a tile: one for each CONV_REACH rows. */
enum { CONV_POINTERS = (CONV_ROWS + CONV_REACH - 1) / CONV_REACH };
_Static_assert((int)CONV_POINTERS <= 4, "loops over them are unrolled");

/* The next term of a tile: its weights, `pitch` floats apart, the place where its columns are laid out, and, unless
 * they are, the input. See conv_block for what follows. */
typedef struct {
    const float *w[CONV_POINTERS];
    int64_t pitch;
    float *columns;
    const float *x;
    int64_t plane;
    const float *scale, *shift;
    vf least, most;
    const int32_t *offset;
    vmask some[WIDEST / VL]; /* lanes that exist */
    bool whole;              /* whether all do */
} conv_term;

/* Returns the columns of *term in c, and moves its columns, but not its weights, to the next term. whole: whether all
 * lanes exist. */
V void conv_column(const int vectors, const conv_source source, const bool whole, conv_term *term, vf c[WIDEST / VL]) {
    const float *x = term->x, *scale = term->scale, *shift = term->shift;
    if (source == PHASED) x += *term->offset++;
#pragma GCC unroll 3
    for (int v = 0; v < vectors; v++) {
        if (source == PHASED) {
            c[v] = load(x + v * VL);
            continue;
        }
        if (source == LAID_OUT) {
            c[v] = load(term->columns + v * VL);
            continue;
        }
        __builtin_prefetch(x + (vectors + v) * VL); /* of the next panel: rows lie too far apart for hardware */
        c[v] = whole ? load(x + v * VL) : load_mask(x + v * VL, term->some[v], splat(0.0f));
        if (source == SCALED)
            c[v] = clamp(muladd(c[v], splat(*scale), splat(shift ? *shift : 0.0f)), term->least, term->most);
        store(term->columns + v * VL, c[v]);
    }
    if (source == PHASED) return;
    term->columns += vectors * VL;
    if (source != LAID_OUT) term->x += term->plane;
    if (source == SCALED) {
        term->scale++;
        if (shift) term->shift++;
    }
}

/* The same pointer. The compiler takes it for another one, and does not compute one pointer from the next. */
V const float *another(const float *p) {
    __asm__("" : "+r"(p));
    return p;
}

/* Adds one term to the sums. A weight is spread into a register and serves all vectors: a multiply-add that reads and
 * spreads it would be a load for each vector. */
V void conv_add_term(const int rows, const int vectors, const conv_source source, const bool whole, conv_term *term,
                     vf sum[CONV_ROWS][WIDEST / VL]) {
    vf c[WIDEST / VL];
    conv_column(vectors, source, whole, term, c);
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
        const vf weight = splat(term->w[r / CONV_REACH][r % CONV_REACH * term->pitch]);
#pragma GCC unroll 3
        for (int v = 0; v < vectors; v++) sum[r][v] = muladd(weight, c[v], sum[r][v]);
    }
#pragma GCC unroll 4
    for (int i = 0; i * CONV_REACH < rows; i++)
        term->w[i] = (int)CONV_POINTERS > 1 ? another(term->w[i] + 1) : term->w[i] + 1;
}

/* Adds the next `count` terms to the sums. */
V void conv_add_terms(const int rows, const int vectors, const conv_source source, int64_t count, conv_term *term,
                      vf sum[CONV_ROWS][WIDEST / VL]) {
    if (source == LAID_OUT || source == PHASED || term->whole) { /* with this branch in the loop Clang moves sums */
#pragma GCC unroll 2
        for (; count > 0; count--) conv_add_term(rows, vectors, source, true, term, sum);
    } else {
        for (; count > 0; count--) conv_add_term(rows, vectors, source, false, term, sum);
    }
}

/* Adds the bias and `start` to the sums, clamps and stores them. whole: n == vectors * VL; started: whether the
 * block has a `start`. The block is read before the first store, because the compiler takes it for memory that may
 * change with y. */
V void conv_store(const int rows, const int vectors, const bool whole, const bool started, const conv_block *block,
                  int64_t row, int64_t at, int64_t n, vf sum[CONV_ROWS][WIDEST / VL]) {
    static const float none[CONV_ROWS];
    const vf low = block->low, high = block->high;
    const float *bias = block->bias ? block->bias + row : none, *start = block->start;
    const int64_t stride = block->stride;
    float *y = block->y + row * stride + at;
    start = started ? start + row * stride + at : NULL;
    vmask some[WIDEST / VL];
    vfirst first[WIDEST / VL];
#pragma GCC unroll 3
    for (int v = 0; v < vectors; v++) {
        some[v] = lanes(0, n - v * VL);
        first[v] = first_lanes(n - v * VL);
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++, y += stride) {
        const vf plus = splat(bias[r]);
#pragma GCC unroll 3
        for (int v = 0; v < vectors; v++) {
            vf total = sum[r][v] + plus;
            if (started && whole)
                total += load(start + v * VL);
            else if (started)
                total += load_mask(start + v * VL, some[v], splat(0.0f));
            const vf done = clamp(total, low, high);
            if (whole)
                store(y + v * VL, done);
            else
                store_first(y + v * VL, first[v], done);
        }
        if (started) start += stride;
    }
}

/* Computes `rows` rows of y from `row` on, in the columns at..at + n. n <= vectors * VL. */
V void conv_tile(const int rows, const int vectors, const conv_source source, const conv_block *block,
                 conv_weights weights, int64_t row, int64_t at, int64_t n, const conv_next *next) {
    const int64_t stride = block->stride;
    const float *start = block->start ? block->start + row * stride + at : NULL;
    float *y = block->y + row * stride + at;
    const bool whole = n == vectors * VL;
    conv_term term = {.pitch = weights.pitch,
                      .columns = block->columns + at * block->height + block->from * vectors * VL,
                      .x = block->x + at,
                      .plane = block->plane,
                      .scale = block->scale,
                      .shift = block->shift,
                      .least = block->least,
                      .most = block->most,
                      .offset = block->offsets,
                      .whole = whole};
    vf sum[CONV_ROWS][WIDEST / VL];
#pragma GCC unroll 4
    for (int i = 0; i * CONV_REACH < rows; i++) term.w[i] = weights.w + i * CONV_REACH * weights.pitch;
#pragma GCC unroll 3
    for (int v = 0; v < vectors; v++) term.some[v] = lanes(0, n - v * VL);
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 3
        for (int v = 0; v < vectors; v++) sum[r][v] = splat(0.0f);
    const int64_t half = conv_half(block->depth), each = half > 0 ? (int)(rows + half - 1) / (int)half : 0;
    int64_t sought = 0; /* rows of y that are fetched: all in the first half */
    for (int64_t step = 0, left = block->depth; left > 0; step++, left -= SRT_CONV_STEP) {
        conv_bring(next, block->inner, block->depth, step);
        for (const int64_t to = smaller(rows, sought + each); sought < to; sought++)
#pragma GCC unroll 3
            for (int v = 0; v < vectors; v++) {
                if (start && start != y) __builtin_prefetch(start + sought * stride + v * VL);
                __builtin_prefetch(y + sought * stride + v * VL, 1);
            }
        conv_add_terms(rows, vectors, source, smaller(SRT_CONV_STEP, left), &term, sum);
    }
    if (!whole)
        conv_store(rows, vectors, false, start != NULL, block, row, at, n, sum);
    else if (start)
        conv_store(rows, vectors, true, true, block, row, at, n, sum);
    else
        conv_store(rows, vectors, true, false, block, row, at, n, sum);
}

/* Each number of rows has a loop of its own: the compiler keeps sums in registers only if it knows their number. */
_Static_assert((int)CONV_ROWS <= 12, "a case for each number of rows");
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
extern conv_tiles EXPORT(laid_out), EXPORT(in_place), EXPORT(scaled), EXPORT(phased);

#endif
