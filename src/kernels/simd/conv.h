/* conv.h - convolution as a product: rows of weights, as they lie in the file, times panels of columns.
 *
 * The product of some rows with a panel is held in registers, while the panel and the rows are read once. A weight is
 * spread over a vector when it is used. Columns are copied to memory that stays in the second-level cache. In wide
 * pictures with few channels, rows of the input are sorted instead: see phases.h. Rows of weights are copied only if
 * they would push each other out of the first-level cache. A sum belongs to one output. Its terms are added in the
 * order of the row of weights, or, in the last columns of a map, in the order of dots.h. The order does not depend on
 * other outputs.
 */
#ifndef STREAMRT_CONV_H
#define STREAMRT_CONV_H

#include <stdatomic.h>

#include "activation.h"
#include "columns.h"
#include "conv_tile.h"
#include "decode.h"
#include "dots.h"
#include "phases.h"

/* Computes rows begin..end of y in the last columns of a block. weights: from row `begin` on. */
FN void conv_last_columns(const conv_block *block, conv_weights weights, int64_t begin, int64_t end) {
    const int64_t count = block->last;
    int64_t rows;
    for (int64_t row = begin; row < end; row += rows) {
        float sums[VL];
        rows = dots_rows(end - row, count);
        dots(rows, count, weights.w + (row - begin) * weights.pitch, weights.pitch, block->ends[0], CONV_ENDS,
             block->depth, sums);
        const float *start = block->start ? block->start + row * block->stride + block->at : NULL;
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < count; c++) {
                sums[r * count + c] += block->bias ? block->bias[row + r] : 0.0f;
                if (start) sums[r * count + c] += start[r * block->stride + c];
            }
        store(sums, clamp(load(sums), block->low, block->high));
        float *y = block->y + row * block->stride + block->at;
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < count; c++) y[r * block->stride + c] = sums[r * count + c];
    }
}

/* Computes rows begin..end of y in the n columns of a block. Tiles get equal numbers of rows, because a tile of few
 * rows reads many columns for few products. The first tile reads its weights in place, unless they are decoded for each
 * tile. During the last tile, weights of rows behind `end` are fetched, up to row `more`: the thread may compute them
 * next. */
FN void conv_block_rows(const conv_block *block, int64_t begin, int64_t end, int64_t more, int64_t n) {
    const int64_t before = block->panels > 0 ? block->panels - 1 : 0, at_last = before * PANEL;
    const int vectors = (int)((n - at_last + VL - 1) / VL), least = conv_rows_of(vectors);
    const int most = before > 0 ? CONV_ROWS : least;
    _Alignas(64) float copies[2][CONV_ROWS * CONV_PITCH];
    const srt_weights *coded = block->coded;
    const bool copied = !coded && (int)CONV_ROWS > (int)CONV_WAYS && block->inner % CONV_SETS == 0 && block->panels > 1;
    conv_weights weights = {coded ? copies[0] : block->w + begin * block->inner, coded ? CONV_PITCH : block->inner};
    int64_t count, ready = begin; /* the last columns of rows before it are computed */
    for (int64_t tiles = (end - begin + most - 1) / most, row = begin; tiles > 0; tiles--, row += count) {
        count = (end - row + tiles - 1) / tiles;
        float *copy = copied && tiles > 1 ? copies[tiles % 2] : NULL;
        if (coded) decode_rows(coded, row, count, block->term, block->depth, copies[0], CONV_PITCH);
        const int64_t parts = n > 0 ? (count + least - 1) / least : 0; /* the last panel may take fewer rows at once */
        const int64_t left = smaller(count, (tiles > 1 ? end : more) - row - count); /* of the next tile, by panels */
        for (int64_t i = 0; i < before + parts; i++) {
            const int64_t from = i * left / (before + parts), to = (i + 1) * left / (before + parts);
            const conv_next next = {.w = coded ? NULL : block->w + (row + count + from) * block->inner,
                                    .rows = coded ? 0 : to - from,
                                    .copy = copy ? copy + from * CONV_PITCH : NULL};
            if (coded) fetch_codes(coded, row + count + from, to - from, block->term, block->depth);
            const int64_t part = i < before ? 0 : i - before;
            conv_function *const *const tile_of = block->offsets                                ? EXPORT(phased)
                                                  : row > begin || part > 0 || block->x == NULL ? EXPORT(laid_out)
                                                  : block->scale == NULL                        ? EXPORT(in_place)
                                                                                                : EXPORT(scaled);
            if (i < before) {
                tile_of[1](block, weights, row, count, i * PANEL, PANEL, &next);
            } else {
                const int64_t first = part * count / parts, last = (part + 1) * count / parts;
                const conv_weights some = {weights.w + first * weights.pitch, weights.pitch};
                tile_of[vectors - 1](block, some, row + first, last - first, at_last, n - at_last, &next);
            }
        }
        if (block->last &&
            (coded || row + count - ready >= VL || tiles == 1)) { /* while the weights are in the cache */
            const conv_weights some = coded ? weights : (conv_weights){block->w + ready * block->inner, block->inner};
            conv_last_columns(block, some, ready, row + count);
            ready = row + count;
        }
        if (copy)
            weights = (conv_weights){copy, CONV_PITCH};
        else if (!coded)
            weights.w += count * block->inner;
    }
}

