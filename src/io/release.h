/* release.h - gives granules back, and again those that the page cache has kept.
 *
 * The page cache keeps a page while something uses it, for example a watcher whose processor its host has stopped for
 * some ms. No lock: a releaser belongs to the thread that owns the table of granules.
 */
#ifndef STREAMRT_RELEASE_H
#define STREAMRT_RELEASE_H

#include "schedule.h"
#include "streamrt.h"

typedef struct {
    srt_mapping *mapping;
    uint64_t start, end; /* the page cache kept pages of this range that were released; empty if both are 0 */
    unsigned attempts;   /* to release them again, since the range last grew */
    bool told;           /* some release has succeeded, so the kernel tells what the cache keeps */
} releaser;

/* Releases granules first..last, which are not held, and neighbours that are not held either. */
void release_run(releaser *r, const schedule *plan, size_t first, size_t last);

/* Releases those of the granules first..last that are not held. Returns their bytes. */
uint64_t release_free(releaser *r, const schedule *plan, size_t first, size_t last);

/* Whether there are pages to be released again. */
bool release_pending(const releaser *r);

/* ns until the next attempt to release them again; 0 if there is nothing to be tried. */
int64_t release_pause(const releaser *r);

/* Releases them again, except what is held by now. One call handles no more than some blocks, since others may wait for
 * its end. */
void release_again(releaser *r, const schedule *plan);

#endif
