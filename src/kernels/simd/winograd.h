/* winograd.h - a convolution of 3 x 3 with stride 1 by Winograd's F(4 x 4, 3 x 3): 36 products for 16 outputs, not 144.
 *
 * Inputs, in tiles of 6 x 6 that overlap by 2, become 36 matrices, and so do the weights. The 36 products of these
 * matrices become outputs, in tiles of 4 x 4. Tiles lie across the lanes of vectors, so that conv.h computes the
 * products. All three transforms are made here for each call: transforming weights takes less time than reading four
 * times as many of them from memory.
 *
 * The points are 0, +-sqrt(1/2), +-sqrt(2) and infinity. Their errors are 25 % of those of 0, +-1, +-2 and infinity.
 * A. Lavin, S. Gray: Fast Algorithms for Convolutional Neural Networks, 2015 (arXiv:1509.09308); for the choice of
 * points B. Barabasz and others: Error Analysis and Improving the Accuracy of Winograd Convolution, 2018
 * (arXiv:1803.10986).
 */
#ifndef STREAMRT_WINOGRAD_H
#define STREAMRT_WINOGRAD_H

#include "conv.h"

enum { SIDE = 6, OUT = 4, PRODUCTS = SIDE * SIDE };

#define ROOT_2 1.41421356237309505f
#define ROOT_HALF 0.70710678118654752f

/* Multiplies six inputs, a row or column of a tile, with the transpose of B. */
V void transform_input(vf d[SIDE]) {
    vf near = muladd(splat(-2.0f), d[2], d[4]), far = muladd(splat(-0.5f), d[2], d[4]);
    vf near_odd = muladd(splat(-2.0f), d[1], d[3]), far_odd = muladd(splat(-0.5f), d[1], d[3]);
    d[0] = muladd(splat(-2.5f), d[2], d[0] + d[4]);
    d[5] = muladd(splat(-2.5f), d[3], d[1] + d[5]);
    d[1] = muladd(splat(ROOT_HALF), near_odd, near);
    d[2] = muladd(splat(-ROOT_HALF), near_odd, near);
    d[3] = muladd(splat(ROOT_2), far_odd, far);
    d[4] = muladd(splat(-ROOT_2), far_odd, far);
}

/* Multiplies three weights with G, which gives six. */
V void transform_weights(const vf g[3], vf u[SIDE]) {
    vf near = splat(-2.0f / 3.0f) * muladd(splat(0.5f), g[2], g[0]);
    vf far = splat(1.0f / 6.0f) * muladd(splat(2.0f), g[2], g[0]);
    u[0] = g[0];
    u[1] = muladd(splat(-2.0f / 3.0f * ROOT_HALF), g[1], near);
    u[2] = muladd(splat(2.0f / 3.0f * ROOT_HALF), g[1], near);
    u[3] = muladd(splat(ROOT_2 / 6.0f), g[1], far);
    u[4] = muladd(splat(-ROOT_2 / 6.0f), g[1], far);
    u[5] = g[2];
}

/* Multiplies six sums with the transpose of A, which gives four outputs. */
V void transform_output(const vf m[SIDE], vf y[OUT]) {
    vf near = m[1] + m[2], near_odd = m[1] - m[2], far = m[3] + m[4], far_odd = m[3] - m[4];
    y[0] = m[0] + near + far;
    y[1] = muladd(splat(ROOT_2), far_odd, splat(ROOT_HALF) * near_odd);
    y[2] = muladd(splat(2.0f), far, splat(0.5f) * near);
    y[3] = muladd(splat(2.0f * ROOT_2), far_odd, muladd(splat(0.5f * ROOT_HALF), near_odd, m[5]));
}

/* A row of the inputs of VL tiles is read in LOADS vectors, which begin at these columns. Each of the last two is read
 * for one column. */
enum { LOADS = 6 };
static const int64_t load_at[LOADS] = {0, VL, 2 * VL, 3 * VL, 4 * VL, 4 * VL + 1};

/* The tiles of a panel in one row of tiles of one sample: lanes slot..slot + count, count <= VL. */
typedef struct {
    int64_t slot, count;
    int64_t x, y, start; /* the first tile's first element in the inputs, padding included, the outputs, the residual */
    int64_t top, end;    /* rows of its inputs that are not padding */
    int64_t rows, cols;  /* outputs that exist */
    vmask inside[LOADS]; /* for each load of a row: the columns that are not padding */
    bool whole[LOADS];
} tile_strip;

typedef struct {
    int64_t n, count; /* lanes in use; number of strips */
    tile_strip strip[PANEL];
} tile_panel;

