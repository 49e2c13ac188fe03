/* band.h - a band as a window of its own. */
#ifndef STREAMRT_BAND_H
#define STREAMRT_BAND_H

#include "kernels.h"

/* The window of a band: its input is the rows that are in memory, and its output the rows that are computed. Rows that
 * are not in memory count as padding. `before` is negative if the first rows in memory are not read. Whatever depends
 * on the size of the picture is decided with the picture's window, so that a row has the same bits in every band. */
static inline srt_window srt_band_window(const srt_window *window, const srt_band *band) {
    srt_window w = *window;
    w.before[0] += band->from - band->first * w.stride[0];
    w.after[0] += w.input[0] - band->to;
    w.input[0] = band->to - band->from;
    w.output[0] = band->last - band->first;
    return w;
}

#endif
