/* conv.c - a convolution is shared out by blocks of output positions, and by output channels if blocks are few: see
 * kernels.h. */
#include "sharing.h"
#include "simd/table.h"

/* Terms of a sum that take as long as one element of `srt_grain`: about 0.5 ns on one core. */
enum { TERMS_PER_ELEMENT = 32 };

/* A block is a multiple of STEP columns: a vector of the widest instruction set. The last block also takes up to LAST
 * columns that are left: they are dot products, or part of a vector. Its memory is then larger by STEP columns. */
enum { STEP = SRT_CONV_COLUMNS / 2, LAST = STEP / 4 };

/* Costs of laying out a column, and of fetching a row of weights. The unit is the time to multiply a row with a column.
 */
enum { LAYOUT = 6, FETCH = 16 };

/* Rows for which it is worth to lay out columns again. */
enum { WORTH_A_LAYOUT = 16 * LAYOUT };

/* The fewest rows of a unit, if tiles have fewer: a step of a thread takes time. */
enum { LEAST_ROWS = 12 };

/* The most units of a small map whose sums are made in two parts: bounds an array of 1 KiB on the stack. */
enum { MOST_UNITS = 256 };

/* Maps of at most SMALL_MAP positions are shared out by channels: a core computes some channels, and reads the others
 * from another core's cache. Sums of at least LONG_SUM terms are then made in two parts: of the first half of the
 * channels and of the second. Adding the parts up is worth its time if a sum has at least TERMS_PER_OUTPUT terms for
 * each output. */
enum { SMALL_MAP = 256, LONG_SUM = 128, TERMS_PER_OUTPUT = 2 };

/* Terms that a core adds up in the time until another core begins. */
enum { LATE = 200 * 1000 };

/* The most terms of a part of any other sum. */
enum { DEPTH = 512 };
_Static_assert(SRT_LEAST_SETS % DEPTH == 0 && DEPTH % 32 == 0,
               "blocks of rows that conv.h copies are pairs of whole lines");

/* Whether sums are made in two parts. It depends on the shape alone, because it changes the rounding. */
static bool is_halved(int64_t inner, int64_t outputs, const srt_window *w) {
    return srt_volume(w->output) <= SMALL_MAP && inner >= LONG_SUM && inner <= 2 * SRT_CONV_DEPTH &&
           inner / TERMS_PER_OUTPUT >= outputs;
}

int64_t srt_conv_sums(int64_t n, int64_t groups, int64_t inner, int64_t outputs, const srt_window *w) {
    return n == 1 && groups == 1 && is_halved(inner, outputs, w) ? outputs * srt_volume(w->output) : 0;
}

void srt_conv(const srt_convolution *c) {
    const srt_window *window = c->window;
    const int64_t inner = c->channels * srt_volume(window->kernel);
    const int64_t positions = srt_volume(window->output);
    if (c->n == 0 || c->first == c->last || positions == 0) return;
    conv_job job = {.of = *c, .inner = inner, .parts = 1};
    const bool two = !c->across && c->groups == 1 && is_halved(inner, c->outputs, window);
    if (inner > 0) job.parts = two ? 2 : divided_up(inner, DEPTH);
    const int64_t depth = divided_up(inner, job.parts);
    const int64_t threads = smaller(c->seats, srt_threads());
    const bool halved = threads > 1 && c->sums && srt_conv_sums(c->n, c->groups, inner, c->outputs, window) > 0;
    const int64_t once = halved ? depth : inner; /* terms of a sum that a unit adds up */
    const int64_t rest = positions > STEP && positions % STEP <= LAST ? positions % STEP : 0;
    const int64_t widest = depth == 0 ? rounded_up(positions, SRT_CONV_COLUMNS) + STEP
                                      : c->seat / depth / SRT_CONV_COLUMNS * SRT_CONV_COLUMNS;
    const int64_t rows = smaller(c->last - c->first, c->outputs); /* of one group at most */
    const bool again = job.parts > 1 && !halved;
    const srt_table *table = srt_table_active();
    const srt_product product = {
        .pieces = halved ? job.parts : c->n * ((c->last - 1) / c->outputs + 1 - c->first / c->outputs),
        .columns = positions - rest,
        .step = STEP,
        .widest = rest > 0 ? widest - STEP : widest,
        .rows = rows,
        .tile = table->conv_rows < LEAST_ROWS ? LEAST_ROWS / table->conv_rows * table->conv_rows : table->conv_rows,
        .most = halved ? MOST_UNITS : INT64_MAX,
        .least = again ? WORTH_A_LAYOUT : 1,
        .layout = LAYOUT,
        .again = again,
        .fetch = FETCH,
        .late = (double)LATE / (double)(once + 1),
        .threads = threads,
    };
    const srt_sharing sharing = srt_share_out(&product);
    job.width = sharing.width;
    job.blocks = sharing.blocks;
    job.shares = sharing.shares;
    int64_t laid[SRT_MAX_THREADS];
    for (int64_t i = 0; i < c->seats && i < SRT_MAX_THREADS; i++) laid[i] = -1;
    job.laid = laid;
    _Atomic int32_t arrived[MOST_UNITS] = {0};
    if (halved) job.arrived = arrived;
    const double terms = (double)rows / (double)job.shares * (double)job.width * (double)once / TERMS_PER_ELEMENT;
    const int64_t worth = srt_grain(terms < 1e15 ? (int64_t)terms : (int64_t)1e15);
    srt_parallel_on(c->seats, product.pieces * job.blocks * job.shares, worth > sharing.grain ? worth : sharing.grain,
                    table->conv, &job);
}