/* Sets the panel to the tiles at..at + n, counted over all samples. */
FN void find_strips(const winograd_job *job, int64_t at, int64_t n, tile_panel *panel) {
    const srt_window *w = job->of.window;
    const srt_band *band = &job->of.band;
    const int64_t height = w->input[0], width = w->input[1];
    const int64_t down = (w->output[0] + OUT - 1) / OUT, across = (w->output[1] + OUT - 1) / OUT;
    panel->n = n;
    panel->count = 0;
    for (int64_t slot = 0; slot < n;) {
        const int64_t sample = (at + slot) / (down * across), tile = (at + slot) % (down * across);
        const int64_t row = tile / across, col = tile % across;
        const int64_t top = row * OUT - w->before[0], left = col * OUT - w->before[1];
        tile_strip *s = &panel->strip[panel->count++];
        s->slot = slot;
        s->count = smaller(smaller(across - col, n - slot), VL);
        const int64_t planes = sample * job->of.groups * job->of.outputs;
        s->x = sample * job->of.groups * job->of.channels * band->x.plane + top * band->x.row + left;
        s->y = planes * band->y.plane + row * OUT * band->y.row + col * OUT;
        s->start = planes * band->residual.plane + row * OUT * band->residual.row + col * OUT;
        s->top = top < 0 ? -top : 0;
        s->end = smaller(SIDE, height - top);
        s->rows = smaller(OUT, w->output[0] - row * OUT);
        s->cols = smaller(OUT * s->count, w->output[1] - col * OUT);
        for (int i = 0; i < LOADS; i++) {
            /* no column behind the strip's own, which may be the last of the array */
            const int64_t first = left + load_at[i], end = smaller(width, left + OUT * s->count + SIDE - OUT);
            s->inside[i] = lanes(-first, end - first);
            s->whole[i] = first >= 0 && first + VL <= width;
        }
        slot += s->count;
    }
}

/* Floats of one input of all tiles of a panel. A strip may write a whole vector from the last slot on. */
enum { GATHER = PANEL + VL };

/* Copies input (i, j) of every tile of a strip to gathered[i * SIDE + j][slot], a lane for each tile. x: the plane.
 * Overwrites lanes behind the strip. */
V void gather_strip(const tile_strip *s, const float *x, int64_t pitch, float (*gathered)[GATHER]) {
    for (int64_t i = 0; i < SIDE; i++) {
        float (*to)[GATHER] = gathered + i * SIDE;
        vf v[LOADS], q[SIDE];
        if (i < s->top || i >= s->end) {
            for (int j = 0; j < SIDE; j++) store(to[j] + s->slot, splat(0.0f));
            continue;
        }
        const float *row = x + s->x + i * pitch;
#pragma GCC unroll 6
        for (int j = 0; j < LOADS; j++)
            v[j] = s->whole[j] ? load(row + load_at[j]) : load_mask(row + load_at[j], s->inside[j], splat(0.0f));
        vf even_low = unzip_even(v[0], v[1]), even_high = unzip_even(v[2], v[3]);
        vf odd_low = unzip_odd(v[0], v[1]), odd_high = unzip_odd(v[2], v[3]);
        q[0] = unzip_even(even_low, even_high);
        q[1] = unzip_even(odd_low, odd_high);
        q[2] = unzip_odd(even_low, even_high);
        q[3] = unzip_odd(odd_low, odd_high);
        q[4] = slide(q[0], v[4]);
        q[5] = slide(q[1], v[5]);
#pragma GCC unroll 6
        for (int j = 0; j < SIDE; j++) store(to[j] + s->slot, q[j]);
    }
}

/* Transforms the inputs of a panel: out (PRODUCTS, channels, across), the products `step` elements apart. Writes whole
 * vectors, in the order of the channels. x: the planes of all channels of the first sample. */
V void transform_panel(const int vectors, const winograd_job *job, const tile_panel *panel, const float *x,
                       int64_t across, float *out, int64_t step) {
    const int64_t pitch = job->of.band.x.row, plane = job->of.band.x.plane;
    float gathered[PRODUCTS][GATHER] = {{0}}; /* zeros, because arithmetic is slow with some numbers of unused lanes */
    for (int64_t c = 0; c < job->of.channels; c++, x += plane, out += across) {
        for (int64_t i = 0; i < panel->count; i++) gather_strip(&panel->strip[i], x, pitch, gathered);
        for (int v = 0; v < vectors; v++) {
            vf d[SIDE][SIDE];
#pragma GCC unroll 6
            for (int j = 0; j < SIDE; j++) {
                vf column[SIDE];
#pragma GCC unroll 6
                for (int i = 0; i < SIDE; i++) column[i] = load(gathered[i * SIDE + j] + v * VL);
                transform_input(column);
#pragma GCC unroll 6
                for (int i = 0; i < SIDE; i++) d[i][j] = column[i];
            }
            float *to = out + v * VL;
#pragma GCC unroll 6
            for (int i = 0; i < SIDE; i++) {
                transform_input(d[i]);
#pragma GCC unroll 6
                for (int j = 0; j < SIDE; j++, to += step) store(to, d[i][j]);
            }
        }
    }
}

