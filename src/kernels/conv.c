/* conv.c - a convolution is shared out by blocks of output positions, and by output channels if blocks are few: see
 * kernels.h. */
#include "band.h"
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

/* The fewest rows of a unit, if tiles have fewer: a step of a thread takes time. */
enum { LEAST_ROWS = 12 };

/* The most units of a small map whose sums are made in two parts: bounds an array of 1 KiB on the stack. */
enum { MOST_UNITS = 256 };

/* Maps of at most SMALL_MAP positions are shared out by channels: a core computes some channels, and reads the others
 * from another core's cache. Sums of at least LONG_SUM terms are then made in two parts: of the first half of the
 * channels and of the second. Adding the parts up is worth its time if a sum has at least TERMS_PER_OUTPUT terms for
 * each output. */
enum { SMALL_MAP = 256, LONG_SUM = 128, TERMS_PER_OUTPUT = 2 };

/* The most terms of a part of any other sum. Threads compute one part after the other if a part is worth two threads.
 * So a thread lays out the columns of a part once, and not for each of the units that it takes. */
enum { DEPTH = 512 };
_Static_assert(SRT_LEAST_SETS % DEPTH == 0 && DEPTH % (2 * SRT_CONV_STEP) == 0,
               "blocks of rows that conv.h copies are pairs of whole steps");

/* Whether sums are made in two parts. It depends on the shape alone, because it changes the rounding. */
static bool is_halved(int64_t inner, int64_t outputs, const srt_window *w) {
    return srt_volume(w->output) <= SMALL_MAP && inner >= LONG_SUM && inner <= 2 * SRT_CONV_DEPTH &&
           inner / TERMS_PER_OUTPUT >= outputs;
}

int64_t srt_conv_sums(int64_t n, int64_t groups, int64_t inner, int64_t outputs, const srt_window *w) {
    return n == 1 && groups == 1 && is_halved(inner, outputs, w) ? outputs * srt_volume(w->output) : 0;
}

/* Whether rows of the matrix of columns are channels of the input, so that they need not be laid out. */
static bool is_pointwise(const srt_window *w) {
    for (int axis = 0; axis < SRT_WINDOW_AXES; axis++)
        if (w->kernel[axis] != 1 || w->stride[axis] != 1 || w->before[axis] != 0 || w->output[axis] != w->input[axis])
            return false;
    return true;
}

/* Terms of all outputs of a line for which it is worth to be a unit. */
enum { WORTH_A_LINE = 32 * 1024 };

/* The time to lay out a vector of the columns of one term, or to sort a vector of a row into a phase, if channels are
 * few: about 12 cycles. The unit is the time to multiply it with a weight, of which a core does up to two in a cycle.
 * Sorting must save 1/LEAST_SAVED of the multiplications. */
enum { VECTOR = 20, LEAST_SAVED = 24 };

/* Decides whether tiles read columns in phases of the input (see phases.h), and how large these are. A line is then a
 * product of its own. Its last vector may have empty lanes, which are multiplied, too. w: the window of the band. */
static bool plan_phases(const srt_convolution *c, const srt_window *w, int64_t inner, int64_t lanes, conv_job *job) {
    const int64_t taps = w->kernel[1], reach = (taps - 1) * w->dilation[1], stride = w->stride[1];
    const int64_t rows = smaller(c->last - c->first, c->outputs), width = w->output[1], wide = rounded_up(width, lanes);
    if (c->across || inner > DEPTH || stride > SRT_MOST_PHASES || w->kernel[0] * taps == 1) return false;
    if (w->kernel[2] > 1 || w->output[2] > 1 || w->before[2] != 0 || w->input[2] != 1) return false;
    job->phases = smaller(stride, reach + 1);
    job->pitch = wide + rounded_up(divided_up(reach, stride), lanes);
    if (rows * width * inner < WORTH_A_LINE) return false;
    const int64_t saved = VECTOR * (taps * width - job->phases * job->pitch) - rows * taps * (wide - width);
    if (saved < rows * taps * width / LEAST_SAVED) return false;
    const int64_t floats = c->channels * w->kernel[0] * job->phases * job->pitch;
    return floats + inner * SRT_MOST_LANES <= smaller(c->seat, INT32_MAX); /* the last columns lie behind them */
}

/* Sets where the columns of each term of a sum begin in the phases. */
static void find_offsets(const srt_window *w, int64_t inner, const conv_job *job, int32_t offsets[DEPTH]) {
    for (int64_t i = 0; i < inner; i++) {
        const int64_t right = i % w->kernel[1] * w->dilation[1];
        const int64_t phase = i / w->kernel[1] * job->phases + right % w->stride[1];
        offsets[i] = (int32_t)(phase * job->pitch + right / w->stride[1]);
    }
}

