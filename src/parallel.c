/* parallel.c - the worker threads that all kernels share: see parallel.h. */
#include "parallel.h"

#include "os.h"
#include "pause.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

/* The fewest elements of a range for which it is worth to wake a thread. Waking a thread and waiting for it takes about
 * 10 us. 32 Ki elements of 4 bytes, read and written once, are 256 KiB: about 25 us at the 10 GB/s of one core. */
enum { WORTH_A_WAKE = 32 * 1024 };

/* A thread leaves 1/3 of the remaining units of a slice: it takes many at first and few at the end, so that all threads
 * end together even if one was late or slow. With a thread that is 25 % slower than another, this is as even as leaving
 * 1/2, and takes fewer steps. */
enum { LEFT = 3 };

/* Nanoseconds for which a thread polls for the next job, or for the end of its own, before it sleeps: 0.2 ms. In a pass
 * of a CNN the next kernel begins within about 10 us, and in a call that follows at once within about 0.15 ms. Waking a
 * thread of a virtual machine takes up to 50 us, of which the caller waits for 30. */
enum { PATIENCE = 200 * 1000 };

/* How often a polling thread looks between two readings of the clock, because a reading takes longer than a look. */
enum { LOOKS = 16 };

/* What a worker does, or is to do. The caller of a job offers it; the worker takes it and is idle again afterwards. An
 * offer that no worker has taken when the caller is done is withdrawn: nobody waits for a worker that still sleeps. */
enum { IDLE, ASLEEP, OFFERED, TAKEN, AWAITED, STOPPING }; /* AWAITED: taken, and the caller sleeps until it is done */

/* The place of a thread in a job. Each thread has a slice of the units, and then helps with the slices of others. So
 * the same core computes the same part of successive jobs, and finds in its cache what it wrote. All that a worker
 * reads to begin lies in one cache line, because a line takes up to 0.2 us from one core to another. Lines have 64
 * bytes, or 128 on some aarch64 processors. A worker reads the places of a job between TAKEN and IDLE. Only the owner
 * writes them, except `state` and `next`, and only while no worker has taken a job. */
typedef struct {
    _Alignas(128) _Atomic int state; /* of the worker; the caller, at seat 0, has none */
    int threads;                     /* threads that may work on it, the caller included; each has a place */
    _Atomic int64_t next;            /* the first unit of the slice that no thread has taken */
    int64_t end;                     /* of the slice */
    int64_t grain;                   /* a thread takes at least this many units at once */
    srt_range *run;
    const void *arguments;
} place;

static _Thread_local int seat;
static _Thread_local int64_t note;
static _Thread_local int widest; /* the most threads of a job of this thread since srt_widest() */

/* The thread whose job is on the workers holds it; so does a thread that replaces the workers. Taken before `lock`. */
static pthread_mutex_t owner = PTHREAD_MUTEX_INITIALIZER;
static pthread_t workers[SRT_MAX_THREADS]; /* under owner: by seat */
static int started;                        /* under owner: how many workers run */
static place places[SRT_MAX_THREADS];      /* by seat */

/* Held by a thread that goes to sleep, from its change of a state on, and by a thread that wakes another. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake[SRT_MAX_THREADS];               /* by seat: the worker is no longer ASLEEP */
static pthread_cond_t finished = PTHREAD_COND_INITIALIZER; /* a worker is no longer AWAITED */

static _Atomic int wanted; /* threads that a job may use; 0: not determined yet */

static pthread_once_t once = PTHREAD_ONCE_INIT;

/* Does units of one slice until none is left. */
static void work_on(place *p) {
    int64_t first = atomic_load_explicit(&p->next, memory_order_relaxed);
    while (first < p->end) {
        const int64_t left = p->end - first, share = left - left / LEFT;
        int64_t taken = share > p->grain ? share : p->grain;
        if (taken > left) taken = left;
        if (!atomic_compare_exchange_weak_explicit(&p->next, &first, first + taken, memory_order_relaxed,
                                                   memory_order_relaxed))
            continue;
        p->run(p->arguments, first, first + taken);
        first = atomic_load_explicit(&p->next, memory_order_relaxed);
    }
}

