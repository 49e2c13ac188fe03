/* sharing.c - the search for the best cut: see sharing.h. */
#include "sharing.h"

#include <math.h>

/* The most blocks for each thread that the search tries, so that it stays short. */
enum { BLOCKS_PER_THREAD = 8 };

/* The time at which the threads end with blocks of `width` columns. Each block is laid out once, and once more for
 * every thread whose share begins within a block. A thread that is done helps another thread, and lays out its block.
 * Threads end half a row of a block apart. */
static double end_of(const srt_product *p, int64_t width, int64_t blocks) {
    const double all = (double)p->pieces * (double)blocks, others = (double)(p->threads - 1);
    const double rows = (double)p->rows, columns = (double)smaller(width, p->columns);
    const double more = all > 1 ? 2 * others : others;
    const double work =
        (double)p->pieces * rows * (double)p->columns + all * rows * p->fetch + (all + more) * columns * p->layout;
    return p->threads > 1 ? work / (double)p->threads + columns / 2 : work;
}

srt_sharing srt_share_out(const srt_product *p) {
    const int64_t fewest = divided_up(p->columns, p->widest), most = p->threads * BLOCKS_PER_THREAD;
    srt_sharing best = {0};
    double soonest = INFINITY;
    for (int64_t cut = fewest; cut == fewest || cut <= most / p->pieces; cut += 1 + cut / 4) {
        const int64_t width = rounded_up(divided_up(p->columns, cut), p->step);
        const int64_t blocks = divided_up(p->columns, width);
        const double end = end_of(p, width, blocks);
        if (end < soonest) {
            soonest = end;
            best.width = width;
            best.blocks = blocks;
        }
    }
    const int64_t blocks = p->pieces * best.blocks, tiles = divided_up(p->rows, p->tile);
    const int64_t sharers = divided_up(p->threads, blocks); /* threads that share a block, with equally many units */
    best.shares = smaller(tiles < sharers ? tiles : rounded_up(tiles, sharers), smaller(p->rows, p->most / blocks));
    return best;
}
