/* vec_neon.h - a vector of 4 floats in NEON, for aarch64: see vec.h.
 *
 * The sizes below follow from 32 registers and a first-level cache of 32 to 64 KiB. None of them is measured: the
 * kernels have run under emulation only.
 */
#ifndef STREAMRT_VEC_NEON_H
#define STREAMRT_VEC_NEON_H

#include <arm_acle.h>
#include <arm_neon.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "../../os.h"

#define SET neon
#define TARGET __attribute__((target("+crc")))
#include "set.h"

/* Every aarch64 processor has NEON. Those of ARMv8.0 may lack the CRC32 instructions. They run the set `scalar`, which
 * GCC compiles to NEON, too. */
static inline bool available(void) {
    return os_has_crc32();
}

enum { VL = 4 };
typedef float32x4_t vf;
typedef int32x4_t vi;
typedef uint32_t vmask; /* bit i: lane i */

V vf splat(float a) {
    return vdupq_n_f32(a);
}

V vf load(const float *p) {
    return vld1q_f32(p);
}

V void store(float *p, vf v) {
    vst1q_f32(p, v);
}

enum { WRITES_PAST = 0 };

V void store_past(float *p, vf v) {
    store(p, v);
}

V void settle(void) {}

V vf load_half(const uint8_t *p) {
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}

V vf load_bfloat(const uint8_t *p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(p)), 16));
}

/* The first four bytes as numbers. */
V vf numbers(int8x8_t bytes) {
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(bytes))));
}

V vf load_int8(const uint8_t *p) {
    uint32_t codes;
    memcpy(&codes, p, sizeof codes);
    return numbers(vcreate_s8(codes));
}

V vf load_int4(const uint8_t *p, bool upper) {
    uint32_t codes;
    memcpy(&codes, p, sizeof codes);
    const uint8x8_t both = vcreate_u8(codes), half = upper ? vshr_n_u8(both, 4) : vand_u8(both, vdup_n_u8(15));
    return numbers(vsub_s8(vreinterpret_s8_u8(half), vdup_n_s8(8)));
}

enum { ALL_LANES = (1 << VL) - 1 };

V vmask lanes(int64_t first, int64_t last) {
    uint32_t a = first < 0 ? 0 : first > VL ? VL : (uint32_t)first, b = last < 0 ? 0 : last > VL ? VL : (uint32_t)last;
    return ((1u << b) - 1) & ~((1u << a) - 1);
}

V vmask mask_of(uint32_t bits) {
    return bits & ALL_LANES;
}

/* NEON has no loads and stores under a mask. Most masks are of all lanes; otherwise each lane is tested. */
V vf load_mask(const float *p, vmask m, vf other) {
    if (m == ALL_LANES) return load(p);
    if (m & 1) other = vld1q_lane_f32(p, other, 0);
    if (m & 2) other = vld1q_lane_f32(p + 1, other, 1);
    if (m & 4) other = vld1q_lane_f32(p + 2, other, 2);
    if (m & 8) other = vld1q_lane_f32(p + 3, other, 3);
    return other;
}

V void store_mask(float *p, vmask m, vf v) {
    if (m == ALL_LANES) {
        store(p, v);
        return;
    }
    if (m & 1) vst1q_lane_f32(p, v, 0);
    if (m & 2) vst1q_lane_f32(p + 1, v, 1);
    if (m & 4) vst1q_lane_f32(p + 2, v, 2);
    if (m & 8) vst1q_lane_f32(p + 3, v, 3);
}

typedef vmask vfirst;

V vfirst first_lanes(int64_t n) {
    return lanes(0, n);
}

V void store_first(float *p, vfirst n, vf v) {
    store_mask(p, n, v);
}

V vf unzip_even(vf a, vf b) {
    return vuzp1q_f32(a, b);
}

V vf unzip_odd(vf a, vf b) {
    return vuzp2q_f32(a, b);
}

V vf slide(vf a, vf b) {
    return vextq_f32(a, b, 1);
}

/* The elements of a with even index, then those of b with odd index: b is read one element early, so that nothing
 * behind p[2 * VL - 2] is read. */