/* Whether the rows of a band lie next to each other, so that columns of a panel can be those of several rows. */
static bool is_one_line(const srt_convolution *c, bool in_place) {
    const int64_t width = c->window->output[1];
    return c->band.last - c->band.first == 1 ||
           (c->band.y.row == width && (c->residual == NULL || c->band.residual.row == width) &&
            (!in_place || c->band.x.row == width));
}

/* The fewest units for a thread, by the terms of a unit. */
static int64_t grain_of(double terms) {
    const double elements = terms / TERMS_PER_ELEMENT;
    return srt_grain(elements < 1e15 ? (int64_t)elements : (int64_t)1e15);
}

void srt_conv(const srt_convolution *c) {
    const srt_window *window = c->window, of_band = srt_band_window(window, &c->band);
    const int64_t inner = c->channels * srt_volume(window->kernel);
    if (c->n == 0 || c->first == c->last || srt_volume(of_band.output) == 0) return;
    conv_job job = {.of = *c, .in_place = !c->across && is_pointwise(window), .inner = inner, .parts = 1};
    job.of.window = &of_band;
    const bool two = !c->across && c->groups == 1 && is_halved(inner, c->outputs, window);
    const srt_table *table = srt_table_active();
    int32_t offsets[DEPTH];
    if (!two && plan_phases(c, &of_band, inner, table->lanes, &job)) {
        find_offsets(&of_band, inner, &job, offsets);
        job.offsets = offsets;
    }
    job.lines = !job.offsets && is_one_line(c, job.in_place) ? 1 : of_band.output[0];
    const int64_t positions = job.positions = srt_volume(of_band.output) / job.lines;
    /* The columns behind the last whole vector of a picture are dot products, if they are few. Others are not, though
     * they are the last of their band: their sums are added up in another order. */
    const int64_t left = srt_volume(window->output) % table->lanes;
    job.dots = srt_volume(window->output) - (left <= table->dots ? left : 0) - c->band.first * window->output[1];
    const int64_t dots = positions * job.lines - job.dots;        /* in the band; negative: none */
    const int64_t ends = dots < 0 ? 0 : smaller(dots, positions); /* in its last line */
    if (inner > 0) job.parts = two ? 2 : divided_up(inner, DEPTH);
    const int64_t depth = divided_up(inner, job.parts);
    const int64_t threads = smaller(c->seats, srt_threads());
    const bool halved =
        threads > 1 && c->sums && job.lines == 1 && srt_conv_sums(c->n, c->groups, inner, c->outputs, window) > 0;
    /* Dot products have a vector of columns of their own. If they follow whole vectors, as in a picture, there is room
     * for it. Otherwise there are STEP columns more, and no other columns are left. */
    const bool inside = ends > 0 && (dots > ends || (positions - ends) % table->lanes != 0);
    const int64_t over = positions % STEP;
    const int64_t rest = !job.offsets && positions > STEP && over <= LAST && (!inside || ends >= over) ? over : 0;
    const int64_t widest = depth == 0 || job.offsets ? rounded_up(positions, SRT_CONV_COLUMNS) + STEP
                                                     : c->seat / depth / SRT_CONV_COLUMNS * SRT_CONV_COLUMNS;
    const int64_t rows = smaller(c->last - c->first, c->outputs); /* of one group at most */
    const srt_product product = {
        .pieces = halved ? job.parts : c->n * ((c->last - 1) / c->outputs + 1 - c->first / c->outputs) * job.lines,
        .columns = positions - rest,
        .step = STEP,
        .widest = rest > 0 || inside ? widest - STEP : widest,
        .rows = rows,
        .tile = table->conv_rows < LEAST_ROWS ? LEAST_ROWS / table->conv_rows * table->conv_rows : table->conv_rows,
        .most = halved ? MOST_UNITS : INT64_MAX,
        .layout =
            job.offsets ? LAYOUT * (double)(job.phases * job.pitch) / (double)(window->kernel[1] * positions) : LAYOUT,
        .fetch = FETCH,
        .threads = threads,
    };
    const srt_sharing sharing = srt_share_out(&product);
    job.width = sharing.width;
    job.blocks = sharing.blocks;
    job.shares = sharing.shares;
    _Atomic int32_t arrived[MOST_UNITS] = {0};
    if (halved) job.arrived = arrived;
    const int64_t units = product.pieces * job.blocks * job.shares;
    const double terms = (double)rows / (double)job.shares * (double)job.width * (double)depth; /* of a unit's part */
    int64_t together = halved ? job.parts : 1, grain = grain_of(terms);
    if (!halved && units <= grain) { /* a part is too short for two threads */
        together = job.parts;
        grain = grain_of(terms * (double)job.parts);
    }
    for (; job.part < job.parts; job.part += together) {
        job.until = job.part + together;
        srt_parallel_on(c->seats, units, grain, table->conv, &job);
    }
}
