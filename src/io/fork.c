/* fork.c - what a forked child may do with what its parent opened.
 *
 * The fork rule. fork(2) copies one thread and all memory: the child has no prefetch thread, and the lock of a
 * prefetcher may have been held at that moment by a thread that is not there to release it. Therefore:
 *
 *   - A prefetcher belongs to the process that made it. In a child every call on it returns SRT_FORKED before it
 *     touches the lock, and freeing it frees nothing: the memory is leaked there.
 *   - A mapping may be read and closed in a child: it has no lock and no thread. What was read by pread is zeros there.
 *   - The child may open mappings and make prefetchers of its own. For that the one lock that all of them share, the
 *     guard's, is held across the fork, so that the child finds the set of guarded ranges whole and unlocked.
 */
#include "streamrt.h"

#include <pthread.h>
#include <stdatomic.h>

static _Atomic uint64_t generation;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void in_child(void) {
    atomic_fetch_add_explicit(&generation, 1, memory_order_relaxed);
    srt_guard_unlock();
}

static void install(void) {
    pthread_atfork(srt_guard_lock, srt_guard_unlock, in_child);
}

uint64_t srt_fork_generation(void) {
    pthread_once(&once, install);
    return atomic_load_explicit(&generation, memory_order_relaxed);
}
