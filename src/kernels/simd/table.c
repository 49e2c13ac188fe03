/* table.c - the one place that maps an instruction set to its loops. */
#include "table.h"

#include "../../cpu.h"

static const srt_table *const tables[SRT_ISA_COUNT] = {
    [SRT_ISA_SCALAR] = &srt_table_scalar,
#ifdef __x86_64__
    [SRT_ISA_AVX2] = &srt_table_avx2,
    [SRT_ISA_AVX512] = &srt_table_avx512,
#endif
};

const srt_table *srt_table_active(void) {
    return tables[srt_isa_active()];
}
