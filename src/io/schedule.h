/* schedule.h - what every pass uses, in which order, and which granules of the file that touches.
 *
 * Tables only: no lock, no thread and no system call on the file. They belong to the prefetcher, whose rules say who
 * may touch them when.
 */
#ifndef STREAMRT_SCHEDULE_H
#define STREAMRT_SCHEDULE_H

#include "streamrt.h"

/* A granule: flags, and how many streamed items that cover it are being read, ready, or in use. */
#define PINNED ((uint32_t)1 << 31)    /* a pinned item of the schedule covers it */
#define KEPT ((uint32_t)1 << 30)      /* pinned, and held since an item that covers it was begun */
#define POPULATED ((uint32_t)1 << 29) /* read and mapped since it is held */
#define USERS (POPULATED - 1)

typedef enum {
    FREE = 0,  /* holds nothing: not begun, or released */
    READING,   /* the thread is at it */
    READY,     /* in memory: waited for, in use, or not asked for yet */
    DONE,      /* waits for its release */
    ABANDONED, /* being read, but its pass is over */
} slot_state;

typedef struct {
    size_t first, last; /* granules it covers: first <= g < last */
    size_t slot;        /* streamed items: which of them, in the order of the schedule */
    bool pinned;
    bool populated;     /* pinned items: in memory for good */
    uint64_t waited_in; /* epoch in which wait returned it */
    uint64_t done_in;   /* epoch in which done was called */
} item;

typedef struct {
    item *items; /* (count,) */
    size_t count;
    size_t *streams;    /* (streamed,) the item of each slot */
    slot_state *states; /* (streamed,) */
    size_t streamed;
    size_t *releases; /* (streamed,) ring of the slots in state DONE */
    size_t release_first, release_count;
    uint32_t *granules; /* (granule_count,) */
    size_t granule_count;
    uint64_t granule;   /* bytes */
    uint64_t file_size; /* bytes */
    uint64_t window;    /* bytes */
    srt_record
        *records[3]; /* (count,) each; of pass p at [p % 3]: the last one, the current one, and the one read ahead */
} schedule;

/* Whether a schedule can be made of these: ranges within the file, a known granule, a window if anything streams. */
bool schedule_valid(const srt_item *items, size_t count, uint64_t window, uint64_t granule, uint64_t file_size);

/* A schedule that nothing has happened to yet, of valid arguments; the caller frees it. NULL: no memory. */
schedule *schedule_new(const srt_item *items, size_t count, uint64_t window, uint64_t granule, uint64_t file_size);
void schedule_free(schedule *plan); /* NULL is allowed */

/* The slot waits for its release from now on. */
void schedule_queue_release(schedule *plan, size_t slot);

/* The end of the next run of granules from first that one call can populate. */
size_t schedule_chunk_end(const schedule *plan, size_t first, size_t last);

static inline bool is_held(uint32_t granule) {
    return (granule & (KEPT | USERS)) != 0;
}

/* The last granule ends with the file. */
static inline uint64_t granule_bytes(const schedule *plan, size_t granule) {
    uint64_t start = granule * plan->granule, left = plan->file_size - start;
    return left < plan->granule ? left : plan->granule;
}

#endif
