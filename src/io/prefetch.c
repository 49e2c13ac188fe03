/* prefetch.c - the thread that brings items into memory before they are used, and releases them afterwards.
 *
 * Ownership. All fields are under the lock, except the granule table. The thread changes and reads that table without
 * the lock while it releases, so the table belongs to the thread. Other threads use it only after halt(), which returns
 * when the thread is parked, or after it has ended. The thread makes no system call on the file while it holds the
 * lock: so wait and done, which Python calls while it holds its own lock, return at once.
 *
 * The streamed items of all passes are numbered in order: number = pass * streamed + slot. Numbers below tail are done;
 * numbers from tail to head have been begun. head - tail is at most one pass, because the same slot serves the same
 * item of every pass. Pinned items are read once.
 */
#include "ahead.h"
#include "os.h"
#include "release.h"
#include "schedule.h"
#include "streamrt.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct srt_prefetcher {
    srt_mapping *mapping;
    uint64_t generation; /* srt_fork_generation() of the process that made it */
    pthread_mutex_t lock;
    pthread_cond_t work; /* the thread waits here for something to do */
    pthread_cond_t news; /* callers wait here: an item is ready, the thread is parked, or the prefetcher stops */
    pthread_t thread;
    bool started, stopping, joining, stopped;
    bool halted; /* a caller wants the thread parked */
    bool parked; /* the thread is parked, or has ended */
    bool idle;   /* the thread found nothing to do, and no caller has changed anything since */
    bool across; /* streamed items may be read before their pass begins */
    bool ahead;  /* the last schedule let the kernel read blocks ahead of the thread */

    schedule *plan;                            /* NULL before the first schedule */
    uint64_t pass;                             /* the current pass; 0 for the first of each schedule */
    uint64_t epoch;                            /* counts passes and rewinds, from 1 */
    bool in_pass;                              /* an item of the current pass was requested */
    uint64_t head, tail;                       /* numbers of streamed items */
    size_t next_pin;                           /* all pinned items below it have been read */
    uint64_t held_pinned, held_streamed, peak; /* bytes */
    srt_status failure;                        /* SRT_OK, or why reading stopped */
    int failure_errno;
    size_t culprit;    /* index of the item that failed */
    releaser releaser; /* of the thread, like the granule table */
};

/* ---------------------------------------------------------------- granules */

/* Bytes that holding an item would add to those in the window. */
static uint64_t window_need(const srt_prefetcher *p, const item *it) {
    uint64_t need = 0;
    for (size_t g = it->first; g < it->last; g++)
        if (!is_held(p->plan->granules[g]) && !(p->plan->granules[g] & PINNED)) need += granule_bytes(p->plan, g);
    return need;
}

/* Makes the item hold its granules. Lock held. */
static void hold(srt_prefetcher *p, const item *it) {
    for (size_t g = it->first; g < it->last; g++) {
        uint32_t *granule = &p->plan->granules[g];
        if (!is_held(*granule)) *(*granule & PINNED ? &p->held_pinned : &p->held_streamed) += granule_bytes(p->plan, g);
        *granule = *granule & PINNED ? *granule | KEPT : *granule + 1;
    }
    if (p->held_pinned + p->held_streamed > p->peak) p->peak = p->held_pinned + p->held_streamed;
}

/* Undoes hold for a streamed item, and releases what is no longer held. Lock held, but free meanwhile. */
static void let_go(srt_prefetcher *p, const item *it) {
    const schedule *plan = p->plan;
    pthread_mutex_unlock(&p->lock);
    for (size_t g = it->first; g < it->last; g++)
        if (!(plan->granules[g] & PINNED) && (--plan->granules[g] & USERS) == 0) plan->granules[g] = 0;
    uint64_t freed = release_free(&p->releaser, plan, it->first, it->last);
    pthread_mutex_lock(&p->lock);
    p->held_streamed -= freed;
}

/* ---------------------------------------------------------------- the thread */

