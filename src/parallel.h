/* parallel.h - the worker threads that all kernels share.
 *
 * One job runs on the workers at a time. A second caller does not wait: it does its own job alone, so that
 * models on different Python threads never queue behind each other's kernels.
 *
 * Workers are started by the first job that is big enough, and sleep between jobs without spinning, because
 * the BLAS library keeps its own threads on the same cores.
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

/* Run the units 0..count of a job and return when all are done. The caller works too. No range but the last
 * has fewer than `grain` units; a job of at most `grain` units runs inline. When threads cannot be started,
 * the job runs on those there are. Any thread; callable from inside a job (it then runs inline). */
void srt_parallel(int64_t count, int64_t grain, srt_range *run, const void *job);

/* Units per range, such that a range is worth waking a thread for: `cost` is what one unit costs, in
 * elements that are read and written once. */
int64_t srt_grain(int64_t cost);

/* Threads that a job may use, the caller included. Default: the processors this process may run on. Any thread. */
int srt_threads(void);

/* Set that number, 1 to SRT_MAX_THREADS. Waits for the job in progress; the old workers have ended on return. */
void srt_set_threads(int count);

#endif
