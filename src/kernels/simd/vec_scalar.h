/* vec_scalar.h - a vector of 4 floats in plain C (GCC's vector extension).
 *
 * The vocabulary that vec_avx2.h and vec_avx512.h define too; + - * / and the bit operators are the language's.
 *   vf, vi        VL floats; VL int32_t
 *   vmask         a set of lanes
 *   splat(a)      a in every lane
 *   load, store   unaligned
 *   lanes(a, b)   the lanes i with a <= i < b, for any integers a and b
 *   mask_of(bits)  the lanes i whose bit i is set; higher bits are ignored
 *   load_mask     lanes of the mask from memory, the others from `other`; what is not in the mask is not touched
 *   store_mask    only the lanes of the mask
 *   load_even     p[0], p[2], p[4] ...: reads p[0] to p[2 * VL - 2], no further
 *   load_even_mask  the same under two masks: `low` for p[i], `high` for p[VL - 1 + i]
 *   unzip_even, unzip_odd  of 2 * VL elements, first a and then b, those with an even, or an odd, index
 *   slide         a[1], a[2] ... and b[0]
 *   zip_low, zip_high  a[0], b[0], a[1], b[1] ... from the lower, or the higher, halves of the two
 *   muladd(a, b, c)  a * b + c, rounded once where the processor can
 *   scaled(x, n)  x * 2^n for whole n from -151 to 128, rounded once or where it is subnormal twice
 *   reciprocal    1 / x to the last place but one, for finite x >= 1
 *   vmax, vmin    return b when either is NaN: vmin(high, vmax(low, x)) passes NaN in x on
 *   max_nan       NaN when either is, as numpy.maximum
 *   select_less   x < y ? a : b; b when either is NaN
 */
#ifndef STREAMRT_VEC_SCALAR_H
#define STREAMRT_VEC_SCALAR_H

#include <stdint.h>
#include <string.h>

#define V static inline __attribute__((always_inline)) TARGET

enum { VL = 4 };
typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));
typedef unsigned vmask; /* bit i: lane i */

V vf splat(float a) {
    return (vf){a, a, a, a};
}

V vf load(const float *p) {
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

V void store(float *p, vf v) {
    memcpy(p, &v, sizeof v);
}

V vmask lanes(int64_t first, int64_t last) {
    uint32_t a = first < 0 ? 0 : first > VL ? VL : (uint32_t)first, b = last < 0 ? 0 : last > VL ? VL : (uint32_t)last;
    return ((1u << b) - 1) & ~((1u << a) - 1);
}

V vmask mask_of(uint32_t bits) {
    return bits;
}

V vf load_mask(const float *p, vmask m, vf other) {
    for (int i = 0; i < VL; i++)
        if (m >> i & 1) other[i] = p[i];
    return other;
}

V void store_mask(float *p, vmask m, vf v) {
    for (int i = 0; i < VL; i++)
        if (m >> i & 1) p[i] = v[i];
}

V vf load_even(const float *p) {
    return (vf){p[0], p[2], p[4], p[6]};
}

V vf load_even_mask(const float *p, vmask low, vmask high, vf other) {
    vf a = load_mask(p, low, other), b = load_mask(p + VL - 1, high, other);
    return (vf){a[0], a[2], b[1], b[3]};
}

V vf unzip_even(vf a, vf b) {
    return (vf){a[0], a[2], b[0], b[2]};
}

V vf unzip_odd(vf a, vf b) {
    return (vf){a[1], a[3], b[1], b[3]};
}

V vf slide(vf a, vf b) {
    return (vf){a[1], a[2], a[3], b[0]};
}

V vf zip_low(vf a, vf b) {
    return (vf){a[0], b[0], a[1], b[1]};
}

V vf zip_high(vf a, vf b) {
    return (vf){a[2], b[2], a[3], b[3]};
}

V vf blend(vi mask, vf a, vf b) {
    return (vf)((mask & (vi)a) | (~mask & (vi)b));
}

V vf select_less(vf x, vf y, vf a, vf b) {
    return blend(x < y, a, b);
}

V vf muladd(vf a, vf b, vf c) {
    return a * b + c;
}

V vf vmax(vf a, vf b) {
    return blend(a > b, a, b);
}

V vf vmin(vf a, vf b) {
    return blend(a < b, a, b);
}

V vf max_nan(vf a, vf b) {
    return blend((a > b) | (a != a), a, b);
}

/* Transpose a square of TILE x TILE: y[j * y_stride + i] = t[i * t_stride + j]. */
enum { TILE = 4 };

V void transpose_tile(const float *t, int64_t t_stride, float *y, int64_t y_stride) {
    for (int j = 0; j < TILE; j++)
        for (int i = 0; i < TILE; i++) y[j * y_stride + i] = t[i * t_stride + j];
}

#include "vec_generic.h"

#endif