FN void transform_wide_panel(const winograd_job *job, const tile_panel *panel, const float *x, float *out,
                             int64_t step) {
    transform_panel(2, job, panel, x, PANEL, out, step);
}

FN void transform_narrow_panel(const winograd_job *job, const tile_panel *panel, const float *x, int64_t across,
                               float *out, int64_t step) {
    transform_panel(1, job, panel, x, across, out, step);
}

/* Transforms a vector of 3 x 3 weights, whose taps are `stride` elements apart. Writes all lanes, or `some`. */
V void transform_taps(const float *taps, int64_t stride, const bool whole, vmask some, float *out, int64_t step) {
    vf half[3][SIDE];
#pragma GCC unroll 3
    for (int j = 0; j < 3; j++) {
        vf column[3] = {load(taps + j * stride), load(taps + (3 + j) * stride), load(taps + (6 + j) * stride)};
        transform_weights(column, half[j]);
    }
#pragma GCC unroll 6
    for (int i = 0; i < SIDE; i++) {
        vf row[3] = {half[0][i], half[1][i], half[2][i]}, u[SIDE];
        transform_weights(row, u);
#pragma GCC unroll 6
        for (int j = 0; j < SIDE; j++, out += step)
            if (whole)
                store(out, u[j]);
            else
                store_mask(out, some, u[j]);
    }
}

/* Transforms the weights of the output channels row..row + rows, for the input channels channel..channel + depth:
 * out (PRODUCTS, rows, depth), the products `step` elements apart. */
FN void transform_rows(const srt_weights *weights, int64_t row, int64_t rows, int64_t channel, int64_t depth,
                       float *out, int64_t step) {
    float decoded[9 * SRT_WINOGRAD_DEPTH + DECODE_SLACK];
    const bool coded = is_coded(weights);
    for (int64_t r = 0; r < rows; r++, out += depth) {
        const float *w = coded ? decoded : floats_of(weights) + (row + r) * weights->inner + channel * 9;
        if (coded) decode_rows(weights, row + r, 1, channel * 9, depth * 9, decoded, 9 * SRT_WINOGRAD_DEPTH);
        float taps[9][SRT_WINOGRAD_DEPTH]; /* all are stored before any is read: a load waits for narrower stores */
        for (int64_t c = 0; c < depth; c += TILE) {
            const float *from = w + c * 9;
            const int64_t n = smaller(TILE, depth - c);
            float rest[9 * TILE] = {0};
            if (n < TILE) from = memcpy(rest, from, (size_t)n * 9 * sizeof *w);
#pragma GCC unroll 2
            for (int j = 0; j < 8; j += TILE) transpose_tile(from + j, 9, taps[j] + c, SRT_WINOGRAD_DEPTH);
#pragma GCC unroll 8
            for (int i = 0; i < TILE; i++) taps[8][c + i] = from[i * 9 + 8];
        }
        int64_t c = 0;
        for (; c + VL <= depth; c += VL)
            transform_taps(taps[0] + c, SRT_WINOGRAD_DEPTH, true, lanes(0, VL), out + c, step);
        if (c < depth) transform_taps(taps[0] + c, SRT_WINOGRAD_DEPTH, false, lanes(0, depth - c), out + c, step);
    }
}

/* Computes the outputs of one channel in a panel, as four rows: out[i][OUT * lane + j] is output (i, j) of a tile.
 * sums: of the first product; those of the others are `step` elements apart. */
