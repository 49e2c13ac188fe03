/* sigbus.c - the guard, which replaces a missing page of a mapped file by zeros and marks the mapping.
 *
 * The handler runs on the thread that read the page, at any instruction. So it must not take a lock, and may find the
 * table in the middle of a change. Each entry is a sequence lock: its number is odd while it is being written. The
 * handler skips an entry that is being written, or that changes meanwhile. The entry that it needs does not change,
 * because the mapping with the missing page is in use. Entries are used again but never freed, so that the handler can
 * always follow the chain. Their number is the largest number of mappings that were open at the same time.
 */
#include "os.h"
#include "streamrt.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

struct srt_guard {
    _Atomic unsigned sequence;
    _Atomic uintptr_t base, end; /* equal when the entry is free */
    _Atomic bool poisoned;
    srt_guard *next; /* set once, before the entry is published */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* held to change the table */
static _Atomic(srt_guard *) guards;
static bool installed;   /* under the lock */
static size_t page_size; /* written before the handler can run, constant afterwards */

static srt_guard *find(uintptr_t address) {
    for (srt_guard *guard = atomic_load_explicit(&guards, memory_order_acquire); guard; guard = guard->next) {
        unsigned before = atomic_load_explicit(&guard->sequence, memory_order_acquire);
        uintptr_t base = atomic_load_explicit(&guard->base, memory_order_acquire);
        uintptr_t end = atomic_load_explicit(&guard->end, memory_order_acquire);
        unsigned after = atomic_load_explicit(&guard->sequence, memory_order_relaxed);
        if (before == after && before % 2 == 0 && base <= address && address < end) return guard;
    }
    return NULL;
}

/* Puts a page of zeros at a guarded address; false for other addresses. Runs in the signal handler. */
static bool answer(void *address) {
    srt_guard *guard = find((uintptr_t)address);
    if (!guard || !os_map_zeros((char *)address - (uintptr_t)address % page_size, page_size)) return false;
    atomic_store_explicit(&guard->poisoned, true, memory_order_release);
    return true;
}

static bool install(void) {
    if (installed) return true;
    page_size = os_page_size();
    installed = os_catch_bus_errors(answer);
    return installed;
}

static void set(srt_guard *guard, uintptr_t base, uintptr_t end) {
    atomic_fetch_add_explicit(&guard->sequence, 1, memory_order_acq_rel);
    atomic_store_explicit(&guard->base, base, memory_order_release);
    atomic_store_explicit(&guard->end, end, memory_order_release);
    atomic_store_explicit(&guard->poisoned, false, memory_order_release);
    atomic_fetch_add_explicit(&guard->sequence, 1, memory_order_acq_rel);
}

srt_status srt_guard_add(const void *base, size_t size, srt_guard **out) {
    srt_status status = SRT_OK;
    pthread_mutex_lock(&lock);
    srt_guard *guard = atomic_load_explicit(&guards, memory_order_relaxed);
    while (guard && atomic_load_explicit(&guard->end, memory_order_relaxed) != 0) guard = guard->next;
    if (!install()) {
        status = SRT_SYSTEM;
    } else if (guard) {
        set(guard, (uintptr_t)base, (uintptr_t)base + size);
    } else if ((guard = calloc(1, sizeof *guard)) != NULL) {
        set(guard, (uintptr_t)base, (uintptr_t)base + size);
        guard->next = atomic_load_explicit(&guards, memory_order_relaxed);
        atomic_store_explicit(&guards, guard, memory_order_release);
    } else {
        status = SRT_NO_MEMORY;
    }
    *out = guard;
    pthread_mutex_unlock(&lock);
    return status;
}

void srt_guard_remove(srt_guard *guard) {
    pthread_mutex_lock(&lock);
    set(guard, 0, 0);
    pthread_mutex_unlock(&lock);
}

bool srt_guard_poisoned(const srt_guard *guard) {
    return atomic_load_explicit(&guard->poisoned, memory_order_acquire);
}

void srt_guard_lock(void) {
    pthread_mutex_lock(&lock);
}

void srt_guard_unlock(void) {
    pthread_mutex_unlock(&lock);
}
