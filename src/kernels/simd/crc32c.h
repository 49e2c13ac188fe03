/* crc32c.h - CRC-32C with the processor's instruction: see ../crc32c.c. */
#ifndef STREAMRT_CRC32C_H
#define STREAMRT_CRC32C_H

#include "functions.h"
#include "panel.h"

V uint64_t word_at(const uint8_t *p) {
    uint64_t word;
    memcpy(&word, p, sizeof word);
    return word;
}

FN uint32_t crc32c(const uint8_t *p, size_t size, uint32_t start) {
    enum { STRIP = SRT_CRC_STRIP, LINE = CONV_LINE * sizeof(float) };
    uint64_t crc = start;
    for (; size >= 3 * STRIP; p += 3 * STRIP, size -= 3 * STRIP) {
        uint64_t second = 0, third = 0;
        for (size_t line = 0; line < STRIP; line += LINE) {
            /* Fetches the next three strips, which the processor would fetch too late. Behind the end it has no effect.
             */
            for (size_t j = 0; j < 3 * STRIP; j += STRIP) __builtin_prefetch(p + 3 * STRIP + j + line, 0, 2);
            for (size_t i = line; i < line + LINE; i += 8) {
                crc = crc32c_word(crc, word_at(p + i));
                second = crc32c_word(second, word_at(p + STRIP + i));
                third = crc32c_word(third, word_at(p + 2 * STRIP + i));
            }
        }
        const uint32_t two = srt_crc32c_after_strip((uint32_t)crc) ^ (uint32_t)second;
        crc = srt_crc32c_after_strip(two) ^ third;
    }
    for (; size >= 8; p += 8, size -= 8) crc = crc32c_word(crc, word_at(p));
    for (; size > 0; p++, size--) crc = crc32c_byte(crc, *p);
    return (uint32_t)crc;
}

#endif