V void transform_sums(int64_t n, const float *sums, int64_t step, float (*out)[OUT * PANEL + VL]) {
    for (int64_t lane = 0; lane < n; lane += VL) {
        vf half[SIDE][OUT];
        for (int i = 0; i < SIDE; i++) {
            vf m[SIDE];
            for (int j = 0; j < SIDE; j++) m[j] = load(sums + (i * SIDE + j) * step + lane);
            transform_output(m, half[i]);
        }
        vf y[OUT][OUT]; /* [j][i] */
        for (int j = 0; j < OUT; j++) {
            vf column[SIDE];
            for (int i = 0; i < SIDE; i++) column[i] = half[i][j];
            transform_output(column, y[j]);
        }
        for (int i = 0; i < OUT; i++) {
            vf even_low = zip_low(y[0][i], y[2][i]), even_high = zip_high(y[0][i], y[2][i]);
            vf odd_low = zip_low(y[1][i], y[3][i]), odd_high = zip_high(y[1][i], y[3][i]);
            float *to = out[i] + OUT * lane;
            store(to, zip_low(even_low, odd_low));
            store(to + VL, zip_high(even_low, odd_low));
            store(to + 2 * VL, zip_low(even_high, odd_high));
            store(to + 3 * VL, zip_high(even_high, odd_high));
        }
    }
}

/* Writes the result of transform_sums, for one channel, to y. */
V void write_tiles(const winograd_job *job, const tile_panel *panel, int64_t row, float (*tiles)[OUT * PANEL + VL]) {
    const srt_activation *act = job->of.act;
    const srt_steps to = job->of.band.y, start = job->of.band.residual;
    const vf bias = splat(job->of.bias ? job->of.bias[row] : 0.0f), zero = splat(0.0f);
    const vf low = splat(act->low), high = splat(act->high);
    const float *residuals = job->of.residual ? job->of.residual + row * start.plane : NULL;
    for (int64_t k = 0; k < panel->count; k++) {
        const tile_strip *s = &panel->strip[k];
        const int64_t rows = s->rows, cols = s->cols;
        const float *residual = residuals ? residuals + s->start : NULL;
        float *y = job->of.y + s->y + row * to.plane;
        for (int64_t c = 0; c < cols; c += VL) {
            const vmask some = lanes(0, cols - c);
            const vfirst there = first_lanes(cols - c);
            for (int64_t i = 0; i < rows; i++) {
                vf v = load(tiles[i] + OUT * s->slot + c) + bias;
                if (residual) v += load_mask(residual + i * start.row + c, some, zero);
                store_first(y + i * to.row + c, there, clamp(v, low, high));
            }
        }
        if (act->separate)
            for (int64_t i = 0; i < rows; i++) activate(y + i * to.row, y + i * to.row, cols, act);
    }
}

/* Computes rows begin..begin + rows of y in a panel. sums (PRODUCTS, rows, lanes): the products `step` elements apart,
 * the rows `full`. A row is written after the next one is computed: a load waits for stores that cover a part of it. */
FN void finish_panel(const winograd_job *job, const tile_panel *panel, const float *sums, int64_t step, int64_t full,
                     int64_t begin, int64_t rows) {
    float tiles[2][OUT][OUT * PANEL + VL]; /* the last strip is read in whole vectors */
    for (int64_t r = 0; r < rows; r++) {
        transform_sums(panel->n, sums + r * full, step, tiles[r % 2]);
        if (r > 0) write_tiles(job, panel, begin + r - 1, tiles[(r - 1) % 2]);
    }
    write_tiles(job, panel, begin + rows - 1, tiles[(rows - 1) % 2]);
}

/* Elements from one product to the next. The sets of the first-level cache repeat every 4 KiB: with a multiple of 2 KiB
 * all products would lie in one or two sets. */
V int64_t apart(int64_t elements) {
    return elements % 512 == 0 ? elements + 16 : elements;
}

/* Weights of the output channels row..row + rows, from weight `first` of each on. */
typedef struct {
    int64_t row, rows, first;
} weights_next;

/* Fetches one of PRODUCTS shares of n weights of each output channel of `next` into the second-level cache. There are
 * so few of each that the processor would fetch them too late. */
V void fetch_share(const winograd_job *job, weights_next next, int64_t n, int64_t share) {
    const srt_weights *w = &job->of.w;
    const int64_t lines = (n + CONV_LINE - 1) / CONV_LINE;
    const int64_t begin = share * lines / PRODUCTS, end = (share + 1) * lines / PRODUCTS;
    if (is_coded(w)) {
        if (begin < end) fetch_codes(w, next.row, next.rows, next.first + begin * CONV_LINE, (end - begin) * CONV_LINE);
        return;
    }
    for (int64_t r = 0; r < next.rows; r++)
        for (int64_t i = begin; i < end; i++)
            __builtin_prefetch(floats_of(w) + (next.row + r) * w->inner + next.first + i * CONV_LINE, 0, 2);
}

/* The weights that are transformed next, after weights of `rows` output channels from `row` on: those of the same
 * output channels from input channel c on. If there is no input channel c, those of the next output channels before
 * `end`, from input channel c - channels on. Only fetch them, because they may lie behind the weights. */
