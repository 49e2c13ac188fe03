/* window.c - windows, and the kernels that slide them over volumes. These are shared out by volumes, and by bands of
 * rows if volumes are few: see kernels.h. A plane is a volume of depth 1. */
#include "band.h"
#include "simd/table.h"

/* Whether a volume has at most SRT_VOLUME_MAX elements. Lengths are at most 3 * SRT_WINDOW_MAX, so that the product of
 * a plane's fits. */
static bool is_possible(int64_t height, int64_t width, int64_t depth) {
    return depth <= 1 || height * width <= SRT_VOLUME_MAX / depth;
}

const char *srt_window_check(const srt_window *w) {
    for (int axis = 0; axis < SRT_WINDOW_AXES; axis++) {
        if (w->kernel[axis] < 1 || w->stride[axis] < 1 || w->dilation[axis] < 1)
            return "kernel, strides and dilations must be at least 1";
        if (w->before[axis] < 0 || w->after[axis] < 0 || w->input[axis] < 0 || w->output[axis] < 0)
            return "pads, input and output must not be negative";
        if (w->kernel[axis] > SRT_WINDOW_MAX || w->stride[axis] > SRT_WINDOW_MAX ||
            w->dilation[axis] > SRT_WINDOW_MAX || w->before[axis] > SRT_WINDOW_MAX || w->after[axis] > SRT_WINDOW_MAX ||
            w->input[axis] > SRT_WINDOW_MAX || w->output[axis] > SRT_WINDOW_MAX)
            return "no length may exceed 2**30 - 1";
        if (w->output[axis] > 0 &&
            (w->output[axis] - 1) * w->stride[axis] >= w->input[axis] + w->before[axis] + w->after[axis])
            return "the last window begins beyond the padded input";
    }
    if (!is_possible(w->kernel[0], w->kernel[1], w->kernel[2]) ||
        !is_possible(w->input[0], w->input[1], w->input[2] + w->before[2] + w->after[2]) ||
        !is_possible(w->output[0], w->output[1], w->output[2]))
        return "no kernel, padded input or output may have over 2**60 elements";
    return NULL;
}

/* Elements that an output row of all planes of a volume reads. A kernel that is larger than the input reads no more
 * than the input. */
static int64_t row_cost(const srt_window *w) {
    int64_t taps = 1;
    for (int axis = 0; axis < SRT_WINDOW_AXES; axis++)
        taps *= w->kernel[axis] < w->input[axis] ? w->kernel[axis] : w->input[axis];
    int64_t cost;
    return __builtin_mul_overflow(taps, w->output[1] * w->output[2], &cost) ? INT64_MAX : cost;
}

/* Units for each thread, so that threads end at about the same time. */
enum { UNITS_PER_THREAD = 8 };

/* Slides the window over a band of `volumes` volumes. Each thread's share of it is cut into bands of rows only if the
 * volumes are few: a core also fetches rows behind its band, and so takes them from the core that writes them. */
static void slide(srt_range *run, window_job *job, const srt_window *window, const srt_band *band, int64_t volumes) {
    const srt_window of_band = srt_band_window(window, band), *w = &of_band;
    const int64_t rows = w->output[0];
    if (volumes == 0 || srt_volume(w->output) == 0) return;
    job->window = w;
    job->picture = window;
    job->x_steps = band->x;
    job->y_steps = band->y;
    const int64_t wanted = ((int64_t)srt_threads() * UNITS_PER_THREAD - 1) / volumes + 1;
    job->bands = wanted < rows ? wanted : rows;
    job->volumes = volumes;
    const int64_t row = row_cost(w) / 4, each = rows / job->bands;
    srt_parallel(volumes * job->bands, srt_grain(row > INT64_MAX / each ? INT64_MAX : row * each), run, job);
}

void srt_depthwise(const float *x, const float *w, const float *bias, float *y, int64_t n, int64_t channels,
                   int64_t multiplier, const srt_window *window, const srt_band *band, int64_t first, int64_t last,
                   const srt_activation *act) {
    window_job job = {
        .x = x,
        .w = w,
        .bias = bias,
        .y = y,
        .multiplier = multiplier,
        .first = first,
        .span = last - first,
        .channels_in_total = channels * multiplier,
        .act = act,
    };
    slide(srt_table_active()->depthwise, &job, window, band, n * job.span);
}

void srt_max_pool(const float *x, float *y, int64_t volumes, const srt_window *window, const srt_band *band) {
    window_job job = {.x = x, .y = y};
    slide(srt_table_active()->max_pool, &job, window, band, volumes);
}

void srt_average_pool(const float *x, float *y, int64_t volumes, const srt_window *window, const srt_band *band,
                      bool count_padding) {
    window_job job = {.x = x, .y = y, .count_padding = count_padding};
    slide(srt_table_active()->average_pool, &job, window, band, volumes);
}
