/* parallel.h - the worker threads that all kernels share.
 *
 * One job runs on the workers at a time. A second caller does not wait: it runs its own job alone. So models on
 * different Python threads never wait for each other's kernels.
 *
 * A job starts the workers that it can use and that do not run yet. After a job they poll for 0.2 ms for the next one
 * that can use them. Then they sleep, because the BLAS library and the prefetch thread use the same cores.
 *
 * Fork rule: fork waits for the job in progress. The child starts without workers, and its first job starts new ones.
 */
#ifndef STREAMRT_PARALLEL_H
#define STREAMRT_PARALLEL_H

#include <stdint.h>

/* The most threads that a job may use, the caller included. The tables of parallel.c have an entry for each. */
enum { SRT_MAX_THREADS = 256 };

/* Does the units first <= i < last of a job, on any thread, at the same time as other ranges of the job. */
typedef void srt_range(const void *job, int64_t first, int64_t last);

/* Runs the units 0 <= i < count of a job and returns when all are done. The caller works too. Each thread begins with a
 * slice of its own. Slices are in the order of the units. Jobs with equal numbers of units and threads have equal
 * slices. When its slice is done, a thread helps with the others. A range has at least `grain` units, unless it is the
 * end of a slice. A job of at most `grain` units runs on the caller's thread alone. If threads cannot be started, the
 * job runs on the existing threads. Any thread may call, also inside a job. While the workers have a job, any other job
 * runs on its caller's thread alone.
 */
void srt_parallel(int64_t count, int64_t grain, srt_range *run, const void *job);

/* As srt_parallel, on at most `most` threads. */
void srt_parallel_on(int64_t most, int64_t count, int64_t grain, srt_range *run, const void *job);

/* Wakes the workers of a job of `threads` threads before it, because waking takes longer than many kernels. Any thread.
 */
void srt_rouse(int threads);

/* The most threads that a job of the calling thread could use since the last call of this function; 0: there was no
 * job. */
int srt_widest(void);

/* The number of the calling thread among the threads of its job, from 0. It selects the thread's scratch memory. */
int srt_seat(void);

/* A number of the calling thread, -1 when the thread begins a job. A kernel notes there what the thread's scratch
 * memory holds. */
int64_t *srt_note(void);

/* The fewest units of a range for which it is worth to wake a thread. `cost`: of one unit, in elements that are read
 * and written once. */
int64_t srt_grain(int64_t cost);

/* Threads that a job may use, the caller included. By default the processors that this process may run on. Any thread.
 */
int srt_threads(void);

/* Sets srt_threads(), 1 to SRT_MAX_THREADS. Waits for the job in progress, and for the old workers to end. */
void srt_set_threads(int count);

#endif
