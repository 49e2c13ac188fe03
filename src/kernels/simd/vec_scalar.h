/* vec_scalar.h - a vector of 4 floats in plain C (GCC's vector extension): see vec.h. */
#ifndef STREAMRT_VEC_SCALAR_H
#define STREAMRT_VEC_SCALAR_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define SET scalar
#define TARGET
#include "set.h"

static inline bool available(void) {
    return true;
}

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

enum { WRITES_PAST = 0 };

V void store_past(float *p, vf v) {
    store(p, v);
}

V void settle(void) {}

/* The bits of a half become those of a float that is 2^-112 of it. The product with 2^112 is exact, also if the half is
 * subnormal. From 2^16 on the half was infinite or a NaN, whose bits say the same with the largest exponent. */
V vf load_half(const uint8_t *p) {
    uint16_t half[VL];
    memcpy(half, p, sizeof half);
    const vi bits = {half[0], half[1], half[2], half[3]};
    const vf finite = (vf)((bits & 0x7fff) << 13) * splat(0x1p112f);
    const vi endless = (vi)finite | ((finite >= 65536.0f) & 0x7f800000);
    return (vf)(endless | ((bits & 0x8000) << 16));
}

V vf load_bfloat(const uint8_t *p) {
    uint16_t upper[VL];
    memcpy(upper, p, sizeof upper);
    return (vf)((vi){upper[0], upper[1], upper[2], upper[3]} << 16);
}

V vf load_int8(const uint8_t *p) {
    int8_t code[VL];
    memcpy(code, p, sizeof code);
    return (vf){code[0], code[1], code[2], code[3]};
}

V vf load_int4(const uint8_t *p, bool upper) {
    const int by = upper ? 4 : 0;
    return (vf){(p[0] >> by & 15) - 8, (p[1] >> by & 15) - 8, (p[2] >> by & 15) - 8, (p[3] >> by & 15) - 8};
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

typedef vmask vfirst;

V vfirst first_lanes(int64_t n) {
    return lanes(0, n);
}

V void store_first(float *p, vfirst n, vf v) {
    store_mask(p, n, v);
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

V vf fold(vf a, vf b, int width) {
    return zip_low(a, b) + zip_high(a, b);
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

enum { TILE = 4 };

V void transpose_tile(const float *t, int64_t t_stride, float *y, int64_t y_stride) {
    for (int j = 0; j < TILE; j++)
        for (int i = 0; i < TILE; i++) y[j * y_stride + i] = t[i * t_stride + j];
}

#include "vec_generic.h"

/* 4 x 2 and 3 x 3 sums, a panel's vectors, a weight and a product fit 16 registers. */
enum { CONV_ROWS = 4, CONV_ROWS_WIDE = 3, CONV_REACH = 4 };

/* A cache of 32 KiB whose sets have 8 lines. */
enum { CONV_SETS = 1024, CONV_WAYS = 8 };

/* 3 x 4 sums, 3 weights and a sample fit 16 registers. 3 x 2 KiB of weights and 4 x 2 KiB of samples fit 32 KiB. */
enum { DENSE_ROWS = 3, DENSE_BLOCK = 32 };

/* The processor fetches 3 rows ahead by itself. */
enum { DENSE_AHEAD = 0, DENSE_FETCHED = 1 };

/* 2 x 4 sums, 4 vectors of samples and a weight fit 16 registers. */
enum { WIDE_ROWS = 2 };

enum { DENSE_MOST = 8, DENSE_MOST_LARGE = 8 };

/* A BLAS library uses the processor's vector instructions. */
enum { GEMM_PAYS = 0 };

enum { ROLL_STRIPS = 1 };

#define HAS_CRC32C 0

#endif
