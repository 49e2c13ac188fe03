/* cpu.h - which instruction set the kernels run on.
 *
 * The choice is made once, when the module is imported, and may be forced by name for tests. It is read
 * without a lock: change it only while no kernel runs.
 */
#ifndef STREAMRT_CPU_H
#define STREAMRT_CPU_H

#include <stdbool.h>
#include <stddef.h>

typedef enum {
    SRT_ISA_SCALAR = 0, /* plain C for the architecture's baseline: always there */
    SRT_ISA_AVX2,       /* x86-64 with AVX2 and FMA */
    SRT_ISA_AVX512,     /* x86-64 with AVX-512 F, DQ, BW and VL */
    SRT_ISA_COUNT,
} srt_isa;

/* The name of an instruction set, a static string; NULL when isa is out of range. */
const char *srt_isa_name(int isa);

/* Whether this processor and operating system run it. Any thread. */
bool srt_isa_available(srt_isa isa);

/* Whether the crc32 instruction (SSE4.2) is there. Any thread. */
bool srt_cpu_has_crc32(void);

/* The instruction set in use. Any thread. */
srt_isa srt_isa_active(void);

/* Use the named instruction set, or the best one when name is NULL or empty.
 * Returns false, and changes nothing, when the name is unknown or the processor cannot run it. */
bool srt_isa_use(const char *name);

#endif
