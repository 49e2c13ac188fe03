/* cpu_x86.h - what this x86-64 processor and its operating system have.
 *
 * __builtin_cpu_supports would tell, too. But its data lie in the compiler's own library, and a linker that takes them
 * from there may take that library's memcpy as well, which is slower than the C library's.
 */
#ifndef STREAMRT_CPU_X86_H
#define STREAMRT_CPU_X86_H

#include <cpuid.h>
#include <stdbool.h>

/* Registers that the operating system saves, as bits of XCR0. */
enum { SAVES_YMM = 0x06, SAVES_ZMM = 0xe6 };

/* Whether ECX of CPUID's leaf 1 has all bits `first`, EBX of leaf 7 all bits `seventh`, and XCR0 all bits `saved`. */
static inline bool cpu_has(unsigned first, unsigned seventh, unsigned saved) {
    unsigned a, b, c, d;
    first |= bit_OSXSAVE; /* without it there is no XCR0 */
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & first) != first) return false;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (b & seventh) != seventh) return false;
    __asm__("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return (a & saved) == saved;
}

#endif
