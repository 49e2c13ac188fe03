/* parallel.h - the worker threads that all kernels share.
 *
 * One job runs on the workers at a time. A second caller does not wait: it does its own job alone, so that
 * models on different Python threads never queue behind each other's kernels.
 *
 * Workers are started by the first job that is big enough. Between jobs they look out for the next one for a tenth of a
 * millisecond and then sleep, because the BLAS library and the prefetch thread have the same cores.
 *
 * Fork rule: fork waits for the job in progress; the child starts without workers and makes its own at
 * its first job.
 */
#ifndef STREAMRT_PARALLEL_H
#define STREAMRT_PARALLEL_H

#include <stdint.h>

/* The most threads a job may use, the caller included. */
enum { SRT_MAX_THREADS = 256 };

/* Does the units first..last of a job; runs on any thread, at the same time as other ranges of the job. */
typedef void srt_range(const void *job, int64_t first, int64_t last);

/* Run the units 0..count of a job and return when all are done. The caller works too. Each thread begins with a slice
 * of its own, in the order of the units and the same for every job of as many threads, and then helps others. Ranges
 * have at least `grain` units, or are the last ones of a slice; a job of at most `grain` units runs inline. When
 * threads cannot be started, the job runs on those there are. Any thread; callable from inside a job (it then runs
 * inline). */
void srt_parallel(int64_t count, int64_t grain, srt_range *run, const void *job);

/* The same on no more than `most` threads. Units of a group, so many from a multiple of `group` on, are left to one
 * thread if they are in its slice: doing them together costs less. */
void srt_parallel_on(int64_t most, int64_t count, int64_t grain, int64_t group, srt_range *run, const void *job);

/* Wake workers that sleep, for a caller that has a job soon: waking takes longer than many a kernel. Any thread. */
void srt_rouse(void);

/* Which of the threads of its job the calling one is: 0 up to how many may work on it. Each has memory of its own by
 * that. */
int srt_seat(void);

/* Units per range, such that a range is worth waking a thread for: `cost` is what one unit costs, in
 * elements that are read and written once. */
int64_t srt_grain(int64_t cost);

/* Threads that a job may use, the caller included. Default: the processors this process may run on. Any thread. */
int srt_threads(void);

/* Set that number, 1 to SRT_MAX_THREADS. Waits for the job in progress; the old workers have ended on return. */
void srt_set_threads(int count);

#endif
