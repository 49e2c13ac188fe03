/* release.c - see release.h. */
#include "release.h"

/* Attempts to release a range again, and ns before the first. Each pause is twice the one before: 33 s together. */
#define ATTEMPTS 12
#define FIRST_PAUSE ((int64_t)8000000)
#define AT_ONCE (16 * SRT_BLOCK)

/* The kernel releases only whole folios. So the range is extended over neighbours that are not held, up to the
 * boundaries of blocks, which no folio crosses. */
void release_run(releaser *r, const schedule *plan, size_t first, size_t last) {
    size_t block = (size_t)(SRT_BLOCK / plan->granule);
    while (first % block != 0 && !is_held(plan->granules[first - 1])) first--;
    while (last % block != 0 && last < plan->granule_count && !is_held(plan->granules[last])) last++;
    uint64_t start = first * plan->granule;
    uint64_t end = (last - 1) * plan->granule + granule_bytes(plan, last - 1);
    if (srt_mapping_release(r->mapping, start, end - start)) {
        r->told = true;
        return;
    }
    r->start = r->end == 0 || start < r->start ? start : r->start;
    r->end = end > r->end ? end : r->end;
    r->attempts = 0;
}

uint64_t release_free(releaser *r, const schedule *plan, size_t first, size_t last) {
    uint64_t freed = 0;
    for (size_t g = first, run; g < last; g++) {
        for (run = g; run < last && !is_held(plan->granules[run]); run++) freed += granule_bytes(plan, run);
        if (run > g) release_run(r, plan, g, run);
        g = run; /* a granule that is held, or the end: the loop may skip it */
    }
    return freed;
}

bool release_pending(const releaser *r) {
    return r->end > 0 && r->told;
}

int64_t release_pause(const releaser *r) {
    return release_pending(r) && r->attempts < ATTEMPTS ? FIRST_PAUSE << r->attempts : 0;
}

void release_again(releaser *r, const schedule *plan) {
    uint64_t start = r->start, end = r->end;
    uint64_t stop = end - start > AT_ONCE ? start + AT_ONCE : end;
    unsigned attempts = r->attempts;
    r->start = r->end = 0;
    release_free(r, plan, (size_t)(start / plan->granule), (size_t)((stop + plan->granule - 1) / plan->granule));
    if (r->end > 0) {
        r->end = end;
        r->attempts = attempts + 1;
    } else if (stop < end) {
        r->start = stop;
        r->end = end;
    }
}
