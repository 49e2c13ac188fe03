/* The way of a cache line from one processor to another: two threads write the same line in turns. */

#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>

typedef struct {
    long first, end; /* the thread waits for the numbers first, first + 2, ... and writes each plus 1 */
    _Atomic long *line;
    double seconds; /* between its second number, when both threads run, and its last one */
} turns;

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec * 1e-9;
}

static void *take_turns(void *arguments) {
    turns *mine = arguments;
    double start = 0;
    for (long i = mine->first; i < mine->end; i += 2) {
        long seen;
        while ((seen = atomic_load_explicit(mine->line, memory_order_acquire)) < i) {
        }
        if (seen > i) return NULL; /* there is no other thread */
        if (i == mine->first + 2) start = now();
        if (i + 2 >= mine->end) mine->seconds = now() - start;
        atomic_store_explicit(mine->line, i + 1, memory_order_release);
    }
    return NULL;
}

/* Starts a thread that stays on a processor. Returns 0, or an error: two threads on one processor would wait for each
 * other for whole time slices. */
static int start_on(int processor, pthread_t *thread, turns *its) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(processor, &set);
    pthread_attr_t attributes;
    int error = pthread_attr_init(&attributes);
    if (error) return error;
    error = pthread_attr_setaffinity_np(&attributes, sizeof set, &set);
    if (!error) error = pthread_create(thread, &attributes, take_turns, its);
    pthread_attr_destroy(&attributes);
    return error;
}

/* Seconds of one way, the mean of `count`, which is even and at least 8. Negative if no thread can be on one of the
 * processors, which are below CPU_SETSIZE. */
double hop(int one, int other, long count) {
    _Alignas(128) _Atomic long line = -1; /* both threads wait until there are two */
    turns even = {0, count, &line, 0}, odd = {1, count, &line, 0};
    pthread_t first, second;
    if (start_on(one, &first, &even)) return -1;
    const int alone = start_on(other, &second, &odd);
    atomic_store(&line, alone ? count : 0);
    pthread_join(first, NULL);
    if (alone) return -1;
    pthread_join(second, NULL);
    return even.seconds / (double)(count - 4);
}