/* Lays out the last columns of a block, each by itself in `ends`. Unless they are `in_place` in x, they are laid out
 * first as a panel of one vector in `room`, which may be `ready`. */
V void conv_fill_ends(const conv_block *block, const srt_convolution *c, bool in_place, const float *x, int64_t at,
                      int64_t first, bool ready, float *room, float (*ends)[CONV_ENDS]) {
    const int64_t depth = block->depth, apart = in_place ? block->plane : VL;
    const float *from = in_place ? x : room;
    if (in_place || ready)
        ;
    else if (c->across)
        fill_across(x, block->inner, block->last, depth, room);
    else
        fill_panels(c->window, c->band.x, at, block->last, x, first, first + depth, room);
    for (int64_t i = 0; i < block->last; i++) {
        for (int64_t k = 0; k < depth; k++) ends[i][k] = from[k * apart + i];
        store(ends[i] + depth, splat(0.0f));
        for (int64_t k = 0; block->scale && k < depth; k += VL) {
            const vmask some = lanes(0, depth - k);
            const vf zero = splat(0.0f), by = load_mask(block->scale + k, some, zero);
            const vf plus = block->shift ? load_mask(block->shift + k, some, zero) : zero;
            store_mask(ends[i] + k, some, clamp(muladd(load(ends[i] + k), by, plus), block->least, block->most));
        }
    }
}

/* Adds the two parts of the sums up: rows begin..end of y, columns at..at + n. */
V void conv_add(const conv_job *job, int64_t begin, int64_t end, int64_t at, int64_t n) {
    const srt_convolution *c = &job->of;
    const vf low = splat(c->act->low), high = splat(c->act->high), zero = splat(0.0f);
    for (int64_t row = begin; row < end; row++) {
        float *y = c->y + row * c->band.y.plane + at;
        const float *sums = c->sums + row * job->positions + at;
        for (int64_t i = 0; i < n; i += VL) {
            const vmask some = lanes(0, n - i);
            const vf all = load_mask(sums + i, some, zero) + load_mask(y + i, some, zero);
            store_first(y + i, first_lanes(n - i), clamp(all, low, high));
        }
        if (c->act->separate) activate(y, y, n, c->act);
    }
}

/* Computes the parts part..until of the sums of a block of positions, which begins at position `at` of a line, for the
 * shares first..last of its output channels. ready: whether `columns` has the columns of the block, which is a single
 * part. Returns whether it has them afterwards, if the block is a single part: the first tile of a 1x1 window lays them
 * out, and shares may be empty. */