V vf even(vf a, vf b) {
    return unzip_even(a, slide(b, b));
}

V vf load_even(const float *p) {
    return even(load(p), load(p + VL - 1));
}

V vf load_even_mask(const float *p, vmask low, vmask high, vf other) {
    return even(load_mask(p, low, other), load_mask(p + VL - 1, high, other));
}

V vf zip_low(vf a, vf b) {
    return vzip1q_f32(a, b);
}

V vf zip_high(vf a, vf b) {
    return vzip2q_f32(a, b);
}

V vf fold(vf a, vf b, int width) {
    return zip_low(a, b) + zip_high(a, b);
}

V vf select_less(vf x, vf y, vf a, vf b) {
    return vbslq_f32(vcltq_f32(x, y), a, b);
}

V vf muladd(vf a, vf b, vf c) {
    return vfmaq_f32(c, a, b);
}

/* Not the instructions FMAX and FMAXNM: of a NaN and a number, FMAX gives the NaN and FMAXNM the number, whichever is
 * b. */
V vf vmax(vf a, vf b) {
    return vbslq_f32(vcgtq_f32(a, b), a, b);
}

V vf vmin(vf a, vf b) {
    return vbslq_f32(vcltq_f32(a, b), a, b);
}

V vf max_nan(vf a, vf b) {
    return vmaxq_f32(a, b);
}

enum { TILE = 4 };

V void transpose_tile(const float *t, int64_t t_stride, float *y, int64_t y_stride) {
    const vf a = load(t), b = load(t + t_stride), c = load(t + 2 * t_stride), d = load(t + 3 * t_stride);
    /* interleaves pairs of rows, then joins halves */
    const vf ac_low = vzip1q_f32(a, c), ac_high = vzip2q_f32(a, c);
    const vf bd_low = vzip1q_f32(b, d), bd_high = vzip2q_f32(b, d);
    store(y, vzip1q_f32(ac_low, bd_low));
    store(y + y_stride, vzip2q_f32(ac_low, bd_low));
    store(y + 2 * y_stride, vzip1q_f32(ac_high, bd_high));
    store(y + 3 * y_stride, vzip2q_f32(ac_high, bd_high));
}

#include "vec_generic.h"

/* 12 x 2 and 8 x 3 sums and a panel's vectors leave 6 and 5 of 32 registers for weights: a processor that executes in
 * order should load a weight some products before it is needed. */
enum { CONV_ROWS = 12, CONV_ROWS_WIDE = 8, CONV_REACH = 12 };

/* A set has 4 lines in the first-level caches of Arm's cores. The sets repeat every 8 KiB in a cache of 32 KiB, and
 * every 16 KiB in one of 64 KiB: the fewer. Not measured. */
enum { CONV_SETS = 2048, CONV_WAYS = 4 };

/* 6 x 4 sums, 6 weights and a sample fit 32 registers. With one sample, 6 sums that do not depend on each other hide
 * the latency of a product better than 4. 6 x 2 KiB of weights and 4 x 2 KiB of samples fit 32 KiB. */
enum { DENSE_ROWS = 6, DENSE_BLOCK = 32 };

/* 1 KiB of each row: small processors may not fetch 6 rows ahead by themselves. */
enum { DENSE_AHEAD = 256, DENSE_FETCHED = 1 };

/* 4 x 4 sums, 4 vectors of samples, a weight, and the numbers that are decoded fit 32 registers. */
enum { WIDE_ROWS = 4 };

/* As with AVX2. */
enum { DENSE_MOST = 8, DENSE_MOST_LARGE = 8, GEMM_PAYS = 1 };

/* The sums of one strip depend on each other, and would not keep the processor busy. Two strips of a 7 x 7 window have
 * 14 sums, which fit 32 registers beside 7 inputs. */
enum { ROLL_STRIPS = 2 };

#define HAS_CRC32C 1

V uint64_t crc32c_word(uint64_t crc, uint64_t word) {
    return __crc32cd((uint32_t)crc, word);
}

V uint64_t crc32c_byte(uint64_t crc, uint8_t byte) {
    return __crc32cb((uint32_t)crc, byte);
}

#endif
