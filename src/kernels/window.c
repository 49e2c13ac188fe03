/* window.c - windows, and what slides them over planes, shared out by output rows: see kernels.h. */
#include "simd/table.h"

const char *srt_window_check(const srt_window *w) {
    for (int axis = 0; axis < 2; axis++) {
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
    return NULL;
}

/* Elements that one output row reads; a kernel as large as the input is not more work than the input. */
static int64_t row_cost(const srt_window *w) {
    int64_t taps = 1;
    for (int axis = 0; axis < 2; axis++) taps *= w->kernel[axis] < w->input[axis] ? w->kernel[axis] : w->input[axis];
    int64_t cost;
    return __builtin_mul_overflow(taps, w->output[1], &cost) ? INT64_MAX : cost;
}

void srt_depthwise(const float *x, const float *w, const float *bias, float *y, int64_t n, int64_t channels,
                   int64_t multiplier, const srt_window *window, int64_t first, int64_t last,
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
        .window = window,
        .act = act,
    };
    if (window->output[0] * window->output[1] > 0)
        srt_parallel(n * job.span * window->output[0], srt_grain(row_cost(window) / 4), srt_table_active()->depthwise,
                     &job);
}

static void pool(srt_range *run, const float *x, float *y, int64_t planes, const srt_window *window,
                 bool count_padding) {
    window_job job = {.x = x, .y = y, .window = window, .count_padding = count_padding};
    if (window->output[0] * window->output[1] > 0)
        srt_parallel(planes * window->output[0], srt_grain(row_cost(window) / 4), run, &job);
}

void srt_max_pool(const float *x, float *y, int64_t planes, const srt_window *window) {
    pool(srt_table_active()->max_pool, x, y, planes, window, false);
}

void srt_average_pool(const float *x, float *y, int64_t planes, const srt_window *window, bool count_padding) {
    pool(srt_table_active()->average_pool, x, y, planes, window, count_padding);
}