V weights_next weights_after(const winograd_job *job, int64_t row, int64_t rows, int64_t end, int64_t c) {
    if (c < job->of.channels) return (weights_next){row, rows, c * 9};
    return (weights_next){row + rows, smaller(rows, end - row - rows), (c - job->of.channels) * 9};
}

/* The output channels of the shares first..last of a block of tiles. */
V span rows_of_shares(const winograd_job *job, int64_t group, int64_t first, int64_t last) {
    const int64_t from = group * job->of.outputs > job->of.first ? group * job->of.outputs : job->of.first;
    const int64_t count = smaller((group + 1) * job->of.outputs, job->of.last) - from;
    return (span){from + first * count / job->shares, from + last * count / job->shares};
}

/* The planes of a group's channels in the first sample. */
V const float *planes_of(const winograd_job *job, int64_t group) {
    return job->of.x + group * job->of.channels * job->of.band.x.plane;
}

/* Computes the shares first..last of one block of tiles. ready: whether `scratch` has its transformed inputs. */
FN void winograd_shares(const winograd_job *job, int64_t group, int64_t at, int64_t first, int64_t last, bool ready,
                        float *scratch) {
    const int64_t channels = job->of.channels, n = smaller(job->width, job->tiles - at);
    const span share = rows_of_shares(job, group, first, last);
    const int64_t full = (n + VL - 1) / VL * VL; /* lanes */
    const int64_t step = apart(channels * full);
    float *inputs = scratch, *weights = inputs + PRODUCTS * step;
    float *sums = weights + PRODUCTS * apart(CONV_ROWS * job->depth);
    const float *x = planes_of(job, group);
    tile_panel panel;
    if (n <= PANEL) find_strips(job, at, n, &panel);
    for (int64_t i = 0; i < n && !ready; i += PANEL) {
        if (n > PANEL) find_strips(job, at + i, smaller(PANEL, n - i), &panel);
        if (n - i > VL)
            transform_wide_panel(job, &panel, x, inputs + i * channels, step);
        else
            transform_narrow_panel(job, &panel, x, VL, inputs + i * channels, step);
    }
    int64_t rows;
    for (int64_t tiles = (share.last - share.first + CONV_ROWS - 1) / CONV_ROWS, row = share.first; tiles > 0;
         tiles--, row += rows) {
        rows = (share.last - row + tiles - 1) / tiles;
        const int64_t sums_step = apart(rows * full);
        for (int64_t c = 0, depth; c < channels; c += depth) {
            depth = smaller(job->depth, channels - c);
            const int64_t weights_step = apart(rows * depth);
            transform_rows(&job->of.w, row, rows, c, depth, weights, weights_step);
            const weights_next next = weights_after(job, row, rows, share.last, c + depth);
            for (int64_t product = 0; product < PRODUCTS; product++) {
                fetch_share(job, next, depth * 9, product);
                conv_block block = {.w = weights + product * weights_step,
                                    .inner = depth,
                                    .depth = depth,
                                    .columns = inputs + product * step,
                                    .height = channels,
                                    .from = c,
                                    .y = sums + product * sums_step,
                                    .stride = full,
                                    .panels = (full + PANEL - 1) / PANEL,
                                    .start = c == 0 ? NULL : sums + product * sums_step,
                                    .low = splat(-INFINITY),
                                    .high = splat(INFINITY)};
                conv_block_rows(&block, 0, rows, rows, full);
            }
        }
        for (int64_t i = 0; i < n; i += PANEL) {
            if (n > PANEL) find_strips(job, at + i, smaller(PANEL, n - i), &panel);
            finish_panel(job, &panel, sums + i, sums_step, full, row, rows);
        }
    }
}

/* A function that computes some shares of a block of tiles. */
typedef void winograd_part(const winograd_job *job, int64_t group, int64_t at, int64_t first, int64_t last, bool ready,
                           float *scratch);

V void winograd_units(const winograd_job *job, int64_t first, int64_t last, winograd_part *part) {
    float *scratch = job->of.scratch + srt_seat() * job->of.seat;
    int64_t *laid = srt_note(); /* the block, over all units, whose inputs are transformed; or -1 */
    for (int64_t shares; first < last; first += shares) {
        int64_t block = first / job->shares, share = first - block * job->shares;
        shares = smaller(job->shares - share, last - first);
        part(job, job->of.first / job->of.outputs + block / job->blocks, block % job->blocks * job->width, share,
             share + shares, *laid == block, scratch);
        *laid = block;
    }
}

FN void winograd(const void *arguments, int64_t first, int64_t last) {
    winograd_units(arguments, first, last, winograd_shares);
}

#endif
