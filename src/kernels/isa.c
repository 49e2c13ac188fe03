/* isa.c - the list of instruction sets, and which of them is in use: see isa.h. */
#include "isa.h"

#include <string.h>

#include "simd/table.h"

/* Each is simd/NAME.c with simd/vec_NAME.h. */
extern const srt_table srt_scalar_table, srt_avx2_table, srt_avx512_table, srt_neon_table;

/* The best last. */
static const srt_table *const tables[] = {
    &srt_scalar_table,
#ifdef __x86_64__
    &srt_avx2_table,
    &srt_avx512_table,
#endif
#ifdef __aarch64__
    &srt_neon_table,
#endif
};
enum { COUNT = sizeof tables / sizeof *tables };

static const srt_table *active = &srt_scalar_table;

const srt_table *srt_table_active(void) {
    return active;
}

const char *srt_isa_name(int isa) {
    return isa >= 0 && isa < COUNT ? tables[isa]->name : NULL;
}

bool srt_isa_available(int isa) {
    return tables[isa]->available();
}

const char *srt_isa_active(void) {
    return active->name;
}

bool srt_isa_use(const char *name) {
    for (int isa = COUNT - 1; isa >= 0; isa--) {
        const bool wanted = name == NULL || *name == '\0' || strcmp(name, tables[isa]->name) == 0;
        if (wanted && tables[isa]->available()) {
            active = tables[isa];
            return true;
        }
    }
    return false;
}
