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

/* Nanoseconds for which a thread polls for the next job, or for the end of its own, before it sleeps: 0.1 ms. In a pass
 * of a CNN the next kernel begins within about 10 us; waking a thread of a virtual machine takes up to 50 us. */
enum { PATIENCE = 100 * 1000 };

/* How often a polling thread looks between two readings of the clock, because a reading takes longer than a look. */
enum { LOOKS = 16 };

/* Each thread has a slice of the units, and then helps with the slices of others. So the same core computes the same
 * part of successive jobs, and finds in its cache what it wrote. Slices lie in different cache lines, which have 64
 * bytes, or 128 on some aarch64 processors. */
typedef struct {
    _Alignas(128) _Atomic int64_t next; /* the first unit that no thread has taken */
    int64_t end;
} slice;

typedef struct {
    srt_range *run;
    const void *arguments;
    int64_t grain; /* a thread takes at least this many units at once */
    int threads;   /* threads that may work on it, the caller included; each has a slice */
} job;

static _Thread_local int seat;
static _Thread_local int widest; /* the most threads of a job of this thread since srt_widest() */

/* The thread whose job is on the workers holds it; so does a thread that replaces the workers. Taken before `lock`. */
static pthread_mutex_t owner = PTHREAD_MUTEX_INITIALIZER;
static pthread_t workers[SRT_MAX_THREADS]; /* under owner */
static int started;                        /* under owner: how many workers run */
static slice slices[SRT_MAX_THREADS];      /* under owner: of the current job, by seat */

/* Guards the five variables below. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake[SRT_MAX_THREADS];               /* by seat: there is a new job, or the worker is to stop */
static pthread_cond_t finished = PTHREAD_COND_INITIALIZER; /* busy fell to 0 */
static job *current;                                       /* NULL: no worker may join */
static uint64_t serial;                                    /* counts jobs; a worker joins each job once */
static int busy;                                           /* workers inside the current job */
static bool stopping;

/* For threads that poll without the lock. They change after the lock was released, so that a thread that sees a change
 * finds the lock free. */
static _Atomic uint64_t announced; /* serial of the current job, or of the last one */
static _Atomic uint64_t departed;  /* how often a worker has left a job */

static _Atomic int wanted; /* threads that a job may use; 0: not determined yet */

static pthread_once_t once = PTHREAD_ONCE_INIT;

/* Does units of one slice until none is left. */
static void work_on(const job *j, slice *s) {
    int64_t first = atomic_load_explicit(&s->next, memory_order_relaxed);
    while (first < s->end) {
        const int64_t left = s->end - first, share = left - left / LEFT;
        int64_t taken = share > j->grain ? share : j->grain;
        if (taken > left) taken = left;
        if (!atomic_compare_exchange_weak_explicit(&s->next, &first, first + taken, memory_order_relaxed,
                                                   memory_order_relaxed))
            continue;
        j->run(j->arguments, first, first + taken);
        first = atomic_load_explicit(&s->next, memory_order_relaxed);
    }
}

static void work(const job *j) {
    for (int i = 0; i < j->threads; i++) work_on(j, &slices[(seat + i) % j->threads]);
}

/* Polls until `*count` exceeds `old`, or until the time `end`. Returns whether it does. */
static bool await_beyond(const _Atomic uint64_t *count, uint64_t old, int64_t end) {
    while (os_now() < end)
        for (int i = 0; i < LOOKS; i++) {
            if (atomic_load_explicit(count, memory_order_relaxed) > old) return true;
            srt_pause();
        }
    return false;
}

static void *worker(void *place) {
    uint64_t seen = 0;
    int64_t end = 0;     /* until then it polls instead of sleeping */
    os_wake_patiently(); /* so that the prefetch thread, which has just woken the caller, can first start its next read
                          */
    os_name_thread("streamrt-work");
    seat = (int)((pthread_t *)place - workers) + 1;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (!stopping && (current == NULL || seen == serial || seat >= current->threads)) {
            if (os_now() < end) {
                seen = serial; /* it has done the current job, or has no part in it */
                pthread_mutex_unlock(&lock);
                await_beyond(&announced, seen, end);
                pthread_mutex_lock(&lock);
                continue;
            }
            pthread_cond_wait(&wake[seat], &lock);
            /* woken by srt_rouse, or too late for a job: the next job comes soon */
            if (current == NULL) end = os_now() + PATIENCE;
        }
        if (stopping) break;
        seen = serial;
        job *mine = current;
        busy++;
        pthread_mutex_unlock(&lock);
        work(mine);
        pthread_mutex_lock(&lock);
        if (--busy == 0) pthread_cond_signal(&finished);
        pthread_mutex_unlock(&lock);
        atomic_fetch_add(&departed, 1);
        end = os_now() + PATIENCE;
        await_beyond(&announced, seen, end);
        pthread_mutex_lock(&lock);
    }
    pthread_mutex_unlock(&lock);
    return NULL;
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
    while (started < count && os_start_thread(&workers[started], worker, &workers[started]) == 0) started++;
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
    if (threads <= 1) return;
    pthread_once(&once, prepare);
    pthread_mutex_lock(&lock);
    for (int i = 1; i < threads && i < SRT_MAX_THREADS; i++) pthread_cond_signal(&wake[i]);
    pthread_mutex_unlock(&lock);
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
    pthread_mutex_lock(&lock);
    stopping = true;
    for (int i = 1; i <= started; i++) pthread_cond_signal(&wake[i]);
    pthread_mutex_unlock(&lock);
    for (int i = 0; i < started; i++) pthread_join(workers[i], NULL);
    started = 0;
    stopping = false; /* without the lock: no worker is left to read it */
    pthread_mutex_unlock(&owner);
}

int64_t srt_grain(int64_t cost) {
    return cost >= WORTH_A_WAKE ? 1 : WORTH_A_WAKE / (cost < 1 ? 1 : cost);
}

int srt_seat(void) {
    return seat;
}

/* Runs a job on the calling thread alone. The thread may be inside another job. */
static void run_alone(int64_t count, srt_range *run, const void *arguments) {
    int outer = seat;
    seat = 0;
    run(arguments, 0, count);
    seat = outer;
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
        atomic_init(&slices[i].next, share_of(count, i, threads));
        slices[i].end = share_of(count, i + 1, threads);
    }
    job mine = {.run = run, .arguments = arguments, .grain = grain, .threads = threads};

    pthread_mutex_lock(&lock);
    current = &mine;
    serial++;
    for (int i = 1; i < threads; i++) pthread_cond_signal(&wake[i]);
    pthread_mutex_unlock(&lock);
    atomic_store(&announced, serial); /* without the lock: only the owner changes serial */

    work(&mine);

    pthread_mutex_lock(&lock);
    current = NULL; /* a worker that wakes only now finds no job, so the caller does not wait for it */
    for (bool patient = true; busy > 0 && patient;) {
        const uint64_t before = atomic_load(&departed);
        pthread_mutex_unlock(&lock);
        patient = await_beyond(&departed, before, os_now() + PATIENCE);
        pthread_mutex_lock(&lock);
    }
    while (busy > 0) pthread_cond_wait(&finished, &lock);
    pthread_mutex_unlock(&lock);
    pthread_mutex_unlock(&owner);
}
