/* schedule.h - the tables of a schedule: its items in the order of a pass, and the granules of the file.
 *
 * No lock, no thread, no system call. The tables belong to a prefetcher; prefetch.c says which thread may use them, and
 * when.
 */
#ifndef STREAMRT_SCHEDULE_H
#define STREAMRT_SCHEDULE_H

#include "streamrt.h"

/* A granule is three flags and a count: of the streamed items that cover it and are being read, ready or in use. */
#define PINNED ((uint32_t)1 << 31)    /* a pinned item of the schedule covers it */
#define KEPT ((uint32_t)1 << 30)      /* pinned, and held since an item that covers it was begun */
#define POPULATED ((uint32_t)1 << 29) /* read and mapped since it has been held */
#define USERS (POPULATED - 1)

typedef enum {
    FREE = 0,  /* holds nothing: not begun, or released */
    READING,   /* the thread reads it */
    READY,     /* in memory: in use, or not requested yet */
    DONE,      /* waits for its release */
    ABANDONED, /* the thread reads it, but its pass is over */
} slot_state;

typedef struct {
    size_t first, last; /* it covers granules first <= g < last */
    size_t slot;        /* of a streamed item: its number among the streamed items of the schedule */
    bool pinned;
    bool populated;     /* of a pinned item: in memory until the schedule changes */
    uint64_t waited_in; /* the last epoch in which srt_prefetcher_wait returned SRT_OK for it */
    uint64_t done_in;   /* the last epoch in which it was done */
} item;

typedef struct {
    item *items; /* (count,) */
    size_t count;
    size_t *streams;    /* (streamed,) index of the item of each slot */
    slot_state *states; /* (streamed,) */
    size_t streamed;
    size_t *releases; /* (streamed,) ring of the slots whose state is DONE */
    size_t release_first, release_count;
    uint32_t *granules; /* (granule_count,) */
    size_t granule_count;
    uint64_t granule;   /* bytes */
    uint64_t file_size; /* bytes */
    uint64_t window;    /* bytes */
    bool to_the_end;    /* nothing streams; pinned items cover each granule from their first to the end of the file */
    srt_record *records[3]; /* (count,) each; pass p is at [p % 3]: the last, the current and the next pass */
} schedule;

/* Whether the arguments are valid: ranges within the file, a granule of a page or a block, a window if items stream. */
bool schedule_valid(const srt_item *items, size_t count, uint64_t window, uint64_t granule, uint64_t file_size);

/* A new schedule, of valid arguments. The caller frees it. NULL: no memory. */
schedule *schedule_new(const srt_item *items, size_t count, uint64_t window, uint64_t granule, uint64_t file_size);
void schedule_free(schedule *plan); /* NULL is allowed */

/* Adds the slot to the slots that wait for their release. */
void schedule_queue_release(schedule *plan, size_t slot);

/* The end of the granules from first on that one call can populate: within a block, and none of them populated. */
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
