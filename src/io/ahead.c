/* ahead.c - see ahead.h. */
#include "ahead.h"

#include "os.h"

/* The most blocks that are populated after a block that the thread has requested: 64 MiB. The kernel has begun to read
 * two windows of them at most. A window is the read_ahead_kb of the device, and no less than 4 MiB. */
#define MOST_AHEAD 32

srt_access ahead_access(const schedule *plan) {
    if (plan->granule != SRT_BLOCK) return SRT_PAGES;
    return plan->to_the_end ? SRT_BLOCKS_AHEAD : SRT_BLOCKS;
}

/* Holds a granule, and brings it into memory. Returns whether this thread had to read it. */
static bool hold_and_read(srt_mapping *mapping, schedule *plan, size_t granule) {
    plan->granules[granule] |= KEPT; /* also if it cannot be read: a part of it may be in memory */
    os_usage before, after;
    os_thread_usage(&before);
    bool there = srt_mapping_populate(mapping, granule * plan->granule, granule_bytes(plan, granule)) == SRT_OK;
    os_thread_usage(&after);
    return there && after.bytes_read > before.bytes_read;
}

/* The kernel reads forward from granules that the thread has requested. The first one after them that is not in memory
 * is the end, and is read to learn that. */
void ahead_hold(srt_mapping *mapping, schedule *plan) {
    srt_mapping_end_ahead(mapping);
    size_t left = 0;  /* granules that may still be looked at */
    bool next = true; /* the thread reads an item from its beginning, and requests this granule next if it is held */
    for (size_t g = 0; g < plan->granule_count; g++) {
        bool held = is_held(plan->granules[g]);
        bool read = plan->granules[g] & POPULATED;
        bool requested = read || (held && next); /* perhaps; if not read, the request may have failed */
        if (requested) left = MOST_AHEAD;
        if (!read && left > 0) left = hold_and_read(mapping, plan, g) && !requested ? 0 : left - 1;
        next = read || !held;
    }
}
