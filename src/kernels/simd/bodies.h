/* bodies.h - all loops for one instruction set, and the table of them.
 *
 * Included once by each of scalar.c, avx2.c and avx512.c, after the vector. Everything but the table is static.
 * A partial vector goes through the same arithmetic as a full one, under a mask: an element's result does not
 * depend on where in a row, or in which thread's range, it lies.
 */
#include "activation.h"
#include "conv.h"
#include "dense.h"
#include "depthwise.h"
#include "functions.h"
#include "lrn.h"
#include "pointwise.h"
#include "reduce.h"
#include "softmax.h"
#include "table.h"
#include "transpose.h"
#include "window.h"
#include "winograd.h"
#include "winograd_few.h"

const srt_table TABLE = {
    .unary = unary,
    .bias = bias,
    .transpose = transpose,
    .dense = dense,
    .scale_shift = scale_shift,
    .prelu = prelu,
    .conv = conv,
    .winograd = winograd,
    .winograd_few = winograd_few,
    .depthwise = depthwise,
    .max_pool = max_pool,
    .average_pool = average_pool,
    .row_mean = row_mean,
    .row_max = row_max,
    .softmax = softmax,
    .lrn = lrn,
};
