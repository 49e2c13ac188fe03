/* phases.h - the input rows of one output row, sorted so that a tile of a convolution reads its columns there.
 *
 * With stride s, a tap of neighbouring windows reads every s-th element of a row. So a row is sorted into s phases, or
 * into fewer if windows are narrower: element j of phase p is the row's element j * s + p. Padding is zeros. The
 * columns of a tap then lie next to each other in one of the phases, and need not be laid out.
 */
#ifndef STREAMRT_PHASES_H
#define STREAMRT_PHASES_H

#include "columns.h"

/* y[i] = x[i * stride] for the lanes first..last of a vector, and 0 for its others. */
V void sort_lanes(const float *x, const int64_t stride, int64_t first, int64_t last, float *y) {
    const column_piece part = piece_of(0, first, last);
    const vf zero = splat(0.0f);
    if (stride == 1)
        store(y, load_mask(x, mask_of(part.inside), zero));
    else if (stride == 2)
        store(y, load_even_mask(x, mask_of(part.low), mask_of(part.high), zero));
    else {
        store(y, zero);
        copy_lanes(x, stride, part.inside, y);
    }
}

/* Sorts a row into n elements of each phase, which are whole vectors. some: the elements of each phase that are not
 * padding; all: elements that are padding in none of the phases; x: the input of element 0 of phase 0, which may be
 * padding.
 */
V void sort_row(const int64_t stride, const span *some, span all, int64_t phases, int64_t n, int64_t pitch,
                const float *x, float *y) {
    for (int64_t j = 0; j < n; j += VL, x += VL * stride, y += VL) {
        const bool whole = all.first <= j && j + VL <= all.last;
        if (whole && stride == 1) {
            store(y, load(x));
        } else if (whole && stride == 2 && phases == 2) {
            const vf low = load(x), high = load(x + VL);
            store(y, unzip_even(low, high));
            store(y + pitch, unzip_odd(low, high));
        } else {
            for (int64_t i = 0; i < phases; i++)
                sort_lanes(x + i, stride, some[i].first - j, some[i].last - j, y + i * pitch);
        }
    }
}

/* fill_phases for a stride. */
V void sort_rows(const srt_window *w, const int64_t stride, srt_steps steps, int64_t channels, int64_t row, int64_t at,
                 int64_t n, int64_t phases, int64_t pitch, const float *x, float *y) {
    const int64_t left = at * stride - w->before[1], reach = (w->kernel[1] - 1) * w->dilation[1];
    const int64_t read = (n + VL - 1) / VL * VL + ((reach + stride - 1) / stride + VL - 1) / VL * VL;
    span some[SRT_MOST_PHASES];
    span all = {0, read};
    for (int64_t phase = 0; phase < phases; phase++) {
        some[phase] = valid_outputs(left + phase, stride, w->input[1], read);
        if (some[phase].first > all.first) all.first = some[phase].first;
        if (some[phase].last < all.last) all.last = some[phase].last;
    }
    for (int64_t channel = 0; channel < channels; channel++, x += steps.plane)
        for (int64_t tap = 0; tap < w->kernel[0]; tap++, y += phases * pitch) {
            const int64_t from = row * w->stride[0] + tap * w->dilation[0] - w->before[0];
            if (from >= 0 && from < w->input[0])
                sort_row(stride, some, all, phases, read, pitch, x + from * steps.row + left, y);
            else
                memset(y, 0, (size_t)(phases * pitch) * sizeof *y);
        }
}

/* Fills the phases for the windows of the columns at..at + n of output row `row`. x: the channels of a group; y:
 * (channels, rows of the window, phases, pitch). Strides 1 and 2 have loops of their own. */
FN void fill_phases(const srt_window *w, srt_steps steps, int64_t channels, int64_t row, int64_t at, int64_t n,
                    int64_t phases, int64_t pitch, const float *x, float *y) {
    if (w->stride[1] == 1)
        sort_rows(w, 1, steps, channels, row, at, n, phases, pitch, x, y);
    else if (w->stride[1] == 2)
        sort_rows(w, 2, steps, channels, row, at, n, phases, pitch, x, y);
    else
        sort_rows(w, w->stride[1], steps, channels, row, at, n, phases, pitch, x, y);
}

#endif
