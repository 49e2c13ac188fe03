/* winograd.c - Winograd's convolution is shared out by blocks of tiles, and by output channels if blocks are few: see
 * kernels.h. */
#include "band.h"
#include "sharing.h"
#include "simd/table.h"

/* Floats of scratch memory for a thread. A block of tiles has at least the tiles that fit LEAST, 1.5 MiB. For every
 * block all weights are transformed again, so ENOUGH tiles are better, if they fit MOST, 6 MiB for a thread, and ALL,
 * 16 MiB for all threads. Inputs that fit no second-level cache are read in order: a larger block took 0.82 of the time
 * with 512 channels of 28 x 28, and 0.95 with 256 of 56 x 56 (Zen 4, 2 threads). */
enum { LEAST = 3 << 17, MOST = 3 << 19, ALL = 1 << 22, ENOUGH = 112 };

/* Costs of transforming an input channel of a tile, and of transforming the weights of an output channel. The unit is
 * the time to multiply an input channel of a tile for one output channel. With AVX-512 a cycle computes 32 of the
 * PRODUCTS of a tile. With AVX2 multiplying and transforming both take twice as long, so the costs are the same. FETCH
 * is four times the instructions of the transform, because weights come from memory and transformed weights leave the
 * first-level cache: 23 cycles for each pair of channels, measured with 512 channels (Zen 4). */
enum { LAYOUT = 18, FETCH = 20 };

/* Products of a tile, and the side of its outputs: see simd/winograd.h. */
enum { PRODUCTS = 36, OUT = 4 };

/* The fewest terms of a convolution for which the algorithm is used: with fewer terms no gain could be measured. */
#define LEAST_TERMS 4e6

/* Rounded up to whole vectors of every instruction set. The tiles of all blocks but the last are such numbers. */
static int64_t whole_lanes(int64_t tiles) {
    return divided_up(tiles, SRT_MOST_LANES) * SRT_MOST_LANES;
}

/* Lanes for tiles that are few: 4 or 8; 0 if the tiles are more. */
static int64_t few_of(int64_t tiles) {
    return tiles > SRT_FEW_TILES ? 0 : tiles > SRT_FEW_TILES / 2 ? SRT_FEW_TILES : SRT_FEW_TILES / 2;
}

/* Floats that all tiles need if they are few: inputs, and sums before and after they are transposed. */
static int64_t floats_of_few(int64_t channels, int64_t few) {
    /* plus a vector for the last channel, 16 floats twice for each product, and a square that is transposed */
    return PRODUCTS * (channels * few + SRT_MOST_LANES * (few + SRT_MOST_LANES) + 3 * SRT_MOST_LANES) +
           SRT_FEW_TILES * SRT_MOST_LANES;
}

/* Floats that a block of `lanes` tiles needs. */
static int64_t floats_of(int64_t channels, int64_t lanes) {
    /* 16 more for each product and each of 3 arrays: see `apart` */
    return PRODUCTS *
           ((channels + SRT_WINOGRAD_ROWS) * lanes + SRT_WINOGRAD_ROWS * smaller(channels, SRT_WINOGRAD_DEPTH) + 48);
}

/* Tiles of the largest block that fits `floats` floats: 0, or whole vectors. */
static int64_t lanes_in(int64_t channels, int64_t floats) {
    int64_t left = floats - floats_of(channels, 0);
    return left < 0 ? 0 : left / (PRODUCTS * (channels + SRT_WINOGRAD_ROWS)) / SRT_MOST_LANES * SRT_MOST_LANES;
}

static int64_t tiles_of(const srt_window *w) {
    return divided_up(w->output[0], OUT) * divided_up(w->output[1], OUT);
}

/* Tiles of the largest block for a number of threads: 0, or whole vectors. */
static int64_t most_lanes(int64_t channels, int64_t threads) {
    const int64_t least = lanes_in(channels, LEAST), more = lanes_in(channels, smaller(MOST, ALL / threads));
    return least > smaller(more, ENOUGH) ? least : smaller(more, ENOUGH);
}

int64_t srt_winograd_seat(int64_t n, int64_t channels, int64_t outputs, const srt_window *w, int64_t threads) {
    for (int axis = 0; axis < 2; axis++)
        if (w->kernel[axis] != 3 || w->stride[axis] != 1 || w->dilation[axis] != 1) return 0;
    if (w->kernel[2] != 1 || w->before[2] != 0 || w->input[2] != 1 || w->output[2] != 1) return 0; /* not a plane */
    if (channels > LEAST) return 0;
    const int64_t tiles = n * tiles_of(w), few = few_of(tiles), whole = whole_lanes(tiles);
    /* whether the algorithm is used may not depend on the number of threads */
    const int64_t most = few == 0 ? lanes_in(channels, LEAST) : floats_of_few(channels, few) <= LEAST ? whole : 0;
    if (most == 0) return 0;
    const double positions = (double)n * (double)w->output[0] * (double)w->output[1];
    const double weights = (double)channels * (double)outputs, terms = weights * 9 * positions;
    const double blocks = (double)divided_up(tiles, most), lanes = (double)whole;
    /* Costs are in terms that are multiplied in the same time. Measured with AVX-512 and weights in the caches, where a
     * cycle multiplies 32 terms: a transform takes 20 cycles for each input channel of a tile, 5 for each pair of
     * channels in a block, and 8 for each output channel of a tile. With AVX2 both take twice as long, so the costs are
     * the same. */
    const double transforms = 32 * (20 * (double)channels * lanes + 5 * weights * blocks + 8 * (double)outputs * lanes);
    const double products = PRODUCTS * weights * (few ? (double)few : lanes);
    if (terms < LEAST_TERMS || products + transforms > 0.9 * terms) return 0;
    return few ? floats_of_few(channels, few) : floats_of(channels, smaller(most_lanes(channels, threads), whole));
}

void srt_winograd(const srt_convolution *c) {
    const srt_window of_band = srt_band_window(c->window, &c->band);
    const int64_t tiles = c->n * tiles_of(&of_band);
    if (tiles == 0 || c->first == c->last) return;
    const int64_t few = few_of(c->n * tiles_of(c->window)); /* of the picture, because it changes the rounding */
    winograd_job job = {.of = *c, .tiles = tiles, .depth = smaller(c->channels, SRT_WINOGRAD_DEPTH), .few = few};
    job.of.window = &of_band;
    const srt_product product = {
        .pieces = (c->last - 1) / c->outputs + 1 - c->first / c->outputs,
        .columns = few ? few : tiles,
        .step = SRT_MOST_LANES,
        .widest = few ? SRT_MOST_LANES : lanes_in(c->channels, c->seat),
        .rows = smaller(c->last - c->first, c->outputs), /* of one group at most */
        .tile = few ? SRT_MOST_LANES : SRT_WINOGRAD_ROWS,
        .most = INT64_MAX,
        .layout = few ? LAYOUT * SRT_MOST_LANES / (double)few : LAYOUT, /* whole vectors are transformed */
        .fetch = FETCH,
        .threads = smaller(c->seats, srt_threads()),
    };
    const srt_sharing sharing = srt_share_out(&product);
    job.width = sharing.width;
    job.blocks = sharing.blocks;
    job.shares = sharing.shares;
    const srt_table *table = srt_table_active();
    srt_parallel_on(c->seats, product.pieces * job.blocks * job.shares, 1, few ? table->winograd_few : table->winograd,
                    &job);
}
