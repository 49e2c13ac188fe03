/* vec_avx2.h - a vector of 8 floats in AVX2: see vec.h. */
#ifndef STREAMRT_VEC_AVX2_H
#define STREAMRT_VEC_AVX2_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>

#include "cpu_x86.h"

#define SET avx2
/* prfchw: a processor without it takes the hint for a no-op. crc32: each processor with AVX has it. */
#define TARGET __attribute__((target("avx2,fma,f16c,prfchw,crc32")))
#include "set.h"

static inline bool available(void) {
    return cpu_has(bit_FMA | bit_F16C, bit_AVX2, SAVES_YMM);
}

enum { VL = 8 };
typedef __m256 vf;
typedef int32_t vi __attribute__((vector_size(32)));
typedef __m256i vmask;

V vf splat(float a) {
    return _mm256_set1_ps(a);
}

V vf load(const float *p) {
    return _mm256_loadu_ps(p);
}

V void store(float *p, vf v) {
    _mm256_storeu_ps(p, v);
}

V void store_past(float *p, vf v) {
    _mm256_stream_ps(p, v);
}

V vf load_half(const uint8_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

V vf load_bfloat(const uint8_t *p) {
    const __m256i upper = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(upper, 16));
}

V vf load_int8(const uint8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

V vf load_int4(const uint8_t *p, bool upper) {
    const __m256i both = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
    const __m256i code = upper ? _mm256_srli_epi32(both, 4) : _mm256_and_si256(both, _mm256_set1_epi32(15));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(code, _mm256_set1_epi32(8)));
}

V vmask lanes(int64_t first, int64_t last) {
    int a = first < 0 ? 0 : first > VL ? VL : (int)first, b = last < 0 ? 0 : last > VL ? VL : (int)last;
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(a), lane),
                               _mm256_cmpgt_epi32(_mm256_set1_epi32(b), lane));
}

V vmask mask_of(uint32_t bits) {
    __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)bits), bit), bit);
}

V vf load_mask(const float *p, vmask m, vf other) {
    return _mm256_blendv_ps(other, _mm256_maskload_ps(p, m), _mm256_castsi256_ps(m));
}

V void store_mask(float *p, vmask m, vf v) {
    _mm256_maskstore_ps(p, m, v);
}

/* A number and no mask: AMD's processors take about 20 micro-operations for a masked store. */
typedef int64_t vfirst;

V vfirst first_lanes(int64_t n) {
    return n;
}

V void store_first(float *p, vfirst n, vf v) {
    if (n >= VL) {
        store(p, v);
        return;
    }
    __m128 rest = _mm256_castps256_ps128(v);
    if (n & 4) {
        _mm_storeu_ps(p, rest);
        rest = _mm256_extractf128_ps(v, 1);
        p += 4;
    }
    if (n & 2) {
        _mm_storel_pi((__m64 *)p, rest);
        rest = _mm_movehl_ps(rest, rest);
        p += 2;
    }
    if (n & 1) _mm_store_ss(p, rest);
}

/* The elements of a with even index, then those of b with odd index: b is read one element early, so that nothing
 * behind p[2 * VL - 2] is read. */
V vf even(vf a, vf b) {
    __m256d mixed = _mm256_castps_pd(_mm256_shuffle_ps(a, b, _MM_SHUFFLE(3, 1, 2, 0)));
    return _mm256_castpd_ps(_mm256_permute4x64_pd(mixed, _MM_SHUFFLE(3, 1, 2, 0)));
}

V vf load_even(const float *p) {
    return even(load(p), load(p + VL - 1));
}

V vf load_even_mask(const float *p, vmask low, vmask high, vf other) {
    return even(load_mask(p, low, other), load_mask(p + VL - 1, high, other));
}

V vf unzip_even(vf a, vf b) {
    __m256d mixed = _mm256_castps_pd(_mm256_shuffle_ps(a, b, _MM_SHUFFLE(2, 0, 2, 0)));
    return _mm256_castpd_ps(_mm256_permute4x64_pd(mixed, _MM_SHUFFLE(3, 1, 2, 0)));
}

V vf unzip_odd(vf a, vf b) {
    __m256d mixed = _mm256_castps_pd(_mm256_shuffle_ps(a, b, _MM_SHUFFLE(3, 1, 3, 1)));
    return _mm256_castpd_ps(_mm256_permute4x64_pd(mixed, _MM_SHUFFLE(3, 1, 2, 0)));
}

V vf slide(vf a, vf b) {
    __m256i rotate = _mm256_setr_epi32(1, 2, 3, 4, 5, 6, 7, 0);
    return _mm256_permutevar8x32_ps(_mm256_blend_ps(a, b, 1), rotate);
}

V vf zip_low(vf a, vf b) {
    return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x20);
}

V vf zip_high(vf a, vf b) {
    return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x31);
}

/* The first step moves halves of vectors. After it the lanes of a sum are in one half, so no other step crosses halves.
 */
V vf fold(vf a, vf b, int width) {
    if (width == VL) return _mm256_permute2f128_ps(a, b, 0x20) + _mm256_permute2f128_ps(a, b, 0x31);
    return _mm256_unpacklo_ps(a, b) + _mm256_unpackhi_ps(a, b);
}

V vf select_less(vf x, vf y, vf a, vf b) {
    return _mm256_blendv_ps(b, a, _mm256_cmp_ps(x, y, _CMP_LT_OQ));
}

V vf muladd(vf a, vf b, vf c) {
    return _mm256_fmadd_ps(a, b, c);
}

V vf vmax(vf a, vf b) {
    return _mm256_max_ps(a, b);
}

V vf vmin(vf a, vf b) {
    return _mm256_min_ps(a, b);
}

V vf max_nan(vf a, vf b) {
    return _mm256_blendv_ps(_mm256_max_ps(a, b), a, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
}

#include "vec_generic.h"
#include "vec_x86.h"

/* 6 x 2 and 4 x 3 sums, a panel's vectors and a weight fit 16 registers. */
enum { CONV_ROWS = 6, CONV_ROWS_WIDE = 4, CONV_REACH = 6 };

/* 3 x 4 sums, 3 weights and a sample fit 16 registers. 3 x 2 KiB of weights and 4 x 2 KiB of samples fit 32 KiB. */
enum { DENSE_ROWS = 3, DENSE_BLOCK = 32 };

/* 1.5 KiB of each of 3 rows is what a core reads in 0.1 us, the latency of memory, at 46 GB/s. The processor fetches 3
 * rows ahead by itself, but not the rows that follow. With one sample fetching these, too, took 10 % longer (Zen 3). */
enum { DENSE_AHEAD = 384, DENSE_FETCHED = 2 };

/* 4 x 2 sums, 2 vectors of samples, a weight, and the numbers that are decoded fit 16 registers. */
enum { WIDE_ROWS = 4 };

enum { DENSE_MOST = 8, DENSE_MOST_LARGE = 8, GEMM_PAYS = 1 };

/* Two strips of a 7 x 7 window have 14 sums, which do not fit 16 registers beside the inputs. */
enum { ROLL_STRIPS = 1 };

#endif
