/* dense_wide.h - products of many rows of weights with 9 to 16 samples, which are the lanes of vectors.
 *
 * Some rows are taken at a time, a block of each: it is decoded, or copied so that rows a power of two apart do not
 * push each other out of the first-level cache. Then each weight is spread over a vector and multiplied with all
 * samples. Meanwhile the next block is decoded, because the units that multiply have nothing to do with that. A sum
 * belongs to one row and one sample. The order of its terms does not depend on other sums: those of a block one after
 * the other, then the blocks.
 */
#ifndef STREAMRT_DENSE_WIDE_H
#define STREAMRT_DENSE_WIDE_H

#include "activation.h"
#include "decode.h"

/* Vectors of all samples. Weights of a row that are multiplied before the next rows, and floats from one row of a block
 * to the next, an odd number of lines: 2 x 8 rows take 9 KiB of the first-level cache, and the samples 8 KiB. */
enum { WIDE_VECTORS = SRT_DENSE_WIDE / VL, WIDE_BLOCK = 128, WIDE_PITCH = WIDE_BLOCK + CONV_LINE };
_Static_assert((int)CONV_LINE >= (int)DECODE_SLACK, "decoded rows may overwrite the gap between two rows");
_Static_assert((int)CONV_LINE % HALF_GROUP == 0 && CONV_LINE >= 2 * WIDE_ROWS,
               "a line of each row is decoded with one");

_Static_assert((int)WIDE_ROWS <= 8 && SRT_WIDE_UNIT % WIDE_ROWS == 0, "WIDE_ROWS");

/* Weights by which a row is fetched ahead of decoding. A core multiplies 256 weights of 8 rows in 0.25 us, which is
 * longer than the latency of memory. */
enum { WIDE_AHEAD = 256 };

/* A block of whole lines that is decoded while another is multiplied. */
typedef struct {
    const uint8_t *row; /* the first row */
    const srt_weights *w;
    int64_t term; /* of the row: the block's first */
    float *out;   /* rows WIDE_PITCH floats apart */
} wide_next;

/* A line of weights of each row of the next block: its first weight in the block, and the bytes from the beginning of a
 * row to the line, to the scale of its weights, and to a line that is fetched, which may be one of the next rows. */
typedef struct {
    int64_t first, at, scale, ahead;
} wide_line;

/* The line that begins with weight `first` of the next block. */
V wide_line line_of(const int type, const wide_next *next, int64_t first) {
    const srt_weights *w = next->w;
    const int64_t k = next->term + first, ahead = w->codes + bytes_of(type, k + WIDE_AHEAD);
    const int64_t at = w->codes + (type == SRT_INT4 ? k / (2 * HALF_GROUP) * HALF_GROUP : bytes_of(type, k));
    return (wide_line){
        .first = first,
        .at = at,
        .scale = is_integer(type) ? block_of(w, k) * (int64_t)sizeof(float) : 0,
        .ahead = ahead < w->pitch ? ahead : ahead + (WIDE_ROWS - 1) * w->pitch + w->codes,
    };
}

/* Decodes a line of row r of the next block, and fetches what is decoded later. */
V void wide_decode(const int type, const wide_next *next, int64_t r, const wide_line *line) {
    const uint8_t *row = next->row + r * next->w->pitch, *from = row + line->at;
    const bool upper = (next->term + line->first) / HALF_GROUP % 2 != 0;
    block_scale by = {splat(1.0f), splat(0.0f)};
    if (is_integer(type)) {
        float number;
        memcpy(&number, row + line->scale, sizeof number);
        by.scale = splat(number);
    }
    __builtin_prefetch((const void *)((uintptr_t)row + (uintptr_t)line->ahead)); /* maybe behind all rows */
#pragma GCC unroll 4
    for (int i = 0; i < CONV_LINE; i += VL) {
        vf numbers = type == SRT_FLOAT32 ? load((const float *)(const void *)from + i)
                     : type == SRT_INT4  ? load_int4(from + i, upper)
                                         : number(type, from + bytes_of(type, i));
        store(next->out + r * WIDE_PITCH + line->first + i, weights_of(type, false, numbers, by));
    }
}

/* Adds the products of a block of `rows` rows with all samples to the sums. w: rows WIDE_PITCH floats apart; x (n,
 * SRT_DENSE_WIDE). Decodes the next block, which has n terms, too. type < 0: there is no next block. */
V void wide_block(const int type, const int rows, const float *w, const float *x, int64_t n, const wide_next *next,
                  float *sums) {
    vf acc[WIDE_ROWS][WIDE_VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < WIDE_VECTORS; v++) acc[r][v] = splat(0.0f);
    for (int64_t line = 0; line < n; line += CONV_LINE) {
        const wide_line then = type < 0 ? (wide_line){0} : line_of(type, next, line);
        const int64_t end = type < 0 ? smaller(CONV_LINE, n - line) : CONV_LINE;
#pragma GCC unroll 16
        for (int64_t k = 0; k < end; k++, x += SRT_DENSE_WIDE) {
            vf samples[WIDE_VECTORS];
#pragma GCC unroll 4
            for (int v = 0; v < WIDE_VECTORS; v++) samples[v] = load(x + v * VL);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) {
                const vf weight = splat(w[r * WIDE_PITCH + line + k]);
#pragma GCC unroll 4
                for (int v = 0; v < WIDE_VECTORS; v++) acc[r][v] = muladd(weight, samples[v], acc[r][v]);
            }
            if (type >= 0 && k % 2 != 0 && k / 2 < rows) wide_decode(type, next, k / 2, &then);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < WIDE_VECTORS; v++) {
            float *sum = sums + r * SRT_DENSE_WIDE + v * VL;
            store(sum, load(sum) + acc[r][v]);
        }
}

