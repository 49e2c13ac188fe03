/* winograd_few.h - winograd.h for at most 8 tiles, which would leave lanes empty: a map of 7 x 7 has four.
 *
 * Output channels lie across the lanes of vectors. A transformed input is spread over a vector when it is used. Sums
 * are transposed at the end, so that winograd.h can transform inputs and outputs.
 */
#ifndef STREAMRT_WINOGRAD_FEW_H
#define STREAMRT_WINOGRAD_FEW_H

#include "winograd.h"

/* FEW_DEPTH: input channels whose weights are transformed together, for VL output channels. 36 matrices of 8 x 16 have
 * 18 KiB; with 64 x 32 they leave the first-level cache, and a layer takes 33 % longer. FEW_AHEAD: input channels by
 * which weights are fetched ahead, 4 blocks. */
enum { FEW_DEPTH = TILE, FEW_AHEAD = 4 * FEW_DEPTH };
_Static_assert((int)SRT_FEW_TILES >= (int)TILE, "scratch memory is for so many");
_Static_assert(SRT_FEW_TILES == 8 && (int)PANEL >= 8, "four_products and eight_products; a panel has all tiles");

/* Transforms the weights of the `rows` <= VL output channels from `row` on, for the `depth` <= TILE input channels from
 * `channel` on: out (PRODUCTS, FEW_DEPTH, VL), of which `depth` is written. */
V void transform_across(const srt_weights *weights, int64_t row, int64_t rows, int64_t channel, int64_t depth,
                        float *out) {
    _Alignas(64) float taps[9 * TILE][VL];
    float rest[VL * 9 * TILE + DECODE_SLACK];
    const float *w = rest;
    int64_t inner = 9 * TILE;
    if (is_coded(weights)) {
        /* Rows and channels that are missing are not used, but arithmetic is slow with some numbers. */
        if (rows < VL || depth < TILE) memset(rest, 0, sizeof rest);
        decode_rows(weights, row, rows, channel * 9, depth * 9, rest, inner);
    } else {
        w = floats_of(weights) + row * weights->inner + channel * 9, inner = weights->inner;
        if (rows < VL || depth < TILE) {
            memset(rest, 0, sizeof rest);
            for (int64_t i = 0; i < rows; i++)
                memcpy(rest + i * 9 * TILE, w + i * inner, (size_t)depth * 9 * sizeof *w);
            w = rest, inner = 9 * TILE;
        }
    }
    for (int i = 0; i < VL; i += TILE) /* all are stored before any is read: a load waits for narrower stores */
        for (int j = 0; j < 9 * TILE; j += TILE) transpose_tile(w + i * inner + j, inner, taps[j] + i, VL);
    for (int64_t i = 0; i < depth; i++)
        transform_taps(taps[9 * i], VL, true, lanes(0, VL), out + i * VL, FEW_DEPTH * VL);
}

/* Adds one product of inputs (depth, tiles) and weights (depth, VL) to sums (tiles, VL). */
V void few_product(const int tiles, const float *inputs, const float *weights, int64_t depth, float *sums) {
    vf sum[SRT_FEW_TILES];
#pragma GCC unroll 8
    for (int t = 0; t < tiles; t++) sum[t] = load(sums + t * VL);
    for (int64_t c = 0; c < depth; c++, inputs += tiles, weights += VL) {
        const vf w = load(weights);
#pragma GCC unroll 8
        for (int t = 0; t < tiles; t++) sum[t] = muladd(splat(inputs[t]), w, sum[t]);
    }
#pragma GCC unroll 8
    for (int t = 0; t < tiles; t++) store(sums + t * VL, sum[t]);
}

/* Computes the sums of `rows` <= VL output channels from `row` on, of a share that ends at `end`: sums (PRODUCTS, few,
 * VL) from inputs (PRODUCTS, channels, few), whose products are `step` elements apart. */
V void few_products(const int few, const winograd_job *job, int64_t row, int64_t rows, int64_t end, const float *inputs,
                    int64_t step, float *sums) {
    const int64_t channels = job->of.channels;
    const srt_weights *w = &job->of.w;
    _Alignas(64) float weights[PRODUCTS][FEW_DEPTH * VL];
    memset(sums, 0, sizeof *sums * PRODUCTS * VL * (size_t)few);
    for (int64_t c = 0, depth; c < channels; c += depth) {
        depth = smaller(FEW_DEPTH, channels - c);
        transform_across(w, row, rows, c, depth, weights[0]);
        const weights_next next = weights_after(job, row, rows, end, c + FEW_AHEAD);
        for (int64_t product = 0; product < PRODUCTS; product++) {
            if (product >= next.rows) /* a row with each product; there are more products than rows */
                ;
            else if (is_coded(w))
                fetch_codes(w, next.row + product, 1, next.first, depth * 9);
            else
                for (int64_t i = 0; i < depth * 9; i += CONV_LINE)
                    __builtin_prefetch(floats_of(w) + (next.row + product) * w->inner + next.first + i, 0, 2);
            few_product(few, inputs + product * step + c * few, weights[product], depth, sums + product * few * VL);
        }
    }
}

FN void four_products(const winograd_job *job, int64_t row, int64_t rows, int64_t end, const float *inputs,
                      int64_t step, float *sums) {
    few_products(4, job, row, rows, end, inputs, step, sums);
}

FN void eight_products(const winograd_job *job, int64_t row, int64_t rows, int64_t end, const float *inputs,
                       int64_t step, float *sums) {
    few_products(8, job, row, rows, end, inputs, step, sums);
}

/* Computes the shares first..last of a job, whose tiles are one block. */
FN void winograd_few_shares(const winograd_job *job, int64_t group, int64_t at, int64_t first, int64_t last, bool ready,
                            float *inputs) {
    const int64_t few = job->few, full = few > VL ? few : VL; /* lanes of a panel, in whole vectors */
    const int64_t step = apart(job->of.channels * few + VL), sums_step = VL * full + 16;
    const span share = rows_of_shares(job, group, first, last);
    /* `across` has the sums by tiles. `more` is a square behind them that is transposed together with the last tiles.
     * `sums` has the sums by output channels; 16 floats more for each product, so that products lie in different sets
     * of the first-level cache. Lanes without a tile are zeros, as arithmetic is slow with some numbers. */
    float *across = inputs + PRODUCTS * step, *more = across + PRODUCTS * few * VL, *sums = more + TILE * VL;
    memset(more, 0, sizeof *more * (size_t)(TILE * VL + PRODUCTS * sums_step));
    tile_panel panel;
    find_strips(job, at, job->tiles, &panel);
    if (ready)
        ;
    else if (few > VL)
        transform_wide_panel(job, &panel, planes_of(job, group), inputs, step);
    else /* the lanes of a vector behind `few` are overwritten by the next channel */
        transform_narrow_panel(job, &panel, planes_of(job, group), few, inputs, step);
    for (int64_t row = share.first, rows; row < share.last; row += rows) {
        rows = smaller(VL, share.last - row);
        (few == 4 ? four_products : eight_products)(job, row, rows, share.last, inputs, step, across);
        for (int64_t product = 0; product < PRODUCTS; product++)
            for (int64_t t = 0; t < few; t += TILE)
                for (int64_t r = 0; r < VL; r += TILE)
                    transpose_tile(across + (product * few + t) * VL + r, VL, sums + product * sums_step + r * full + t,
                                   full);
        finish_panel(job, &panel, sums, sums_step, full, row, rows);
    }
}

FN void winograd_few(const void *arguments, int64_t first, int64_t last) {
    winograd_units(arguments, first, last, winograd_few_shares);
}

#endif
