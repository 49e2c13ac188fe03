/* conv.c - shared out by blocks of output positions, and by output channels where those are few: see kernels.h. */
#include "simd/table.h"

/* Terms that an element costs as much as in `srt_grain`: both take about half a nanosecond on one core. */
enum { TERMS_PER_ELEMENT = 32 };

/* Units that a thread should find: so many that they can be shared out evenly. */
enum { UNITS_PER_THREAD = 8 };

/* Output channels in a share of a block, at least: below it, laying out the columns costs more than it should. */
enum { LEAST_SHARE = 28 };

static int64_t rounded_up(int64_t n, int64_t step) {
    return (n + step - 1) / step * step;
}

static int64_t divided_up(int64_t n, int64_t by) {
    return (n + by - 1) / by;
}

void srt_conv(const float *x, const float *w, const float *bias, const float *residual, float *y, int64_t n,
              int64_t groups, int64_t channels, int64_t outputs, const srt_window *window, int64_t first, int64_t last,
              float *scratch, int64_t seats, int64_t seat, const srt_activation *act) {
    const int64_t inner = channels * window->kernel[0] * window->kernel[1];
    const int64_t positions = window->output[0] * window->output[1];
    if (n == 0 || first == last || positions == 0) return;
    conv_job job = {.x = x,
                    .w = w,
                    .bias = bias,
                    .residual = residual,
                    .y = y,
                    .groups = groups,
                    .channels = channels,
                    .outputs = outputs,
                    .window = window,
                    .first = first,
                    .last = last,
                    .inner = inner,
                    .parts = inner == 0 ? 1 : divided_up(inner, SRT_CONV_DEPTH),
                    .shares = 1,
                    .scratch = scratch,
                    .seat = seat,
                    .act = act};
    /* blocks of equal width, but for what rounding to whole panels costs the last one */
    const int64_t depth = divided_up(inner, job.parts);
    const int64_t widest = depth == 0 ? positions : seat / depth / SRT_CONV_COLUMNS * SRT_CONV_COLUMNS;
    job.width = rounded_up(divided_up(positions, divided_up(positions, widest)), SRT_CONV_COLUMNS);
    job.blocks = divided_up(positions, job.width);
    const int64_t rows = last - first < outputs ? last - first : outputs; /* of one group, at most */
    const int64_t pieces = n * ((last - 1) / outputs + 1 - first / outputs) * job.blocks;
    const int64_t wanted = UNITS_PER_THREAD * (seats < srt_threads() ? seats : srt_threads());
    if (pieces < wanted) {
        int64_t most = rows / LEAST_SHARE < 1 ? 1 : rows / LEAST_SHARE;
        job.shares = divided_up(wanted, pieces);
        if (job.shares > most) job.shares = most;
    }
    const double terms = (double)rows / (double)job.shares * (double)job.width * (double)inner / TERMS_PER_ELEMENT;
    srt_parallel_on(seats, pieces * job.shares, srt_grain(terms < 1e15 ? (int64_t)terms : (int64_t)1e15),
                    srt_table_active()->conv, &job);
}