/* The time in ns nanoseconds from now, for a condition of a prefetcher. */
static struct timespec deadline(int64_t ns) {
    int64_t end = os_now() + ns;
    return (struct timespec){.tv_sec = end / 1000000000, .tv_nsec = end % 1000000000};
}

/* Tells the thread that something has changed. Lock held. */
static void wake(srt_prefetcher *p) {
    p->idle = false;
    pthread_cond_signal(&p->work);
}

static void park(srt_prefetcher *p) {
    p->parked = true;
    pthread_cond_broadcast(&p->news);
    while (p->halted && !p->stopping) pthread_cond_wait(&p->work, &p->lock);
    p->parked = false;
}

static void release_next(srt_prefetcher *p) {
    schedule *plan = p->plan;
    size_t slot = plan->releases[plan->release_first];
    plan->release_first = (plan->release_first + 1) % plan->streamed;
    plan->release_count--;
    let_go(p, &plan->items[plan->streams[slot]]);
    plan->states[slot] = FREE;
}

/* Whether the next streamed item may be begun. */
static bool may_stream(const srt_prefetcher *p) {
    const schedule *plan = p->plan;
    if (plan->streamed == 0 || p->head == p->tail + plan->streamed) return false;
    if (!p->across && (!p->in_pass || p->head / plan->streamed > p->pass)) return false;
    size_t slot = (size_t)(p->head % plan->streamed);
    if (plan->states[slot] != FREE) return false;
    if (p->held_streamed == 0) return true;
    uint64_t need = window_need(p, &plan->items[plan->streams[slot]]);
    return p->held_streamed <= plan->window && need <= plan->window - p->held_streamed;
}

/* Whether the next streamed item needs a granule that the next release would give back, and may be begun before that.
 * Otherwise the granule would be read twice in a pass where items are used faster than this thread releases them. */
static bool reads_before_release(const srt_prefetcher *p) {
    const schedule *plan = p->plan;
    if (p->failure != SRT_OK || !may_stream(p)) return false;
    const item *done = &plan->items[plan->streams[plan->releases[plan->release_first]]];
    const item *next = &plan->items[plan->streams[p->head % plan->streamed]];
    return next->first < done->last && done->first < next->last;
}

/* Chooses the next item to read. If the next pinned and the next streamed item may both be read, it is the item that a
 * pass reaches first. False: no item may be read. */
static bool choose(srt_prefetcher *p, size_t *chosen) {
    const schedule *plan = p->plan;
    if (!plan || p->failure != SRT_OK) return false;
    while (p->next_pin < plan->count && (!plan->items[p->next_pin].pinned || plan->items[p->next_pin].populated))
        p->next_pin++;
    bool pin = p->next_pin < plan->count, stream = may_stream(p);
    if (stream) {
        size_t index = plan->streams[p->head % plan->streamed];
        bool ahead = p->head / plan->streamed > p->pass; /* it belongs to the next pass */
        if (!pin || (!ahead && index < p->next_pin)) {
            *chosen = index;
            return true;
        }
    }
    *chosen = p->next_pin;
    return pin;
}

static srt_status populate(srt_prefetcher *p, size_t first, size_t end) {
    uint64_t start = first * p->plan->granule;
    uint64_t stop = (end - 1) * p->plan->granule + granule_bytes(p->plan, end - 1);
    pthread_mutex_unlock(&p->lock);
    srt_status status = srt_mapping_populate(p->mapping, start, stop - start);
    int error = errno;
    pthread_mutex_lock(&p->lock);
    errno = error;
    return status;
}

static bool abandoned(const srt_prefetcher *p, const item *it) {
    return !it->pinned && p->plan->states[it->slot] == ABANDONED;
}

static bool unwanted(const srt_prefetcher *p, const item *it) {
    return p->stopping || p->halted || abandoned(p, it);
}

/* Reads an item in chunks, and stops early when the item is not wanted any more. An item that is then partly read is
 * released: here if its pass is over, else by the caller that halted the thread. Lock held, but free meanwhile. */
