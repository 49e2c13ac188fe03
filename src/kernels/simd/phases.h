/* phases.h - the input rows of one output row, sorted so that a tile of a convolution reads its columns there.
 *
 * With stride s, a tap of neighbouring windows reads every s-th element of a row. So a row is sorted into s phases, or
 * into fewer if windows are narrower: element j of phase p is the row's element j * s + p. Padding is zeros. The
 * columns of a tap then lie next to each other in one of the phases, and need not be laid out.
 */
#ifndef STREAMRT_PHASES_H
#define STREAMRT_PHASES_H

#include "columns.h"

/* y[i] = x[i * stride] for the lanes of a vector that a piece has inside, and 0 for its others. */
V void sort_lanes(const float *x, const int64_t stride, const column_piece *part, float *y) {
    const vf zero = splat(0.0f);
    if (stride == 1)
        store(y, load_mask(x, mask_of(part->inside), zero));
    else if (stride == 2)
        store(y, load_even_mask(x, mask_of(part->low), mask_of(part->high), zero));
    else {
        store(y, zero);
        copy_lanes(x, stride, part->inside, y);
    }
}

/* Sorts the elements begin..end of each phase of a row, which are whole vectors without padding. Stride 1, or stride 2
 * and two phases. x: the input of element 0 of phase 0, which may be padding. */
V void sort_row(const int64_t stride, int64_t begin, int64_t end, int64_t pitch, const float *x, float *y) {
    for (int64_t j = begin; j < end; j += VL) {
        const float *from = x + j * stride;
        if (stride == 1) {
            store(y + j, load(from));
        } else {
            const vf low = load(from), high = load(from + VL);
            store(y + j, unzip_even(low, high));
            store(y + j + pitch, unzip_odd(low, high));
        }
    }
}

/* Where the input row of a tap of an output row begins, for a tap inside the input. */
V int64_t input_row(const srt_window *w, srt_steps steps, int64_t row, int64_t tap) {
    return (row * w->stride[0] - w->before[0] + tap * w->dilation[0]) * steps.row;
}

/* fill_phases for a stride. Vectors with padding, and all vectors of other strides than those of sort_row, come last:
 * their masks are made once for all rows. */
V void sort_rows(const srt_window *w, const int64_t stride, srt_steps steps, int64_t channels, int64_t row, int64_t at,
                 int64_t n, int64_t phases, int64_t pitch, const float *x, float *y) {
    const int64_t left = at * stride - w->before[1], reach = (w->kernel[1] - 1) * w->dilation[1];
    const int64_t read = (n + VL - 1) / VL * VL + ((reach + stride - 1) / stride + VL - 1) / VL * VL;
    const int64_t taps = w->kernel[0];
    const span rows = valid_outputs(row * w->stride[0] - w->before[0], w->dilation[0], w->input[0], taps);
    span some[SRT_MOST_PHASES]; /* the elements of each phase that are not padding */
    int64_t begin = 0, end = stride == 1 || (stride == 2 && phases == 2) ? read : 0; /* padding in none of the phases */
    for (int64_t phase = 0; phase < phases; phase++) {
        some[phase] = valid_outputs(left + phase, stride, w->input[1], read);
        begin = larger(begin, (some[phase].first + VL - 1) / VL * VL);
        end = smaller(end, some[phase].last / VL * VL);
    }
    for (int64_t channel = 0; channel < channels; channel++)
        for (int64_t tap = 0; tap < taps; tap++) {
            float *to = y + (channel * taps + tap) * phases * pitch;
            if (rows.first <= tap && tap < rows.last)
                sort_row(stride, begin, end, pitch, x + channel * steps.plane + input_row(w, steps, row, tap) + left,
                         to);
            else
                memset(to, 0, (size_t)(phases * pitch) * sizeof *y);
        }
    for (int64_t j = 0; j < read; j += VL) {
        if (begin <= j && j < end) continue;
        column_piece parts[SRT_MOST_PHASES];
        for (int64_t phase = 0; phase < phases; phase++)
            parts[phase] = piece_of(0, some[phase].first - j, some[phase].last - j);
        for (int64_t channel = 0; channel < channels; channel++)
            for (int64_t tap = rows.first; tap < rows.last; tap++) {
                const float *from = x + channel * steps.plane + input_row(w, steps, row, tap) + left + j * stride;
                float *to = y + (channel * taps + tap) * phases * pitch + j;
                for (int64_t phase = 0; phase < phases; phase++)
                    sort_lanes(from + phase, stride, &parts[phase], to + phase * pitch);
            }
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