V bool conv_shares(const conv_job *job, int64_t sample, int64_t group, int64_t line, int64_t at, int64_t first,
                   int64_t last, int64_t part, int64_t until, bool ready, float *columns) {
    const srt_convolution *c = &job->of;
    const srt_window *w = c->window;
    const srt_band *band = &c->band;
    const int64_t n = at / job->width + 1 == job->blocks ? job->positions - at : job->width;
    const int64_t place = line * job->positions + at; /* of the block in the band */
    const int64_t from = group * c->outputs > c->first ? group * c->outputs : c->first;
    const int64_t rows = smaller((group + 1) * c->outputs, c->last) - from;
    const int64_t begin = from + first * rows / job->shares, end = from + last * rows / job->shares;
    const int64_t channels =
        sample * c->groups * c->channels + group * c->channels; /* channels of x before the group's */
    const float *x = c->x + channels * band->x.plane;
    const float *scale = c->scale ? c->scale + (c->each ? channels : group * c->channels) : NULL;
    const float *shift = c->shift ? c->shift + group * c->channels : NULL;
    const int64_t planes = sample * c->groups * c->outputs; /* of y before the sample's */
    float *y = c->y + planes * band->y.plane + line * band->y.row + at;
    const float *residual =
        c->residual ? c->residual + planes * band->residual.plane + line * band->residual.row + at : NULL;
    const float *rows_of_x = x + at * job->inner; /* with `across` */
    const float *x_at = job->in_place ? x + (line - w->before[0]) * band->x.row + at : NULL;
    const int64_t behind = place + n - job->dots, ends = behind > 0 ? smaller(behind, n) : 0, whole = n - ends;
    float laid_out[DOTS][CONV_ENDS];
    if (part == 0 && residual && band->residual.plane != band->y.plane) { /* a tile adds numbers that lie like y */
        for (int64_t row = begin; row < end; row++)
            memcpy(y + row * band->y.plane, residual + row * band->residual.plane, (size_t)n * sizeof *y);
        residual = y;
    }
    for (; part < until; part++) {
        const bool apart = job->arrived && part > 0; /* in memory of its own, to be added later */
        const int64_t k = part * job->inner / job->parts, depth = (part + 1) * job->inner / job->parts - k;
        const bool done = !job->arrived && part + 1 == job->parts;
        const bool coded = is_coded(&c->w);
        conv_block block = {.w = coded ? NULL : floats_of(&c->w) + k,
                            .coded = coded ? &c->w : NULL,
                            .term = k,
                            .inner = job->inner,
                            .depth = depth,
                            .columns = columns,
                            .height = depth,
                            .y = apart ? c->sums + at : y,
                            .stride = apart ? job->positions : band->y.plane,
                            .panels = panels_of(whole),
                            .bias = part == 0 ? c->bias : NULL,
                            .start = apart      ? NULL
                                     : part > 0 ? y
                                                : residual,
                            .low = splat(done ? c->act->low : -INFINITY),
                            .high = splat(done ? c->act->high : INFINITY),
                            .x = job->offsets              ? columns
                                 : job->in_place && !ready ? x_at + k * band->x.plane
                                                           : NULL,
                            .offsets = job->offsets,
                            .plane = band->x.plane,
                            .scale = scale ? scale + k : NULL,
                            .shift = shift ? shift + k : NULL,
                            .least = splat(c->low),
                            .most = splat(c->high),
                            .last = ends,
                            .at = whole,
                            .ends = laid_out};
        if (ready)
            ;
        else if (c->across)
            fill_across(rows_of_x + k, job->inner, whole, depth, columns);
        else if (job->offsets)
            fill_phases(w, band->x, c->channels, line, at, n, job->phases, job->pitch, x, columns);
        else if (!job->in_place)
            fill_panels(w, band->x, place, whole, x, k, k + depth, columns);
        const float *rest = c->across       ? rows_of_x + whole * job->inner + k
                            : job->in_place ? x_at + k * band->x.plane + whole
                                            : x;
        const int64_t used =
            job->offsets ? c->channels * w->kernel[0] * job->phases * job->pitch : (whole + VL - 1) / VL * VL * depth;
        float *room = columns + used; /* a vector of columns */
        if (ends) conv_fill_ends(&block, c, job->in_place, rest, place + whole, k, ready, room, laid_out);
        conv_block_rows(&block, begin, end, from + rows, whole);
    }
    if (job->arrived == NULL && until == job->parts && c->act->separate)
        for (int64_t row = begin; row < end; row++)
            activate(y + row * band->y.plane, y + row * band->y.plane, n, c->act);
    for (int64_t share = first; job->arrived && share < last; share++) {
        _Atomic int32_t *arrived = &job->arrived[at / job->width * job->shares + share];
        if (atomic_fetch_add(arrived, 1) + 1 == job->parts)
            conv_add(job, from + share * rows / job->shares, from + (share + 1) * rows / job->shares, at, n);
    }
    return begin < end;
}

FN void conv(const void *arguments, int64_t first, int64_t last) {
    const conv_job *job = arguments;
    float *columns = job->of.scratch + srt_seat() * job->of.seat;
    int64_t *laid = srt_note(); /* the block, over all units, whose columns are laid out; or -1 */
    const int64_t groups = (job->of.last - 1) / job->of.outputs + 1 - job->of.first / job->of.outputs;
    for (int64_t shares; first < last; first += shares) {
        int64_t block = first / job->shares, share = first - block * job->shares;
        shares = smaller(job->shares - share, last - first);
        const int64_t piece = block / job->blocks, at = (block - piece * job->blocks) * job->width;
        const int64_t plane = piece / job->lines, line = piece - plane * job->lines;
        const int64_t sample = job->arrived ? 0 : plane / groups;
        const int64_t group = job->arrived ? 0 : job->of.first / job->of.outputs + plane % groups;
        const int64_t part = job->arrived ? plane : job->part, until = job->arrived ? plane + 1 : job->until;
        const bool done =
            conv_shares(job, sample, group, line, at, share, share + shares, part, until, *laid == block, columns);
        *laid = done && until - part == 1 ? block : -1; /* otherwise the columns are those of the last part */
    }
}

#endif
