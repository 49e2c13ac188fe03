/* vec_x86.h - the functions that vec_avx2.h and vec_avx512.h share: see vec.h. */
#ifndef STREAMRT_VEC_X86_H
#define STREAMRT_VEC_X86_H

#include <immintrin.h>
#include <stdint.h>

enum { TILE = 8 };

V void transpose_tile(const float *t, int64_t t_stride, float *y, int64_t y_stride) {
    __m256 r[8], s[8];
    for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_ps(t + i * t_stride);
    for (int i = 0; i < 8; i += 2) { /* interleaves pairs of rows */
        s[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        s[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) { /* columns of four rows: 0 | 4, 1 | 5, 2 | 6, 3 | 7 */
        r[i] = _mm256_shuffle_ps(s[i], s[i + 2], _MM_SHUFFLE(1, 0, 1, 0));
        r[i + 1] = _mm256_shuffle_ps(s[i], s[i + 2], _MM_SHUFFLE(3, 2, 3, 2));
        r[i + 2] = _mm256_shuffle_ps(s[i + 1], s[i + 3], _MM_SHUFFLE(1, 0, 1, 0));
        r[i + 3] = _mm256_shuffle_ps(s[i + 1], s[i + 3], _MM_SHUFFLE(3, 2, 3, 2));
    }
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(y + i * y_stride, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        _mm256_storeu_ps(y + (i + 4) * y_stride, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
}

/* The sets repeat every 4 KiB. A set has 8 lines in a cache of 32 KiB, and 12 in one of 48 KiB: the fewer. */
enum { CONV_SETS = 1024, CONV_WAYS = 8 };

enum { WRITES_PAST = 1 };

V void settle(void) {
    _mm_sfence();
}

#define HAS_CRC32C 1

V uint64_t crc32c_word(uint64_t crc, uint64_t word) {
    return _mm_crc32_u64(crc, word);
}

V uint64_t crc32c_byte(uint64_t crc, uint8_t byte) {
    return _mm_crc32_u8((uint32_t)crc, byte);
}

#endif
