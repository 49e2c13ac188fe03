/* vec.h - the names that each vec_*.h defines for its instruction set. Nothing else depends on the instruction set.
 *
 *   SET, TARGET    its name, and the attribute of functions that use it
 *   available()    whether this processor and operating system run it; compiled without TARGET
 *   VL, vf, vi     lanes of a vector; VL floats; VL int32_t, which + - * / and the bit operators take
 *   vmask          a set of lanes
 *   vfirst         the first lanes of a vector: what stores take that lead to the end of a row
 *   TILE           side of the squares that transpose_tile transposes
 *   CONV_ROWS, CONV_ROWS_WIDE        rows whose sums with 2, or with 3, vectors of columns are held in registers
 *   CONV_REACH     rows of weights that a loop reads from one pointer; all, unless there are too few registers for the
 *                  distances of the others
 *   CONV_SETS, CONV_WAYS             of the first-level cache: floats after which its sets repeat, and lines of a set.
 *                  If more than CONV_WAYS rows lie a multiple of CONV_SETS floats apart, they push each other out
 *   DENSE_ROWS     rows whose sums with SRT_DENSE_GROUP samples are held in registers
 *   DENSE_BLOCK    chunks of a row that all samples are multiplied with before the next chunks: with DENSE_ROWS rows
 *                  and SRT_DENSE_GROUP samples they stay in the first-level cache
 *   DENSE_AHEAD    floats of a row that are fetched ahead if all samples are one group: whole chunks; 0: none
 *   DENSE_FETCHED  samples from which on they are fetched throughout a row. With fewer samples they are fetched where
 *                  the next rows begin, and the processor fetches the others
 *   WIDE_ROWS      rows whose sums with SRT_DENSE_WIDE samples are held in registers
 *   DENSE_MOST, DENSE_MOST_LARGE     samples up to which srt_dense and srt_dense_wide take less time than srt_gemm
 *                  does: with any weights, and with weights that lie in no cache
 *   GEMM_PAYS      1 if srt_gemm takes less time than a BLAS library, else 0
 *   ROLL_STRIPS    strips that depthwise convolution works on together: 1 or 2
 *   WRITES_PAST    1 if store_past writes past the caches, which saves reading the lines first; 0 if it is a store
 *   HAS_CRC32C     1 if it defines crc32c_word and crc32c_byte, else 0
 *
 * The functions are declared here, so that the compiler names one that is missing or differs. vec_generic.h has some of
 * them, for instruction sets without an instruction of their own.
 */
#ifndef STREAMRT_VEC_H
#define STREAMRT_VEC_H

#include "table.h"

V vf splat(float a);          /* a in every lane */
V vf load(const float *p);    /* unaligned */
V void store(float *p, vf v); /* unaligned */

V void store_past(float *p, vf v); /* aligned to sizeof(vf); other threads see it after settle() */
V void settle(void);

V vmask lanes(int64_t first, int64_t last);        /* lanes i with first <= i < last, for any two integers */
V vmask mask_of(uint32_t bits);                    /* lanes i whose bit i is set; higher bits are ignored */
V vf load_mask(const float *p, vmask m, vf other); /* lanes outside m come from `other`, and their memory is not read */
V void store_mask(float *p, vmask m, vf v);        /* memory of lanes outside m is not written */
V vfirst first_lanes(int64_t n);                   /* the first n lanes, n >= 0; all if n >= VL */
V void store_first(float *p, vfirst n, vf v);      /* memory of other lanes is not written */

V vf load_half(const uint8_t *p);             /* VL numbers of IEEE 754's binary16; unaligned, as are the next three */
V vf load_bfloat(const uint8_t *p);           /* VL numbers that are the upper halves of floats */
V vf load_int8(const uint8_t *p);             /* VL integers from -128 to 127 */
V vf load_int4(const uint8_t *p, bool upper); /* the upper or lower halves of VL bytes, each less 8 */

V vf load_even(const float *p); /* p[0], p[2], p[4] ...; reads p[0] to p[2 * VL - 2], no further */
V vf load_even_mask(const float *p, vmask low, vmask high, vf other); /* under masks of p[i] and of p[VL - 1 + i] */
V vf unzip_even(vf a, vf b); /* of the elements of a and then b those with an even index */
V vf unzip_odd(vf a, vf b);  /* of the elements of a and then b those with an odd index */
V vf slide(vf a, vf b);      /* a[1], a[2] ... and b[0] */
V vf zip_low(vf a, vf b);    /* a[0], b[0], a[1], b[1] ... of the lower halves */
V vf zip_high(vf a, vf b);   /* a[VL / 2], b[VL / 2] ... of the higher halves */
V void transpose_tile(const float *t, int64_t t_stride, float *y,
                      int64_t y_stride); /* TILE x TILE: y[j][i] = t[i][j] */

V vf muladd(vf a, vf b, vf c); /* a * b + c, rounded once where the processor can */
V vf scaled(vf x, vf n);       /* x * 2^n for whole n from -151 to 128, rounded once, or twice where it is subnormal */
V vf reciprocal(vf x);         /* 1 / x to the last place but one, for finite x >= 1 */
V vf vmax(vf a, vf b);         /* b when either is NaN: vmin(high, vmax(low, x)) passes NaN in x on */
V vf vmin(vf a, vf b);         /* b when either is NaN */
V vf max_nan(vf a, vf b);      /* NaN when either is, as numpy.maximum */
V vf select_less(vf x, vf y, vf a, vf b); /* x < y ? a : b; b when either of x and y is NaN */

/* A step of adding up the lanes of a and of b, for the widths VL, VL / 2 ... 2 in turn: of each sum `width` lanes
 * become half as many, lane i plus lane i + width / 2. After the last step the sums lie as if each step had been
 * zip_low(a, b) + zip_high(a, b). Before that lanes may lie in another order. */
V vf fold(vf a, vf b, int width);

#if HAS_CRC32C
V uint64_t crc32c_word(uint64_t crc, uint64_t word); /* the register of CRC-32C after 8 more bytes, the lowest first */
V uint64_t crc32c_byte(uint64_t crc, uint8_t byte);
#elif !defined HAS_CRC32C
#error "vec_*.h must define HAS_CRC32C as 0 or 1"
#endif

_Static_assert((int)VL <= (int)SRT_MOST_LANES && SRT_DENSE_CHUNK % VL == 0, "VL: buffers are made for SRT_MOST_LANES");
_Static_assert(VL % TILE == 0 && 8 % TILE == 0, "TILE: squares fill vectors, and 8 of the 9 weights of a 3 x 3 window");
_Static_assert((int)CONV_ROWS_WIDE <= (int)CONV_ROWS && (int)CONV_ROWS <= (int)SRT_MOST_ROWS, "CONV_ROWS");
_Static_assert(CONV_SETS % SRT_LEAST_SETS == 0, "CONV_SETS: conv.c cuts rows of SRT_LEAST_SETS into pairs of steps");
_Static_assert(SRT_DENSE_UNIT % DENSE_ROWS == 0, "DENSE_ROWS: a unit is whole groups of rows");
_Static_assert(DENSE_AHEAD % SRT_DENSE_CHUNK == 0, "DENSE_AHEAD");
_Static_assert(WRITES_PAST == 0 || WRITES_PAST == 1, "WRITES_PAST");
_Static_assert(ROLL_STRIPS == 1 || ROLL_STRIPS == 2, "ROLL_STRIPS");

#endif
