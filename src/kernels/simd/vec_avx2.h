/* vec_avx2.h - a vector of 8 floats in AVX2: the vocabulary is described in vec_scalar.h. */
#ifndef STREAMRT_VEC_AVX2_H
#define STREAMRT_VEC_AVX2_H

#include <immintrin.h>
#include <stdint.h>

#define V static inline __attribute__((always_inline)) TARGET

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

/* The second half is read one element early, so that nothing beyond p[2 * VL - 2] is touched: its odd lanes. */
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

#include "transpose_avx.h"
#include "vec_generic.h"

#endif
