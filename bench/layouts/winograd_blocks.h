/* winograd_blocks.h - the transform of weights of src/kernels/simd/winograd.h, for weights in blocks of rows. The lanes
 * are output channels, so that nothing is transposed. */
#ifndef STREAMRT_WINOGRAD_BLOCKS_H
#define STREAMRT_WINOGRAD_BLOCKS_H

/* Transforms the weights of a block of `rows` rows from `row` on, for the input channels channel..channel + depth: out
 * (PRODUCTS, depth, rows), the products `step` elements apart. It reads up to a vector behind the weights. */
FN void transform_rows(const srt_weights *weights, int64_t row, int64_t rows, int64_t channel, int64_t depth,
                       float *out, int64_t step) {
    const float *taps = floats_of(weights) + row * weights->inner + channel * 9 * rows;
    for (int64_t c = 0; c < depth; c++, taps += 9 * rows, out += rows) {
        int64_t at = 0;
        for (; at + VL <= rows; at += VL) transform_taps(taps + at, rows, true, lanes(0, VL), out + at, step);
        if (at == rows) continue;
        if (rows > VL) /* lanes that were transformed before are transformed again: a store without a mask is faster */
            transform_taps(taps + rows - VL, rows, true, lanes(0, VL), out + rows - VL, step);
        else
            transform_taps(taps + at, rows, false, lanes(0, rows - at), out + at, step);
    }
}

#endif
