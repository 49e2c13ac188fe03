/* winograd.c - shared out by blocks of tiles, and by output channels where those are few: see kernels.h. */
#include "simd/table.h"

/* Floats of scratch memory for a thread, at most: 1.5 MiB, so that a second-level cache of 2 MiB holds it. */
enum { MOST = 3 << 17 };

/* Tiles of a block are a multiple of this: whole vectors of every instruction set. */
enum { LANES = 16 };

/* Output channels in a share of a block, at least: below it, transforming the inputs costs more than it should. */
enum { LEAST_SHARE = 28 };

enum { PRODUCTS = 36, OUT = 4 };

/* Terms below which nothing is gained that could be noticed. */
#define LEAST_TERMS 4e6

static int64_t divided_up(int64_t n, int64_t by) {
    return (n + by - 1) / by;
}

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Floats that a block of so many tiles needs. */
static int64_t floats_of(int64_t channels, int64_t lanes) {
    /* 16 more for each product: see `apart` */
    return PRODUCTS *
           ((channels + SRT_WINOGRAD_ROWS) * lanes + SRT_WINOGRAD_ROWS * smaller(channels, SRT_WINOGRAD_DEPTH) + 48);
}

/* The largest block that fits a number of floats: 0 or a multiple of LANES. */
static int64_t lanes_in(int64_t channels, int64_t floats) {
    int64_t left = floats - floats_of(channels, 0);
    return left < 0 ? 0 : left / (PRODUCTS * (channels + SRT_WINOGRAD_ROWS)) / LANES * LANES;
}

static int64_t tiles_of(const srt_window *w) {
    return divided_up(w->output[0], OUT) * divided_up(w->output[1], OUT);
}

int64_t srt_winograd_seat(int64_t n, int64_t channels, int64_t outputs, const srt_window *w) {
    for (int axis = 0; axis < 2; axis++)
        if (w->kernel[axis] != 3 || w->stride[axis] != 1 || w->dilation[axis] != 1) return 0;
    const int64_t most = channels > MOST ? 0 : lanes_in(channels, MOST);
    if (most == 0) return 0;
    const double positions = (double)n * (double)w->output[0] * (double)w->output[1];
    const double weights = (double)channels * (double)outputs, terms = weights * 9 * positions;
    const int64_t tiles = n * tiles_of(w), blocks = divided_up(tiles, most);
    const double lanes = (double)(divided_up(tiles, LANES) * LANES);
    /* In terms, as many as are multiplied in the time: measured with AVX-512, where a cycle has 32 of them. With AVX2
     * both take twice as long. A transform costs 20 cycles for each input channel of a tile, 5 for each pair of
     * channels in a block, and 8 for each output channel of a tile. */
    const double transforms =
        32 * (20 * (double)channels * lanes + 5 * weights * (double)blocks + 8 * (double)outputs * lanes);
    if (terms < LEAST_TERMS || PRODUCTS * weights * lanes + transforms > 0.9 * terms) return 0;
    return floats_of(channels, smaller(most, divided_up(tiles, LANES) * LANES));
}

void srt_winograd(const float *x, const float *w, const float *bias, const float *residual, float *y, int64_t n,
                  int64_t groups, int64_t channels, int64_t outputs, const srt_window *window, int64_t first,
                  int64_t last, float *scratch, int64_t seats, int64_t seat, const srt_activation *act) {
    const int64_t tiles = n * tiles_of(window), lanes = lanes_in(channels, seat);
    if (tiles == 0 || first == last) return;
    winograd_job job = {.x = x,
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
                        .tiles = tiles,
                        .shares = 1,
                        .depth = smaller(channels, SRT_WINOGRAD_DEPTH),
                        .scratch = scratch,
                        .seat = seat,
                        .act = act};
    const int64_t threads = smaller(seats, srt_threads()), parts = (last - 1) / outputs + 1 - first / outputs;
    job.blocks = divided_up(tiles, lanes);
    if (parts * job.blocks < 4 * threads && tiles >= 2 * LANES * threads) /* as many for each thread */
        job.blocks = divided_up(job.blocks, threads) * threads;
    job.width = divided_up(divided_up(tiles, job.blocks), LANES) * LANES;
    job.blocks = divided_up(tiles, job.width);
    if (parts * job.blocks < threads) {
        const int64_t rows = smaller(last - first, outputs), most = rows / LEAST_SHARE < 1 ? 1 : rows / LEAST_SHARE;
        job.shares = smaller(most, divided_up(threads, parts * job.blocks));
    }
    srt_parallel_on(seats, parts * job.blocks * job.shares, 1, srt_table_active()->winograd, &job);
}