static void read_item(srt_prefetcher *p, size_t index) {
    schedule *plan = p->plan;
    item *it = &plan->items[index];
    uint64_t pass = it->pinned ? p->pass : p->head / plan->streamed;
    if (!it->pinned) {
        plan->states[it->slot] = READING;
        p->head++;
    }
    hold(p, it);

    srt_record record = {.read_start = os_now()};
    os_usage before, after;
    os_thread_usage(&before);
    srt_status status = SRT_OK;
    int error = 0;
    for (size_t g = it->first; g < it->last && status == SRT_OK && !unwanted(p, it);) {
        size_t end = g + 1;
        if (!(plan->granules[g] & POPULATED)) {
            end = schedule_chunk_end(plan, g, it->last);
            status = populate(p, g, end);
            error = errno;
            for (size_t i = g; i < end && status == SRT_OK; i++) plan->granules[i] |= POPULATED;
        }
        g = end;
    }
    os_thread_usage(&after);
    record.bytes_read = after.bytes_read - before.bytes_read;
    record.read_end = os_now();

    if (abandoned(p, it)) {
        schedule_queue_release(plan, it->slot);
        return;
    }
    if (p->stopping || p->halted) return;
    if (status == SRT_OK) {
        if (it->pinned)
            it->populated = true;
        else
            plan->states[it->slot] = READY;
        srt_record *kept = &plan->records[(it->pinned ? p->pass : pass) % 3][index];
        record.stall = kept->stall;
        *kept = record;
    } else {
        if (!it->pinned) {
            let_go(p, it);
            bool over = abandoned(p, it); /* the pass ended meanwhile, so that no caller waits for the failure */
            plan->states[it->slot] = FREE;
            if (over) return;
            p->head--;
        }
        p->failure = status;
        p->failure_errno = error;
        p->culprit = index;
    }
    /* Signals without the lock, so that waiting callers find it free. Otherwise they would wake, sleep and wake again
     * before this thread has started its next read. */
    pthread_mutex_unlock(&p->lock);
    pthread_cond_broadcast(&p->news);
    pthread_mutex_lock(&p->lock);
}

/* Waits until a caller changes something. Meanwhile pages that the cache has kept are released again. */
static void rest(srt_prefetcher *p) {
    p->idle = true;
    pthread_cond_broadcast(&p->news);
    int64_t pause = release_pause(&p->releaser);
    if (pause == 0) {
        pthread_cond_wait(&p->work, &p->lock);
        return;
    }
    struct timespec until = deadline(pause);
    if (pthread_cond_timedwait(&p->work, &p->lock, &until) == 0) return;
    pthread_mutex_unlock(&p->lock);
    release_again(&p->releaser, p->plan);
    pthread_mutex_lock(&p->lock);
}