/* Each number of rows has a loop of its own: the compiler keeps sums in registers only if it knows their number. */
#define WIDE_CASE(count)                                                                                               \
    case count:                                                                                                        \
        if (count <= WIDE_ROWS) wide_block(-1, count <= WIDE_ROWS ? count : 1, w, x, n, NULL, sums);                   \
        break;

FN void wide_alone(int64_t rows, const float *w, const float *x, int64_t n, float *sums) {
    switch (rows) {
        WIDE_CASE(1)
        WIDE_CASE(2)
        WIDE_CASE(3)
        WIDE_CASE(4)
        WIDE_CASE(5)
        WIDE_CASE(6)
        WIDE_CASE(7)
        WIDE_CASE(8)
    }
}

/* As wide_alone for WIDE_ROWS rows of a whole block, before a whole block of the same rows. */
typedef void wide_function(const float *w, const float *x, const wide_next *next, float *sums);

#define WIDE_FUNCTION(type)                                                                                            \
    FN void wide_##type(const float *w, const float *x, const wide_next *next, float *sums) {                          \
        wide_block(type, WIDE_ROWS, w, x, WIDE_BLOCK, next, sums);                                                     \
    }
WIDE_FUNCTION(SRT_FLOAT32)
WIDE_FUNCTION(SRT_FLOAT16)
WIDE_FUNCTION(SRT_BFLOAT16)
WIDE_FUNCTION(SRT_INT8)
WIDE_FUNCTION(SRT_INT4)
static wide_function *const wide[SRT_WEIGHT_TYPES] = {[SRT_FLOAT32] = wide_SRT_FLOAT32,
                                                      [SRT_FLOAT16] = wide_SRT_FLOAT16,
                                                      [SRT_BFLOAT16] = wide_SRT_BFLOAT16,
                                                      [SRT_INT8] = wide_SRT_INT8,
                                                      [SRT_INT4] = wide_SRT_INT4};

/* Decodes or copies the weights k..k + n of the rows from `row` on. out: rows WIDE_PITCH floats apart. */
V void wide_take(const srt_weights *w, int64_t row, int64_t rows, int64_t k, int64_t n, float *out) {
    if (is_coded(w))
        decode_rows(w, row, rows, k, n, out, WIDE_PITCH);
    else
        for (int64_t r = 0; r < rows; r++)
            memcpy(out + r * WIDE_PITCH, floats_of(w) + (row + r) * w->inner + k, (size_t)n * sizeof *out);
}

/* The sums (rows, SRT_DENSE_WIDE) of the rows from `row` on. */
V void wide_sums(const dense_job *job, int64_t row, int64_t rows, float *sums) {
    const srt_weights *w = &job->w;
    const int64_t inner = w->inner;
    const bool together = rows == WIDE_ROWS && !w->zeros; /* whether whole blocks are decoded with the one before */
    _Alignas(64) float blocks[2][WIDE_ROWS * WIDE_PITCH];
    for (int64_t i = 0; i < rows * SRT_DENSE_WIDE; i++) sums[i] = 0.0f;
    if (inner > 0) wide_take(w, row, rows, 0, smaller(WIDE_BLOCK, inner), blocks[0]);
    /* The rows before have fetched the weights before WIDE_AHEAD. The second block, which is decoded while the first is
     * multiplied, fetches those from WIDE_BLOCK + WIDE_AHEAD on. */
    if (together) fetch_codes(w, row, rows, WIDE_AHEAD, smaller(WIDE_BLOCK, inner - WIDE_AHEAD));
    for (int64_t k = 0, b = 0; k < inner; k += WIDE_BLOCK, b ^= 1) {
        const float *x = job->x + k * SRT_DENSE_WIDE;
        const int64_t then = k + WIDE_BLOCK, left = inner - then;
        if (together && left >= WIDE_BLOCK) {
            const wide_next next = {.row = row_of(w, row), .w = w, .term = then, .out = blocks[b ^ 1]};
            wide[w->type](blocks[b], x, &next, sums);
            continue;
        }
        wide_alone(rows, blocks[b], x, smaller(WIDE_BLOCK, inner - k), sums);
        if (left > 0) wide_take(w, row, rows, then, smaller(WIDE_BLOCK, left), blocks[b ^ 1]);
    }
}

FN void dense_wide(const void *arguments, int64_t first, int64_t last) {
    const dense_job *job = arguments;
    const int64_t begin = first * SRT_WIDE_UNIT, end = smaller(last * SRT_WIDE_UNIT, job->rows);
    for (int64_t row = begin, rows; row < end; row += rows) {
        _Alignas(64) float sums[WIDE_ROWS * SRT_DENSE_WIDE];
        rows = smaller(WIDE_ROWS, end - row);
        wide_sums(job, row, rows, sums);
        for (int64_t s = 0; s < job->batch; s++)
            for (int64_t r = 0; r < rows; r++) job->y[s * job->stride + row + r] = sums[r * SRT_DENSE_WIDE + s];
    }
    for (int64_t s = 0; s < job->batch; s++)
        finish_row(job->y + s * job->stride + begin, end - begin, job->bias ? job->bias + begin : NULL, job->act);
}

#endif
