/* im2col.h - the columns of a convolution as a matrix. */
#ifndef STREAMRT_IM2COL_H
#define STREAMRT_IM2COL_H

#include "activation.h"

V void fill_zero(float *y, int64_t n) {
    for (int64_t i = 0; i < n; i += VL) store_mask(y + i, lanes(0, n - i), splat(0.0f));
}

/* y[i] = x[i * stride] */
V void copy_strided(const float *x, float *y, int64_t n, int64_t stride) {
    int64_t i = 0;
    if (stride == 1) {
        for (; i + VL <= n; i += VL) store(y + i, load(x + i));
        store_mask(y + i, lanes(0, n - i), load_mask(x + i, lanes(0, n - i), splat(0.0f)));
        return;
    }
    if (stride == 2)
        for (; i + VL <= n; i += VL) store(y + i, load_even(x + 2 * i));
    for (; i < n; i++) y[i] = x[i * stride];
}

/* The range of outputs o whose input o * stride + shift lies in 0..input. */
typedef struct {
    int64_t first, last;
} span;

V span valid_outputs(int64_t shift, int64_t stride, int64_t input, int64_t output) {
    span s = {shift < 0 ? -shift : 0, input > shift ? input - shift : 0};
    if (stride != 1) { /* rounded up; a division takes as long as many elements */
        s.first = (s.first + stride - 1) / stride;
        s.last = (s.last + stride - 1) / stride;
    }
    s.first = smaller(s.first, output);
    s.last = smaller(s.last, output);
    if (s.last < s.first) s.last = s.first;
    return s;
}

/* When stride is 1 and the output as wide as the input, a row of the matrix is the plane itself, moved. What the
 * move carries around the edge of a line is padding, and set to 0. `out` is column `first`. */
V void im2col_moved(const float *x, float *out, int64_t first, int64_t last, int64_t height, int64_t width,
                    int64_t down, int64_t right, span rows, span cols) {
    int64_t move = down * width + right;
    int64_t from = rows.first * width, to = rows.last * width;
    from = from < first ? first : from > last ? last : from;
    to = to < from ? from : to > last ? last : to;
    fill_zero(out, from - first);
    fill_zero(out + (to - first), last - to);
    int64_t copy_from = from < -move ? -move : from, copy_to = smaller(to, height * width - move);
    if (copy_from < copy_to)
        memcpy(out + (copy_from - first), x + copy_from + move, (size_t)(copy_to - copy_from) * sizeof *x);
    if (cols.first == 0 && cols.last == width) return;
    for (int64_t line = from - from % width; line < to; line += width) {
        for (int64_t i = line < from ? from : line; i < smaller(line + cols.first, to); i++) out[i - first] = 0.0f;
        for (int64_t i = line + cols.last < from ? from : line + cols.last; i < smaller(line + width, to); i++)
            out[i - first] = 0.0f;
    }
}

FN void im2col(const void *arguments, int64_t first_row, int64_t last_row) {
    const im2col_job *job = arguments;
    const srt_window *w = job->window;
    const int64_t height = w->input[0], width = w->input[1], wide = w->output[1], stride = w->stride[1];
    const int64_t first = job->first, last = job->last;
    for (int64_t row = first_row; row < last_row; row++) {
        int64_t channel = row / (w->kernel[0] * w->kernel[1]), tap = row % (w->kernel[0] * w->kernel[1]);
        int64_t down = tap / w->kernel[1] * w->dilation[0] - w->before[0];
        int64_t right = tap % w->kernel[1] * w->dilation[1] - w->before[1];
        span rows = valid_outputs(down, w->stride[0], height, w->output[0]);
        span cols = valid_outputs(right, stride, width, wide);
        const float *x = job->x + channel * height * width;
        float *out = job->out + row * (last - first);
        if (stride == 1 && w->stride[0] == 1 && wide == width) {
            im2col_moved(x, out, first, last, height, width, down, right, rows, cols);
            continue;
        }
        for (int64_t position = first, n; position < last; position += n, out += n) {
            int64_t o = position / wide, from = position - o * wide;
            n = smaller(wide - from, last - position);
            if (o < rows.first || o >= rows.last) {
                fill_zero(out, n);
                continue;
            }
            int64_t a = cols.first < from ? 0 : smaller(cols.first - from, n); /* out[a..b] is not padding */
            int64_t b = cols.last - from < a ? a : smaller(cols.last - from, n);
            fill_zero(out, a);
            if (a < b)
                copy_strided(x + (o * w->stride[0] + down) * width + (from + a) * stride + right, out + a, b - a,
                             stride);
            fill_zero(out + b, n - b);
        }
    }
}

#endif
