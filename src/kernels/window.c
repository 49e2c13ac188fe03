/* window.c - windows, and the kernels that slide them over planes. These are shared out by planes, and by bands of rows
 * if planes are few: see kernels.h. */
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

/* Elements that one output row reads. A kernel that is larger than the input reads no more than the input. */
static int64_t row_cost(const srt_window *w) {
    int64_t taps = 1;
    for (int axis = 0; axis < 2; axis++) taps *= w->kernel[axis] < w->input[axis] ? w->kernel[axis] : w->input[axis];
    int64_t cost;
    return __builtin_mul_overflow(taps, w->output[1], &cost) ? INT64_MAX : cost;
}

/* Units for each thread, so that threads end at about the same time. */
enum { UNITS_PER_THREAD = 8 };

/* Slides the window over `planes` planes. Planes are cut into bands only if they are few: a core also fetches rows
 * behind its band, and so takes them from the core that writes them. */
static void slide(srt_range *run, window_job *job, int64_t planes) {
    const srt_window *w = job->window;
    const int64_t rows = w->output[0];
    if (planes == 0 || rows == 0 || w->output[1] == 0) return;
    const int64_t wanted = ((int64_t)srt_threads() * UNITS_PER_THREAD - 1) / planes + 1;
    job->bands = wanted < rows ? wanted : rows;
    job->planes = planes;
    const int64_t row = row_cost(w) / 4, each = rows / job->bands;
    srt_parallel(planes * job->bands, srt_grain(row > INT64_MAX / each ? INT64_MAX : row * each), run, job);
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
    slide(srt_table_active()->depthwise, &job, n * job.span);
}

void srt_max_pool(const float *x, float *y, int64_t planes, const srt_window *window) {
    window_job job = {.x = x, .y = y, .window = window};
    slide(srt_table_active()->max_pool, &job, planes);
}

void srt_average_pool(const float *x, float *y, int64_t planes, const srt_window *window, bool count_padding) {
    window_job job = {.x = x, .y = y, .window = window, .count_padding = count_padding};
    slide(srt_table_active()->average_pool, &job, planes);
}
