/* crc32c.c - CRC-32C with the processor's instruction, or with tables: see kernels.h.
 *
 * Bits are reflected: bit 31 of the register is the coefficient of x^0, and appending data shifts the register right.
 */
#include "simd/table.h"

#include <pthread.h>

/* The Castagnoli polynomial 0x1EDC6F41, reflected. */
static const uint32_t polynomial = 0x82f63b78;

/* bytes[k][b]: the register after byte b and then k zero bytes, from a register of 0 (slicing by 8: Kounavis and Berry,
 * 2005). */
static uint32_t bytes[8][256];

enum { STRIP = SRT_CRC_STRIP };

/* CHUNK: bytes of a unit of the job, 132 KiB, which take about 7 us: 11 times three strips. CHUNKS: the most units of a
 * job, whose registers are on the stack until they are joined. */
enum { CHUNK = 11 * 3 * STRIP, CHUNKS = 128 };

/* [k][b]: the register after STRIP, or CHUNK, zero bytes, from a register with b in byte k and 0 elsewhere. */
static uint32_t strip[4][256], chunk[4][256];

static pthread_once_t once = PTHREAD_ONCE_INIT;

static uint32_t append_zeros(uint32_t crc, size_t count) {
    while (count--) crc = (crc >> 8) ^ bytes[0][crc & 0xff];
    return crc;
}

/* The register after the zero bytes of a table. */
static uint32_t append(uint32_t zeros[4][256], uint32_t crc) {
    return zeros[0][crc & 0xff] ^ zeros[1][crc >> 8 & 0xff] ^ zeros[2][crc >> 16 & 0xff] ^ zeros[3][crc >> 24];
}

uint32_t srt_crc32c_after_strip(uint32_t crc) {
    return append(strip, crc);
}

/* Appending zeros is linear: all 1024 entries follow from the entries of 32 powers of two. */
static void complete(uint32_t zeros[4][256]) {
    for (int k = 0; k < 4; k++)
        for (int b = 1; b < 256; b++) zeros[k][b] = zeros[k][b & (b - 1)] ^ zeros[k][b & -b];
}

static void make_tables(void) {
    for (uint32_t b = 0; b < 256; b++) {
        uint32_t crc = b;
        for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (crc & 1 ? polynomial : 0);
        bytes[0][b] = crc;
    }
    for (int b = 0; b < 256; b++)
        for (int k = 1; k < 8; k++) bytes[k][b] = append_zeros(bytes[k - 1][b], 1);
    for (int k = 0; k < 4; k++)
        for (int bit = 0; bit < 8; bit++) strip[k][1 << bit] = append_zeros(1u << (8 * k + bit), STRIP);
    complete(strip);
    for (int k = 0; k < 4; k++)
        for (int bit = 0; bit < 8; bit++) {
            uint32_t crc = 1u << (8 * k + bit);
            for (int i = 0; i < CHUNK / STRIP; i++) crc = append(strip, crc);
            chunk[k][1 << bit] = crc;
        }
    complete(chunk);
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

static uint32_t register_after(const uint8_t *p, size_t size, uint32_t start) {
    const srt_table *table = srt_table_active();
    return (table->crc32c ? table->crc32c : with_tables)(p, size, start);
}

typedef struct { /* unit 0 is the head of the data, shorter than a chunk; every other unit is a chunk */
    const uint8_t *data;
    size_t head;
    uint32_t start;
    uint32_t *registers; /* after the head, from `start`; after each chunk, from a register of 0 */
} chunks_job;

static void take_chunks(const void *arguments, int64_t first, int64_t last) {
    const chunks_job *job = arguments;
    for (int64_t i = first; i < last; i++)
        job->registers[i] = i == 0 ? register_after(job->data, job->head, job->start)
                                   : register_after(job->data + job->head + (i - 1) * CHUNK, CHUNK, 0);
}

uint32_t srt_crc32c(const void *data, size_t size, uint32_t value) {
    pthread_once(&once, make_tables);
    const uint8_t *p = data;
    uint32_t crc = ~value, registers[1 + CHUNKS];
    while (size >= 2 * CHUNK) {
        const size_t count = size / CHUNK < CHUNKS ? size / CHUNK : CHUNKS, head = size % CHUNK;
        const chunks_job job = {p, head, crc, registers};
        srt_parallel(1 + (int64_t)count, 1, take_chunks, &job);
        crc = registers[0];
        for (size_t i = 1; i <= count; i++) crc = append(chunk, crc) ^ registers[i];
        p += head + count * CHUNK, size -= head + count * CHUNK;
    }
    return ~register_after(p, size, crc);
}
