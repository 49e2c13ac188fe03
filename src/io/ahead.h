/* ahead.h - the blocks that the kernel reads ahead of the prefetch thread.
 *
 * The kernel may read ahead where nothing of the file is released (schedule.to_the_end). Then it requests later blocks
 * while the thread gets new memory for earlier ones. If another schedule comes during that, or the prefetcher stops,
 * those blocks have to be known: nobody would release them. No lock.
 */
#ifndef STREAMRT_AHEAD_H
#define STREAMRT_AHEAD_H

#include "schedule.h"
#include "streamrt.h"

/* How the pages of the file are requested under the schedule. */
srt_access ahead_access(const schedule *plan);

/* Ends the kernel's reading ahead, and holds the granules that it has begun to read. A page that is still being read
 * cannot be released, so this waits for them. The caller owns the table of granules. */
void ahead_hold(srt_mapping *mapping, schedule *plan);

#endif
