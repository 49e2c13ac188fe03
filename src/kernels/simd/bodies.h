/* bodies.h - all loops for one instruction set, and the table of them.
 *
 * Each of scalar.c, avx2.c, avx512.c and neon.c includes it once, after its vec_*.h. Only names made by EXPORT are
 * visible to other units. A partial vector goes through the same arithmetic as a full one, under a mask. So an
 * element's result does not depend on its place in a row, or on the thread that computes it.
 *
 * setup.py compiles each of these files four times, with PART from 0 to 3, so that the parts compile side by side.
 * Without PART the file is one unit.
 */
#include "conv_tile.h"

#if !defined PART || PART == 0
CONV_TILES(EXPORT(laid_out), LAID_OUT)
#endif
#if !defined PART || PART == 1
CONV_TILES(EXPORT(in_place), IN_PLACE)
CONV_TILES(EXPORT(phased), PHASED)
#endif
#if !defined PART || PART == 2
CONV_TILES(EXPORT(scaled), SCALED)
#endif

#if !defined PART || PART == 3
#include "activation.h"
#include "conv.h"
#include "copy.h"
#include "decode.h"
#include "dense.h"
#include "dense_wide.h"
#include "depthwise.h"
#include "lrn.h"
#include "pointwise.h"
#include "reduce.h"
#include "softmax.h"
#include "transpose.h"
#include "window.h"
#include "winograd.h"
#include "winograd_few.h"
#if HAS_CRC32C
#include "crc32c.h"
#endif

const srt_table EXPORT(table) = {
    .available = available,
    .dense_most = DENSE_MOST,
    .dense_most_large = DENSE_MOST_LARGE,
    .gemm_pays = GEMM_PAYS,
    .conv_rows = CONV_ROWS,
    .lanes = VL,
    .dots = DOTS,
    .copy = copy,
    .unary = unary,
    .bias = bias,
    .transpose = transpose,
    .decode = decode,
    .dense = dense,
    .dense_wide = dense_wide,
    .scale_shift = scale_shift,
    .prelu = prelu,
    .conv = conv,
    .winograd = winograd,
    .winograd_few = winograd_few,
    .depthwise = depthwise,
    .max_pool = max_pool,
    .average_pool = average_pool,
    .row_mean = row_mean,
    .plane_sums = plane_sums,
    .row_max = row_max,
    .softmax = softmax,
    .lrn = lrn,
#if HAS_CRC32C
    .crc32c = crc32c,
#endif
};
#endif