static void work(void) {
    const int64_t outer = note; /* of a job that runs on the caller's thread alone */
    note = -1;
    for (int i = 0, threads = places[seat].threads; i < threads; i++) work_on(&places[(seat + i) % threads]);
    note = outer;
}

/* Sets a state to `new` if it is `old`. Returns whether it was. */
static bool change(_Atomic int *state, int old, int new) {
    return atomic_compare_exchange_strong(state, &old, new);
}

/* Polls until a state is no longer `old`, and at most until the time `end`. Returns the state. */
static int await_change(const _Atomic int *state, int old, int64_t end) {
    for (;;) {
        for (int i = 0; i < LOOKS; i++) {
            const int now = atomic_load(state);
            if (now != old) return now;
            srt_pause();
        }
        if (os_now() >= end) return old;
    }
}

/* Changes a state from `old` to `new`, and sleeps until another thread changes it and signals. Returns at once if the
 * state is not `old`. */
static void sleep_until_changed(_Atomic int *state, int old, int new, pthread_cond_t *signalled) {
    pthread_mutex_lock(&lock);
    if (change(state, old, new))
        while (atomic_load(state) == new) pthread_cond_wait(signalled, &lock);
    pthread_mutex_unlock(&lock);
}

static void signal_to(pthread_cond_t *sleeper) {
    pthread_mutex_lock(&lock);
    pthread_cond_signal(sleeper);
    pthread_mutex_unlock(&lock);
}

/* Gives a worker a state, and wakes it. */
static void tell(int i, int state) {
    if (atomic_exchange(&places[i].state, state) == ASLEEP) signal_to(&wake[i]);
}

/* Withdraws the offer if worker i has not taken the job. */
static void withdraw(int i) {
    _Atomic int *state = &places[i].state;
    if (atomic_load(state) == OFFERED) change(state, OFFERED, IDLE); /* a load alone does not take the worker's line */
}

/* Waits until worker i is done with the job, if it has taken it. */
static void await_end(int i) {
    _Atomic int *state = &places[i].state;
    if (await_change(state, TAKEN, os_now() + PATIENCE) == TAKEN) sleep_until_changed(state, TAKEN, AWAITED, &finished);
}

static void *worker(void *thread) {
    os_wake_patiently(); /* so that the prefetch thread, which has just woken the caller, can first start its next read
                          */
    os_name_thread("streamrt-work");
    seat = (int)((pthread_t *)thread - workers);
    _Atomic int *state = &places[seat].state;
    for (int64_t end = 0;; end = os_now() + PATIENCE) { /* until `end` it polls instead of sleeping */
        const int now = await_change(state, IDLE, end);
        if (now == STOPPING) return NULL;
        if (now == IDLE) {
            sleep_until_changed(state, IDLE, ASLEEP, &wake[seat]);
        } else if (change(state, OFFERED, TAKEN)) {
            work();
            if (atomic_exchange(state, IDLE) == AWAITED) signal_to(&finished);
        }
    }
}

/* A fork holds both mutexes, so that the child inherits them in a known state. The child makes its condition variables
 * anew, because the copies may count waiters that do not exist there. */
static void before_fork(void) {
    pthread_mutex_lock(&owner);
    pthread_mutex_lock(&lock);
}

static void after_fork_parent(void) {
    pthread_mutex_unlock(&lock);
    pthread_mutex_unlock(&owner);
}

static void make_conditions(void) {
    for (int i = 0; i < SRT_MAX_THREADS; i++) wake[i] = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
}

static void after_fork_child(void) {
    make_conditions();
    finished = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
    started = 0;
    pthread_mutex_unlock(&lock);
    pthread_mutex_unlock(&owner);
}

static void prepare(void) {
    make_conditions();
    pthread_atfork(before_fork, after_fork_parent, after_fork_child);
}

