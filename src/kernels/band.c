/* band.c - the rows that bands read, the checks of a band, and moving rows: see kernels.h. */
#include "band.h"

#include <string.h>

#include "../parallel.h"
#include "sharing.h"

/* Whether the window slides over planes. */
static bool is_flat(const srt_window *w) {
    return w->kernel[2] == 1 && w->before[2] == 0 && w->after[2] == 0 && w->input[2] == 1 && w->output[2] == 1;
}

srt_band srt_whole(const srt_window *w) {
    const srt_steps x = {w->input[1], srt_volume(w->input)}, y = {w->output[1], srt_volume(w->output)};
    return (srt_band){.last = w->output[0], .to = w->input[0], .x = x, .y = y, .residual = y};
}

void srt_rows_read(const srt_window *w, int64_t first, int64_t last, int64_t *from, int64_t *to) {
    const int64_t begin = first * w->stride[0] - w->before[0];
    const int64_t end = (last - 1) * w->stride[0] - w->before[0] + (w->kernel[0] - 1) * w->dilation[0] + 1;
    *from = begin > 0 ? smaller(begin, w->input[0]) : 0;
    *to = first < last && end > *from ? smaller(end, w->input[0]) : *from;
}

/* Whether rows of `width` elements can lie so far apart. The product of a row's step with a row's number fits an
 * int64_t, as it does for the longest row. */
static bool are_apart(const srt_steps *steps, int64_t width) {
    return width <= steps->row && steps->row <= SRT_WINDOW_MAX && 0 <= steps->plane && steps->plane <= SRT_VOLUME_MAX;
}

static bool are_equal(const srt_steps *a, const srt_steps *b) {
    return a->row == b->row && a->plane == b->plane;
}

const char *srt_band_check(const srt_window *w, const srt_band *band) {
    if (band->first < 0 || band->first > band->last || band->last > w->output[0])
        return "the rows of a band must lie in the output";
    if (band->from < 0 || band->from > band->to || band->to > w->input[0])
        return "the rows in memory must lie in the input";
    int64_t from, to;
    srt_rows_read(w, band->first, band->last, &from, &to);
    if (from < to && (from < band->from || to > band->to)) return "a row that the band reads is not in memory";
    if (!are_apart(&band->x, w->input[1]) || !are_apart(&band->y, w->output[1]) ||
        !are_apart(&band->residual, w->output[1]))
        return "rows must not overlap, and lie at most 2**30 - 1 elements apart";
    const srt_band whole = srt_whole(w);
    if (!is_flat(w) &&
        (band->first != 0 || band->last != whole.last || band->from != 0 || band->to != whole.to ||
         !are_equal(&band->x, &whole.x) || !are_equal(&band->y, &whole.y) || !are_equal(&band->residual, &whole.y)))
        return "a band of volumes must have all rows, without gaps";
    return NULL;
}

typedef struct { /* a unit is a plane */
    float *x;
    srt_steps steps;
    int64_t width, from, to, count;
} move_job;

static void move_planes(const void *arguments, int64_t first, int64_t last) {
    const move_job *job = arguments;
    const int64_t row = job->steps.row;
    const int64_t together = row == job->width ? job->count : 1; /* rows without gaps */
    for (float *x = job->x + first * job->steps.plane; first < last; first++, x += job->steps.plane)
        for (int64_t i = 0; i < job->count; i += together)
            memmove(x + (job->to + i) * row, x + (job->from + i) * row, (size_t)(together * job->width) * sizeof *x);
}

void srt_move_rows(float *x, srt_steps steps, int64_t planes, int64_t width, int64_t from, int64_t to, int64_t count) {
    const move_job job = {x, steps, width, from, to, count};
    if (count > 0 && from != to) srt_parallel(planes, srt_grain(count * width), move_planes, &job);
}
