/* conv_blocks.h - the tiles of src/kernels/simd/conv.h, for weights in blocks of rows.
 *
 * A block has SRT_BLOCK rows, the last one the rows that are left. It is (terms, rows), so the weights that a tile
 * spreads over vectors one after the other are neighbours.
 */
#ifndef STREAMRT_CONV_BLOCKS_H
#define STREAMRT_CONV_BLOCKS_H

/* The weights of a block of rows, from the first term of a block of columns on. */
V const float *rows_at(const conv_block *block, int64_t top, int64_t height) {
    return block->w - block->term + top * block->inner + block->term * height;
}

/* Adds the products of a block of `height` rows with `count` columns to vectors of sums, `turns` terms at a time, so
 * that sums do not wait for each other. */
V void conv_block_ends(const int count, const int turns, const conv_block *block, const float *w, int64_t height,
                       float sums[DOTS][SRT_BLOCK + VL]) {
    enum { VECTORS = (SRT_BLOCK + VL - 1) / VL };
    vf sum[DOTS * 4][VECTORS];
    vmask some[VECTORS];
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++) some[v] = lanes(0, height - v * VL);
#pragma GCC unroll 16
    for (int i = 0; i < count * turns; i++)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) sum[i][v] = splat(0.0f);
    for (int64_t k = 0; k < block->depth; k += turns)
#pragma GCC unroll 4
        for (int turn = 0; turn < turns; turn++) {
            if (k + turn >= block->depth) break;
            vf weights[VECTORS];
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; v++)
                weights[v] = load_mask(w + (k + turn) * height + v * VL, some[v], splat(0.0f));
#pragma GCC unroll 4
            for (int c = 0; c < count; c++)
#pragma GCC unroll 2
                for (int v = 0; v < VECTORS; v++)
                    sum[c * turns + turn][v] =
                        muladd(weights[v], splat(block->ends[c][k + turn]), sum[c * turns + turn][v]);
        }
#pragma GCC unroll 4
    for (int c = 0; c < count; c++)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) {
            vf total = sum[c * turns][v];
#pragma GCC unroll 4
            for (int turn = 1; turn < turns; turn++) total += sum[c * turns + turn][v];
            store(sums[c] + v * VL, total);
        }
}

/* Computes rows begin..end of y, which are of one block of rows, in the last columns of a block of columns. */
FN void conv_last_columns(const conv_block *block, int64_t begin, int64_t end, int64_t top, int64_t height) {
    float sums[DOTS][SRT_BLOCK + VL];
    const float *w = rows_at(block, top, height);
    switch (block->last) {
    case 1:
        conv_block_ends(1, 4, block, w, height, sums);
        break;
    case 2:
        conv_block_ends(2, 2, block, w, height, sums);
        break;
    case 3:
        conv_block_ends(DOTS < 3 ? 1 : 3, 1, block, w, height, sums);
        break;
    case 4:
        conv_block_ends(DOTS < 4 ? 1 : 4, 1, block, w, height, sums);
        break;
    }
    for (int64_t to = begin; to < end; to++)
        for (int64_t c = 0; c < block->last; c++) {
            const int64_t at = to * block->stride + block->at + c;
            float total = sums[c][to - top] + (block->bias ? block->bias[to] : 0.0f);
            if (block->start) total += block->start[at];
            block->y[at] = clamp(splat(total), block->low, block->high)[0];
        }
}

/* Computes rows begin..end of y in the n columns of a block. A tile has rows of one block of rows, and the tiles of a
 * block have equally many. During a tile its part of the next block of rows is fetched, up to row `more`. */
FN void conv_block_rows(const conv_block *block, int64_t begin, int64_t end, int64_t more, int64_t n) {
    const int64_t before = block->panels > 0 ? block->panels - 1 : 0, at_last = before * PANEL;
    const int vectors = (int)((n - at_last + VL - 1) / VL), least = conv_rows_of(vectors);
    const int most = before > 0 ? CONV_ROWS : least;
    for (int64_t row = begin, count; row < end; row += count) {
        const int64_t top = row / SRT_BLOCK * SRT_BLOCK, height = smaller(SRT_BLOCK, block->outputs - top);
        const int64_t left = smaller(end, top + height) - row, tiles = (left + most - 1) / most;
        count = (left + tiles - 1) / tiles;
        const conv_weights weights = {rows_at(block, top, height) + row - top, height};
        const int64_t then = top + SRT_BLOCK, then_height = smaller(SRT_BLOCK, block->outputs - then);
        const bool ahead = then < (then < end ? end : more);
        const int64_t begins = ahead ? (row - top) * then_height / height : 0;
        const int64_t fetched = ahead ? (row - top + count) * then_height / height - begins : 0;
        const float *next_rows = ahead ? rows_at(block, then, then_height) : NULL;
        const int64_t parts = n > 0 ? (count + least - 1) / least : 0; /* the last panel may take fewer rows at once */
        for (int64_t i = 0; i < before + parts; i++) {
            const int64_t from = begins + i * fetched / (before + parts);
            const int64_t to = begins + (i + 1) * fetched / (before + parts);
            const conv_next next = {.w = ahead ? next_rows + from * block->depth : NULL, .rows = to - from};
            const int64_t part = i < before ? 0 : i - before;
            conv_function *const *const tile_of = row > begin || part > 0 || block->x == NULL ? EXPORT(laid_out)
                                                  : block->scale == NULL                      ? EXPORT(in_place)
                                                                                              : EXPORT(scaled);
            if (i < before) {
                tile_of[1](block, weights, row, count, i * PANEL, PANEL, &next);
            } else {
                const int64_t first = part * count / parts, last = (part + 1) * count / parts;
                const conv_weights some = {weights.w + first, height};
                tile_of[vectors - 1](block, some, row + first, last - first, at_last, n - at_last, &next);
            }
        }
        if (block->last && left == count) { /* while the block of rows is in the cache */
            const int64_t first = begin > top ? begin : top;
            conv_last_columns(block, first, row + count, top, height);
        }
    }
}

/* The first of `rows` rows of a share: that of a block of rows, or of half of one if there are more shares than blocks.
 */
V int64_t share_begins(int64_t rows, int64_t share, int64_t shares) {
    const int64_t blocks = (rows + SRT_BLOCK - 1) / SRT_BLOCK, unit = shares > blocks ? SRT_BLOCK / 2 : SRT_BLOCK;
    return smaller(rows, share * ((rows + unit - 1) / unit) / shares * unit);
}

#endif
