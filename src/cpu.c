/* cpu.c - instruction-set detection: see cpu.h. */
#include "cpu.h"

#include <string.h>

static const char *const names[SRT_ISA_COUNT] = {"scalar", "avx2", "avx512"};

static srt_isa active = SRT_ISA_SCALAR;

const char *srt_isa_name(int isa) {
    return isa >= 0 && isa < SRT_ISA_COUNT ? names[isa] : NULL;
}

#ifdef __x86_64__
/* The compiler's own check also asks the operating system whether it saves the wide registers (XGETBV). */
bool srt_isa_available(srt_isa isa) {
    __builtin_cpu_init();
    switch (isa) {
    case SRT_ISA_SCALAR:
        return true;
    case SRT_ISA_AVX2:
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case SRT_ISA_AVX512:
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    default:
        return false;
    }
}

bool srt_cpu_has_crc32(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("sse4.2");
}
#else
bool srt_isa_available(srt_isa isa) {
    return isa == SRT_ISA_SCALAR;
}

bool srt_cpu_has_crc32(void) {
    return false;
}
#endif

srt_isa srt_isa_active(void) {
    return active;
}

bool srt_isa_use(const char *name) {
    for (int isa = SRT_ISA_COUNT - 1; isa >= 0; isa--) {
        bool wanted = name == NULL || *name == '\0' || strcmp(name, names[isa]) == 0;
        if (wanted && srt_isa_available((srt_isa)isa)) {
            active = (srt_isa)isa;
            return true;
        }
    }
    return false;
}
