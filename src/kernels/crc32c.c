/* crc32c.c - CRC-32C with the processor's instruction, or with tables: see kernels.h.
 *
 * Bits are reflected: bit 31 of the register is the coefficient of x^0, and appending data shifts right.
 */
#include "kernels.h"

#include <pthread.h>
#include <string.h>

#include "../cpu.h"

/* The Castagnoli polynomial 0x1EDC6F41, reflected. */
static const uint32_t polynomial = 0x82f63b78;

/* bytes[k][b]: the register after byte b and then k zero bytes, from an empty register (slicing by 8: Kounavis
 * and Berry, 2005). */
static uint32_t bytes[8][256];

/* The instruction takes one step of 8 bytes a cycle but has its result after three: three strips in flight keep
 * it busy. Joining them costs 8 look-ups, little beside the 1024 steps of a strip of 8 KiB. */
enum { STRIP = 8192 };

/* strip[k][b]: the register after STRIP zero bytes, from a register that holds b in byte k and 0 elsewhere. */
static uint32_t strip[4][256];

static pthread_once_t once = PTHREAD_ONCE_INIT;

static uint32_t append_zeros(uint32_t crc, size_t count) {
    while (count--) crc = (crc >> 8) ^ bytes[0][crc & 0xff];
    return crc;
}

static void make_tables(void) {
    for (uint32_t b = 0; b < 256; b++) {
        uint32_t crc = b;
        for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (crc & 1 ? polynomial : 0);
        bytes[0][b] = crc;
    }
    for (int b = 0; b < 256; b++)
        for (int k = 1; k < 8; k++) bytes[k][b] = append_zeros(bytes[k - 1][b], 1);
    /* appending zeros is linear: 32 powers of two make up all 1024 entries */
    for (int k = 0; k < 4; k++) {
        for (int bit = 0; bit < 8; bit++) strip[k][1 << bit] = append_zeros(1u << (8 * k + bit), STRIP);
        for (int b = 1; b < 256; b++) strip[k][b] = strip[k][b & (b - 1)] ^ strip[k][b & -b];
    }
}

static uint64_t little_endian(const uint8_t *p) {
    uint64_t word = 0;
    for (int i = 7; i >= 0; i--) word = word << 8 | p[i];
    return word;
}

static uint32_t with_tables(const uint8_t *p, size_t size, uint32_t crc) {
    for (; size >= 8; p += 8, size -= 8) {
        uint64_t word = little_endian(p) ^ crc;
        crc = 0;
        for (int i = 0; i < 8; i++) crc ^= bytes[7 - i][word >> (8 * i) & 0xff];
    }
    for (; size > 0; p++, size--) crc = (crc >> 8) ^ bytes[0][(crc ^ *p) & 0xff];
    return crc;
}

#ifdef __x86_64__
#include <nmmintrin.h>

static uint64_t append_strip(uint64_t crc) {
    return strip[0][crc & 0xff] ^ strip[1][crc >> 8 & 0xff] ^ strip[2][crc >> 16 & 0xff] ^ strip[3][crc >> 24];
}

static uint64_t word_at(const uint8_t *p) {
    uint64_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

__attribute__((target("sse4.2"))) static uint32_t with_instruction(const uint8_t *p, size_t size, uint32_t start) {
    uint64_t crc = start;
    for (; size >= 3 * STRIP; p += 3 * STRIP, size -= 3 * STRIP) {
        uint64_t second = 0, third = 0;
        for (size_t i = 0; i < STRIP; i += 8) {
            crc = _mm_crc32_u64(crc, word_at(p + i));
            second = _mm_crc32_u64(second, word_at(p + STRIP + i));
            third = _mm_crc32_u64(third, word_at(p + 2 * STRIP + i));
        }
        crc = append_strip(append_strip(crc) ^ second) ^ third;
    }
    for (; size >= 8; p += 8, size -= 8) crc = _mm_crc32_u64(crc, word_at(p));
    for (; size > 0; p++, size--) crc = _mm_crc32_u8((uint32_t)crc, *p);
    return (uint32_t)crc;
}
#else
static uint32_t with_instruction(const uint8_t *p, size_t size, uint32_t start) {
    return with_tables(p, size, start);
}
#endif

uint32_t srt_crc32c(const void *data, size_t size, uint32_t value) {
    pthread_once(&once, make_tables);
    bool instruction = srt_isa_active() != SRT_ISA_SCALAR && srt_cpu_has_crc32();
    return ~(instruction ? with_instruction : with_tables)(data, size, ~value);
}
