/* sharing.c - the search for the best cut: see sharing.h. */
#include "sharing.h"

#include <math.h>

/* The most units for each thread that the search tries, up to SRT_MOST_UNITS in all, so that the search stays short. */
enum { UNITS_PER_THREAD = 8 };

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* The time at which `units` units of equal cost end. The first thread does `own` of them; the others begin late and do
 * the rest. */
static double end_of(double units, double own, double cost, const srt_product *p) {
    const double others = ceil((units - own) / (double)(p->threads - 1));
    return others > 0 ? fmax(cost * own, p->late + cost * others) : cost * own;
}

srt_sharing srt_share_out(const srt_product *p) {
    const int64_t fewest = divided_up(p->columns, p->widest);
    int64_t most = smaller(p->threads * UNITS_PER_THREAD, SRT_MOST_UNITS);
    if (most < p->threads) most = p->threads;
    srt_sharing best = {0};
    double soonest = INFINITY;
    for (int64_t cut = fewest; cut == fewest || cut <= most / p->pieces; cut++) {
        const int64_t width = rounded_up(divided_up(p->columns, cut), p->step);
        const int64_t blocks = divided_up(p->columns, width);
        if (blocks != cut && cut > fewest) continue; /* another cut gives the same width */
        for (int64_t shares = 1; shares == 1 || (shares <= most / p->pieces / blocks && shares * p->least <= p->rows);
             shares++) {
            const double units = (double)p->pieces * (double)blocks * (double)shares;
            const double rows = (double)divided_up(p->rows, shares), columns = (double)smaller(width, p->columns);
            const double cost = columns * (rows + p->layout) + rows * p->fetch;
            double end = units * cost;
            if (p->threads > 1) {
                const double even = ceil(units / (double)p->threads);
                end = fmin(end_of(units, even, cost, p), end_of(units, fmin(units, even + 1), cost, p));
            }
            if (end < soonest) {
                soonest = end;
                best = (srt_sharing){width, blocks, shares};
            }
        }
    }
    return best;
}
