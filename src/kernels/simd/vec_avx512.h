/* vec_avx512.h - a vector of 16 floats in AVX-512: see vec.h. */
#ifndef STREAMRT_VEC_AVX512_H
#define STREAMRT_VEC_AVX512_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>

#include "cpu_x86.h"

#define SET avx512
/* prfchw: a processor without it takes the hint for a no-op. crc32: each processor with AVX has it. */
#define TARGET __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,prfchw,crc32")))
#include "set.h"

static inline bool available(void) {
    return cpu_has(0, bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL, SAVES_ZMM);
}

enum { VL = 16 };
typedef __m512 vf;
typedef int32_t vi __attribute__((vector_size(64)));
typedef __mmask16 vmask;

V vf splat(float a) {
    return _mm512_set1_ps(a);
}

V vf load(const float *p) {
    return _mm512_loadu_ps(p);
}

V void store(float *p, vf v) {
    _mm512_storeu_ps(p, v);
}

V void store_past(float *p, vf v) {
    _mm512_stream_ps(p, v);
}

V vf load_half(const uint8_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

V vf load_bfloat(const uint8_t *p) {
    const __m512i upper = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(upper, 16));
}

V vf load_int8(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}

V vf load_int4(const uint8_t *p, bool upper) {
    const __m512i both = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
    const __m512 numbers = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    return _mm512_permutexvar_ps(upper ? _mm512_srli_epi32(both, 4) : both, numbers); /* by the lowest four bits */
}

V vmask lanes(int64_t first, int64_t last) {
    uint32_t a = first < 0 ? 0 : first > VL ? VL : (uint32_t)first, b = last < 0 ? 0 : last > VL ? VL : (uint32_t)last;
    return (vmask)(((1u << b) - 1) & ~((1u << a) - 1));
}

V vmask mask_of(uint32_t bits) {
    return (vmask)bits;
}

V vf load_mask(const float *p, vmask m, vf other) {
    return _mm512_mask_loadu_ps(other, m, p);
}

V void store_mask(float *p, vmask m, vf v) {
    _mm512_mask_storeu_ps(p, m, v);
}

typedef vmask vfirst;

V vfirst first_lanes(int64_t n) {
    return lanes(0, n);
}

V void store_first(float *p, vfirst n, vf v) {
    store_mask(p, n, v);
}

/* The elements of a with even index, then those of b with odd index: b is read one element early, so that nothing
 * behind p[2 * VL - 2] is read. */
V vf even(vf a, vf b) {
    __m512i pick = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 17, 19, 21, 23, 25, 27, 29, 31);
    return _mm512_permutex2var_ps(a, pick, b);
}

V vf load_even(const float *p) {
    return even(load(p), load(p + VL - 1));
}

V vf load_even_mask(const float *p, vmask low, vmask high, vf other) {
    return even(load_mask(p, low, other), load_mask(p + VL - 1, high, other));
}

V vf unzip_even(vf a, vf b) {
    __m512i pick = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_permutex2var_ps(a, pick, b);
}

V vf unzip_odd(vf a, vf b) {
    __m512i pick = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    return _mm512_permutex2var_ps(a, pick, b);
}

V vf slide(vf a, vf b) {
    return _mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_castps_si512(b), _mm512_castps_si512(a), 1));
}

V vf zip_low(vf a, vf b) {
    __m512i pick = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    return _mm512_permutex2var_ps(a, pick, b);
}

V vf zip_high(vf a, vf b) {
    __m512i pick = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    return _mm512_permutex2var_ps(a, pick, b);
}

V vf fold(vf a, vf b, int width) {
    return zip_low(a, b) + zip_high(a, b);
}

V vf select_less(vf x, vf y, vf a, vf b) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, y, _CMP_LT_OQ), b, a);
}

V vf muladd(vf a, vf b, vf c) {
    return _mm512_fmadd_ps(a, b, c);
}

V vf scaled(vf x, vf n) {
    return _mm512_scalef_ps(x, n);
}

/* The estimate has 14 bits, and a step of Newton's method doubles them. A division takes twice as long. */
V vf reciprocal(vf x) {
    const vf r = _mm512_rcp14_ps(x);
    return _mm512_fmadd_ps(r, _mm512_fnmadd_ps(x, r, _mm512_set1_ps(1.0f)), r);
}

V vf vmax(vf a, vf b) {
    return _mm512_max_ps(a, b);
}

V vf vmin(vf a, vf b) {
    return _mm512_min_ps(a, b);
}

V vf max_nan(vf a, vf b) {
    return _mm512_mask_mov_ps(_mm512_max_ps(a, b), _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), a);
}

#include "vec_x86.h"

/* 12 x 2 or 8 x 3 sums, the vectors of a panel and a weight fit 32 registers. With 13 x 2, which fit as well, Clang
 * moves sums between registers. An address has one or two times a distance for nothing, so a pointer serves three rows.
 */
enum { CONV_ROWS = 12, CONV_ROWS_WIDE = 8, CONV_REACH = 3 };

/* 6 x 4 sums, 6 weights and a sample fit 32 registers. 6 x 4 KiB of weights and 4 x 4 KiB of samples fit 48 KiB. */
enum { DENSE_ROWS = 6, DENSE_BLOCK = 64 };

/* 1 KiB of each of 6 rows is what a core reads in 0.1 us, the latency of memory, at 61 GB/s. */
enum { DENSE_AHEAD = 256, DENSE_FETCHED = 1 };

/* 8 sums, the samples, a weight, and the numbers that are decoded fit 32 registers. More rows are read too slowly
 * from memory: the processor fetches few streams ahead (24 rows of float32 took 1.5 times as long). */
enum { WIDE_ROWS = 8 };

enum { DENSE_MOST = 8, DENSE_MOST_LARGE = 16, GEMM_PAYS = 1 };

/* The sums of one strip depend on each other, and would not keep the processor busy. */
enum { ROLL_STRIPS = 2 };

#endif
