/* isa.c - the list of instruction sets, and which of them is in use: see isa.h. */
#include "isa.h"

#include <string.h>

#include "simd/table.h"

/* Each is simd/NAME.c with simd/vec_NAME.h. */
extern const srt_table srt_scalar_table, srt_avx2_table, srt_avx512_table, srt_neon_table;

typedef struct {
    const char *name;
    const srt_table *loops;
    bool products; /* whether the loops compute products; false: NumPy does */
} instruction_set;

/* The best last. */
static const instruction_set sets[] = {
    {"numpy", &srt_scalar_table, false}, {"scalar", &srt_scalar_table, true},
#ifdef __x86_64__
    {"avx2", &srt_avx2_table, true},     {"avx512", &srt_avx512_table, true},
#endif
#ifdef __aarch64__
    {"neon", &srt_neon_table, true},
#endif
};
enum { COUNT = sizeof sets / sizeof *sets };

static const instruction_set *active = &sets[1]; /* scalar, which every processor runs */

const srt_table *srt_table_active(void) {
    return active->loops;
}

bool srt_products_pay(void) {
    return active->products;
}

const char *srt_isa_name(int isa) {
    return isa >= 0 && isa < COUNT ? sets[isa].name : NULL;
}

bool srt_isa_available(int isa) {
    return sets[isa].loops->available();
}

const char *srt_isa_active(void) {
    return active->name;
}

bool srt_isa_use(const char *name) {
    for (int isa = COUNT - 1; isa >= 0; isa--) {
        const bool wanted = name == NULL || *name == '\0' || strcmp(name, sets[isa].name) == 0;
        if (wanted && srt_isa_available(isa)) {
            active = &sets[isa];
            return true;
        }
    }
    return false;
}
