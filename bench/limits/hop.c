/* The way of a cache line from one processor to another: two threads write the same line in turns. */

#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

typedef struct {
    int processor;
    long first, end; /* the thread waits for the numbers first, first + 2, ... and writes each plus 1 */
    _Atomic long *line;
    bool stays;     /* on its processor */
    double seconds; /* between its second number, when both threads run, and its last one */
} turns;

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec * 1e-9;
}

static void *take_turns(void *arguments) {
    turns *mine = arguments;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(mine->processor, &set);
    mine->stays = sched_setaffinity(0, sizeof set, &set) == 0;
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

/* Seconds of one way, the mean of `count`, which is even and at least 8. Negative if there is no second thread, or the
 * threads may not use these processors. */
double hop(int one, int other, long count) {
    _Alignas(128) _Atomic long line = 0;
    turns even = {one, 0, count, &line, false, 0}, odd = {other, 1, count, &line, false, 0};
    pthread_t first, second;
    if (pthread_create(&first, NULL, take_turns, &even) != 0) return -1;
    const bool two = pthread_create(&second, NULL, take_turns, &odd) == 0;
    if (!two) atomic_store(&line, count);
    pthread_join(first, NULL);
    if (two) pthread_join(second, NULL);
    return two && even.stays && odd.stays ? even.seconds / (double)(count - 4) : -1;
}
