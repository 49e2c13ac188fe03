/* conv.c - shared out by blocks of output positions, and by output channels where those are few: see kernels.h. */
#include "sharing.h"
#include "simd/table.h"

/* Terms that an element costs as much as in `srt_grain`: both take about half a nanosecond on one core. */
enum { TERMS_PER_ELEMENT = 32 };

/* Output channels of a unit, at least: a tile of every instruction set. */
enum { LEAST_ROWS = 14 };

/* Laying out a column takes as long as multiplying it with so many rows, and bringing a row of weights here as
 * multiplying it with so many columns. */
enum { LAYOUT = 6, POINTWISE_LAYOUT = 2, FETCH = 8 };

/* Terms for which a core takes as long as another one to begin. */
enum { LATE = 200 * 1000 };

void srt_conv(const srt_convolution *c) {
    const srt_window *window = c->window;
    const int64_t inner = c->channels * window->kernel[0] * window->kernel[1];
    const int64_t positions = window->output[0] * window->output[1];
    if (c->n == 0 || c->first == c->last || positions == 0) return;
    conv_job job = {.of = *c, .inner = inner, .parts = inner == 0 ? 1 : divided_up(inner, SRT_CONV_DEPTH)};
    const int64_t depth = divided_up(inner, job.parts);
    const int64_t rows = c->last - c->first < c->outputs ? c->last - c->first : c->outputs; /* of one group, at most */
    const srt_product product = {
        .pieces = c->n * ((c->last - 1) / c->outputs + 1 - c->first / c->outputs),
        .columns = positions,
        .step = SRT_CONV_COLUMNS / 2,
        .widest = depth == 0 ? rounded_up(positions, SRT_CONV_COLUMNS)
                             : c->seat / depth / SRT_CONV_COLUMNS * SRT_CONV_COLUMNS,
        .rows = rows,
        .least = LEAST_ROWS,
        .layout = inner == c->channels ? POINTWISE_LAYOUT : LAYOUT,
        .fetch = FETCH,
        .late = (double)LATE / (double)(inner + 1),
        .threads = c->seats < srt_threads() ? c->seats : srt_threads(),
    };
    const srt_sharing sharing = srt_share_out(&product);
    job.width = sharing.width;
    job.blocks = sharing.blocks;
    job.shares = sharing.shares;
    const double terms = (double)rows / (double)job.shares * (double)job.width * (double)inner / TERMS_PER_ELEMENT;
    srt_parallel_on(c->seats, product.pieces * job.blocks * job.shares,
                    srt_grain(terms < 1e15 ? (int64_t)terms : (int64_t)1e15), srt_table_active()->conv, &job);
}
