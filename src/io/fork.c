/* fork.c - the use of a parent's objects in a forked child.
 *
 * The fork rule. fork(2) copies one thread and all memory. The child has no prefetch thread. The lock of a prefetcher
 * may be held by a thread that does not exist in the child. Therefore:
 *
 *   - A prefetcher belongs to the process that made it. In a child every call returns SRT_FORKED before it touches the
 *     lock, and freeing the prefetcher frees nothing: the child leaks the memory.
 *   - A child may read and close a mapping, which has no lock and no thread. Bytes that were read by pread are zeros.
 *   - A child may open mappings and make prefetchers of its own. All of them share the guard's lock. A fork holds that
 *     lock, so that the child finds the set of guarded ranges complete and unlocked.
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