/* Brings the number of workers to `count`, or as close as the system allows. Under owner. */
static void start(int count) {
    if (started >= count) return;
    pthread_once(&once, prepare);
    for (; started < count; started++) {
        pthread_t *next = &workers[started + 1]; /* by seat */
        atomic_store(&places[started + 1].state, IDLE);
        if (os_start_thread(next, worker, next) != 0) break;
    }
}

static int detect(void) {
    const int count = os_processors();
    return count < SRT_MAX_THREADS ? count : SRT_MAX_THREADS;
}

int srt_threads(void) {
    int count = atomic_load(&wanted);
    if (count == 0) {
        int detected = detect();
        /* on failure `count` holds the value that another thread has just set */
        if (atomic_compare_exchange_strong(&wanted, &count, detected)) count = detected;
    }
    return count;
}

void srt_rouse(int threads) {
    for (int i = 1; i < threads && i < SRT_MAX_THREADS; i++)
        if (change(&places[i].state, ASLEEP, IDLE)) signal_to(&wake[i]);
}

int srt_widest(void) {
    const int most = widest;
    widest = 0;
    return most;
}

void srt_set_threads(int count) {
    pthread_once(&once, prepare);
    pthread_mutex_lock(&owner);
    if (atomic_exchange(&wanted, count) == count) {
        pthread_mutex_unlock(&owner);
        return;
    }
    for (int i = 1; i <= started; i++) tell(i, STOPPING);
    for (int i = 1; i <= started; i++) pthread_join(workers[i], NULL);
    started = 0;
    pthread_mutex_unlock(&owner);
}

int64_t srt_grain(int64_t cost) {
    return cost >= WORTH_A_WAKE ? 1 : WORTH_A_WAKE / (cost < 1 ? 1 : cost);
}

int srt_seat(void) {
    return seat;
}

int64_t *srt_note(void) {
    return &note;
}

/* Runs a job on the calling thread alone. The thread may be inside another job. */
static void run_alone(int64_t count, srt_range *run, const void *arguments) {
    const int outer = seat;
    const int64_t outer_note = note;
    seat = 0;
    note = -1;
    run(arguments, 0, count);
    seat = outer;
    note = outer_note;
}

static int smaller(int64_t a, int64_t b) {
    return (int)(a < b ? a : b);
}

/* The first unit of slice i. */
static int64_t share_of(int64_t count, int64_t i, int64_t threads) {
    return count / threads * i + (i < count % threads ? i : count % threads);
}

void srt_parallel(int64_t count, int64_t grain, srt_range *run, const void *arguments) {
    srt_parallel_on(SRT_MAX_THREADS, count, grain, run, arguments);
}

void srt_parallel_on(int64_t most, int64_t count, int64_t grain, srt_range *run, const void *arguments) {
    if (count <= 0) return;
    const int64_t worth = (count - 1) / grain + 1; /* threads that can get a whole grain */
    int threads = smaller(srt_threads(), smaller(most, worth));
    if (threads > widest) widest = threads;
    if (threads == 1 || pthread_mutex_trylock(&owner) != 0) {
        run_alone(count, run, arguments);
        return;
    }
    threads = smaller(threads, srt_threads()); /* asked again: another thread may have changed it meanwhile */
    start(threads - 1);
    threads = smaller(threads, started + 1);
    if (threads == 1) {
        pthread_mutex_unlock(&owner);
        run_alone(count, run, arguments);
        return;
    }
    for (int i = 0; i < threads; i++) {
        place *p = &places[i];
        atomic_store_explicit(&p->next, share_of(count, i, threads), memory_order_relaxed);
        p->end = share_of(count, i + 1, threads);
        p->threads = threads;
        p->grain = grain;
        p->run = run;
        p->arguments = arguments;
    }
    for (int i = 1; i < threads; i++) tell(i, OFFERED);
    work();
    for (int i = 1; i < threads; i++) withdraw(i); /* all of them first, so that none begins while another ends */
    for (int i = 1; i < threads; i++) await_end(i);
    pthread_mutex_unlock(&owner);
}