static void *run(void *argument) {
    srt_prefetcher *p = argument;
    os_name_thread("streamrt-fetch");
    os_wake_promptly(); /* the disk rests until this thread has started its next read */
    pthread_mutex_lock(&p->lock);
    while (!p->stopping) {
        size_t index;
        if (p->halted) {
            park(p);
        } else if (p->plan && p->plan->release_count > 0 && !reads_before_release(p)) {
            release_next(p); /* to make room for the next item */
        } else if (choose(p, &index)) {
            read_item(p, index);
        } else {
            rest(p);
        }
    }
    p->parked = true;
    pthread_cond_broadcast(&p->news);
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static int start(srt_prefetcher *p) {
    int error = os_start_thread(&p->thread, run, p);
    p->started = error == 0;
    return error;
}

/* Returns when the thread is parked, until resume. False: the prefetcher is being stopped. Lock held. */
static bool halt(srt_prefetcher *p) {
    p->halted = true;
    pthread_cond_signal(&p->work);
    while (p->started && !p->parked && !p->stopping) pthread_cond_wait(&p->news, &p->lock);
    return !p->stopping;
}

static void resume(srt_prefetcher *p) {
    p->halted = false;
    wake(p);
}

/* ---------------------------------------------------------------- schedules */

/* Granules that are held under the old schedule, and pinned under the new one, become held under the new schedule; the
 * others are released. Each schedule may be NULL. The thread is parked or has ended. Lock held. */
static void take_over(srt_prefetcher *p, schedule *old, schedule *new) {
    p->held_pinned = p->held_streamed = 0;
    bool same = old && new && old->granule == new->granule;
    for (size_t g = 0, run = 0; old && g <= old->granule_count; g++) { /* granules run..g are to be released */
        bool held = g < old->granule_count && is_held(old->granules[g]);
        bool keep = held && same && (new->granules[g] & PINNED);
        if (held && !keep) old->granules[g] = 0;
        if (keep) {
            new->granules[g] |= KEPT | (old->granules[g] & POPULATED);
            p->held_pinned += granule_bytes(new, g);
        }
        if (!held || keep) {
            if (run < g) release_run(&p->releaser, old, run, g);
            run = g + 1;
        }
    }
    if (old && release_pending(&p->releaser)) release_again(&p->releaser, old);
    for (size_t i = 0; new && i < new->count; i++) {
        item *it = &new->items[i];
        it->populated = it->pinned;
        for (size_t g = it->first; g < it->last && it->populated; g++) it->populated = new->granules[g] & POPULATED;
    }
    p->peak = p->held_pinned;
}

srt_status srt_prefetcher_schedule(srt_prefetcher *p, const srt_item *items, size_t count, uint64_t window,
                                   uint64_t granule) {
    if (p->generation != srt_fork_generation()) return SRT_FORKED;
    uint64_t size = srt_mapping_size(p->mapping);
    if (!schedule_valid(items, count, window, granule, size)) return SRT_MISUSE;
    schedule *plan = schedule_new(items, count, window, granule, size);
    if (!plan) return SRT_NO_MEMORY;
    pthread_mutex_lock(&p->lock);
    srt_status status = p->stopping ? SRT_STOPPED : p->in_pass ? SRT_MISUSE : SRT_OK;
    int error = 0;
    if (status == SRT_OK && !p->started && (error = start(p)) != 0) status = SRT_SYSTEM;
    if (status == SRT_OK && !halt(p)) status = SRT_STOPPED;
    schedule *unused = plan;
    if (status == SRT_OK) {
        unused = p->plan;
        if (p->ahead) ahead_hold(p->mapping, p->plan);
        take_over(p, p->plan, plan);
        p->ahead = srt_mapping_advise(p->mapping, ahead_access(plan));
        p->plan = plan;
        p->pass = p->head = p->tail = 0;
        p->next_pin = 0;
        p->failure = SRT_OK;
        p->epoch++;
        resume(p);
    }
    pthread_mutex_unlock(&p->lock);
    schedule_free(unused);
    errno = error;
    return status;
}

/* ---------------------------------------------------------------- a pass */

/* Takes the lock and returns SRT_OK. Without the lock: SRT_FORKED, SRT_STOPPED, SRT_MISUSE (no schedule). */
static srt_status enter(srt_prefetcher *p) {
    if (p->generation != srt_fork_generation()) return SRT_FORKED;
    pthread_mutex_lock(&p->lock);
    srt_status status = p->stopping ? SRT_STOPPED : p->plan ? SRT_OK : SRT_MISUSE;
    if (status != SRT_OK) pthread_mutex_unlock(&p->lock);
    return status;
}

/* The state of an item of the current pass. SRT_TIMEOUT: not in memory yet. Lock held. */
static srt_status look(const srt_prefetcher *p, const item *it, size_t index, size_t *culprit) {
    const schedule *plan = p->plan;
    if (p->stopping) return SRT_STOPPED;
    srt_status status = srt_mapping_intact(p->mapping);
    if (status != SRT_OK) {
        *culprit = index;
        return status;
    }
    bool begun = !it->pinned && p->pass * plan->streamed + it->slot < p->head;
    if (it->pinned ? it->populated : begun && plan->states[it->slot] == READY) return SRT_OK;
    if (p->failure != SRT_OK) {
        *culprit = p->culprit;
        errno = p->failure_errno;
        return p->failure;
    }
    return p->idle && !begun ? SRT_WINDOW_FULL : SRT_TIMEOUT;
}

srt_status srt_prefetcher_wait(srt_prefetcher *p, size_t index, int64_t timeout, size_t *culprit) {
    srt_status status = enter(p);
    if (status != SRT_OK) return status;
    if (index >= p->plan->count || p->plan->items[index].done_in == p->epoch) {
        pthread_mutex_unlock(&p->lock);
        return SRT_MISUSE;
    }
    item *it = &p->plan->items[index];
    if (!p->in_pass && !p->across && p->plan->streamed > 0) wake(p); /* streamed items may be read from now on */
    p->in_pass = true;
    status = look(p, it, index, culprit);
    if (status == SRT_TIMEOUT && timeout > 0) {
        int64_t start = os_now();
        struct timespec until = deadline(timeout);
        while (status == SRT_TIMEOUT && pthread_cond_timedwait(&p->news, &p->lock, &until) == 0)
            status = look(p, it, index, culprit);
        if (status != SRT_STOPPED) p->plan->records[p->pass % 3][index].stall += os_now() - start;
    }
    if (status == SRT_OK) it->waited_in = p->epoch;
    int error = errno;
    pthread_mutex_unlock(&p->lock);
    errno = error;
    return status;
}

srt_status srt_prefetcher_done(srt_prefetcher *p, size_t index) {
    srt_status status = enter(p);
    if (status != SRT_OK) return status;
    schedule *plan = p->plan;
    if (index >= plan->count || plan->items[index].waited_in != p->epoch || plan->items[index].done_in == p->epoch) {
        status = SRT_MISUSE;
    } else {
        item *it = &plan->items[index];
        it->done_in = p->epoch;
        if (!it->pinned) {
            schedule_queue_release(plan, it->slot);
            slot_state state;
            while (p->tail < p->head && ((state = plan->states[p->tail % plan->streamed]) == DONE || state == FREE))
                p->tail++;
            wake(p);
        }
    }
    pthread_mutex_unlock(&p->lock);
    return status;
}

srt_status srt_prefetcher_finish(srt_prefetcher *p) {
    srt_status status = enter(p);
    if (status != SRT_OK) return status;
    schedule *plan = p->plan;
    uint64_t end = (p->pass + 1) * plan->streamed; /* the first number of the next pass */
    for (; p->tail < end && p->tail < p->head; p->tail++) {
        size_t slot = (size_t)(p->tail % plan->streamed);
        if (plan->states[slot] == READY)
            schedule_queue_release(plan, slot);
        else if (plan->states[slot] == READING)
            plan->states[slot] = ABANDONED;
    }
    p->tail = end;
    if (p->head < end) p->head = end;
    p->pass++;
    p->epoch++;
    p->in_pass = false;
    memset(plan->records[(p->pass + 1) % 3], 0, plan->count * sizeof *plan->records[0]);
    if (plan->streamed > 0 || p->failure != SRT_OK) /* after a pass over pinned items alone the thread stays asleep */
        wake(p);
    p->failure = SRT_OK; /* the next pass tries again */
    pthread_mutex_unlock(&p->lock);
    return SRT_OK;
}

srt_status srt_prefetcher_rewind(srt_prefetcher *p) {
    srt_status status = enter(p);
    if (status == SRT_MISUSE) /* without a schedule there is no pass to give up */
        return SRT_OK;
    if (status != SRT_OK) return status;
    if (!halt(p)) {
        pthread_mutex_unlock(&p->lock);
        return SRT_STOPPED;
    }
    schedule *plan = p->plan;
    for (size_t g = 0, run = 0; g <= plan->granule_count; g++) { /* granules run..g are to be released */
        if (g < plan->granule_count && (plan->granules[g] & USERS) != 0) {
            plan->granules[g] = 0;
        } else {
            if (run < g) release_run(&p->releaser, plan, run, g);
            run = g + 1;
        }
    }
    memset(plan->states, 0, plan->streamed * sizeof *plan->states);
    plan->release_count = 0;
    p->held_streamed = 0;
    p->head = p->tail = p->pass * plan->streamed;
    p->epoch++;
    p->in_pass = false;
    p->failure = SRT_OK;
    for (uint64_t pass = p->pass; pass <= p->pass + 1; pass++)
        memset(plan->records[pass % 3], 0, plan->count * sizeof *plan->records[0]);
    resume(p);
    pthread_mutex_unlock(&p->lock);
    return SRT_OK;
}

srt_status srt_prefetcher_read_across(srt_prefetcher *p, bool across) {
    if (p->generation != srt_fork_generation()) return SRT_FORKED;
    pthread_mutex_lock(&p->lock);
    p->across = across;
    wake(p);
    pthread_mutex_unlock(&p->lock);
    return SRT_OK;
}

srt_status srt_prefetcher_held(srt_prefetcher *p, uint64_t *held, uint64_t *peak) {
    srt_status status = enter(p);
    if (status == SRT_MISUSE) {
        *held = *peak = 0;
        return SRT_OK;
    }
    if (status != SRT_OK) return status;
    *held = p->held_pinned + p->held_streamed;
    *peak = p->peak;
    pthread_mutex_unlock(&p->lock);
    return SRT_OK;
}

srt_status srt_prefetcher_report(srt_prefetcher *p, srt_record *records, size_t *count) {
    *count = 0;
    srt_status status = enter(p);
    if (status != SRT_OK) return status == SRT_MISUSE ? SRT_OK : status;
    if (p->pass > 0) {
        *count = p->plan->count;
        if (records) memcpy(records, p->plan->records[(p->pass - 1) % 3], *count * sizeof *records);
    }
    pthread_mutex_unlock(&p->lock);
    return SRT_OK;
}

/* ---------------------------------------------------------------- making and freeing */

srt_status srt_prefetcher_new(srt_mapping *mapping, srt_prefetcher **out) {
    *out = NULL;
    srt_prefetcher *p = calloc(1, sizeof *p);
    if (!p) return SRT_NO_MEMORY;
    p->mapping = p->releaser.mapping = mapping;
    p->generation = srt_fork_generation();
    p->epoch = 1;
    p->across = true;
    pthread_condattr_t monotonic; /* so that setting the system's clock does not change a timeout */
    int error = pthread_mutex_init(&p->lock, NULL);
    error = error ? error : pthread_condattr_init(&monotonic);
    error = error ? error : pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    error = error ? error : pthread_cond_init(&p->work, &monotonic);
    error = error ? error : pthread_cond_init(&p->news, &monotonic);
    if (error) { /* on Linux these calls do not fail, and own nothing that would leak here */
        free(p);
        errno = error;
        return SRT_SYSTEM;
    }
    pthread_condattr_destroy(&monotonic);
    *out = p;
    return SRT_OK;
}

srt_status srt_prefetcher_stop(srt_prefetcher *p) {
    if (p->generation != srt_fork_generation()) return SRT_FORKED;
    pthread_mutex_lock(&p->lock);
    p->stopping = true;
    pthread_cond_broadcast(&p->work);
    pthread_cond_broadcast(&p->news);
    if (!p->joining) {
        p->joining = true;
        if (p->started) {
            pthread_mutex_unlock(&p->lock);
            pthread_join(p->thread, NULL);
            if (p->ahead) ahead_hold(p->mapping, p->plan); /* without the lock, because it may wait for the disk */
            pthread_mutex_lock(&p->lock);
        }
        take_over(p, p->plan, NULL);
        p->stopped = true;
        pthread_cond_broadcast(&p->news);
    }
    while (!p->stopped) /* another thread is stopping it */
        pthread_cond_wait(&p->news, &p->lock);
    pthread_mutex_unlock(&p->lock);
    return SRT_OK;
}

void srt_prefetcher_free(srt_prefetcher *p) {
    if (!p || srt_prefetcher_stop(p) == SRT_FORKED) return;
    schedule_free(p->plan);
    pthread_cond_destroy(&p->work);
    pthread_cond_destroy(&p->news);
    pthread_mutex_destroy(&p->lock);
    free(p);
}
