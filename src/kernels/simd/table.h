/* table.h - what each instruction set provides: the loops of kernels.h, for a range of a job's units.
 *
 * Every function has the type srt_range: it gets a job as described here and does the units first..last.
 * The bodies are written once, over vectors of VL floats, and compiled once per instruction set:
 * scalar.c, avx2.c and avx512.c each define the vector (vec_*.h) and include bodies.h.
 */
#ifndef STREAMRT_TABLE_H
#define STREAMRT_TABLE_H

#include "../../parallel.h"
#include "../kernels.h"

/* Elements of a row that are worked on before moving on: 8 KiB, so that what an activation or a second look
 * reads again is still in the first-level cache (32 KiB or more). */
enum { SRT_BLOCK = 2048 };

typedef struct { /* a unit is an element */
    const float *x;
    float *y;
    const srt_activation *act;
} unary_job;

typedef struct { /* a unit is an element of y without its gaps */
    float *y;
    int64_t cols, stride;
    const float *bias;
    const srt_activation *act;
} bias_job;

typedef struct { /* a unit is a row of t, that is a column of y */
    const float *t;
    float *y;
    int64_t batch, stride;
    const float *bias;
    const srt_activation *act;
} transpose_job;

enum { SRT_DENSE_UNIT = 12 }; /* rows: whole groups of every instruction set */

typedef struct { /* a unit is SRT_DENSE_UNIT rows of w */
    const float *w, *x, *bias;
    float *y;
    int64_t rows, inner, batch, stride;
    const srt_activation *act;
} dense_job;

typedef struct { /* a unit is an element; channel of element i: i / size % channels */
    const float *x;
    float *y;
    int64_t channels, size;
    const float *scale, *shift; /* prelu: scale is the slope, shift is not used */
    const srt_activation *act;
} channel_job;

/* A unit is a share of the output channels of one group, in a block of positions of one sample. Where two threads make
 * the parts of a sum, it is one of the parts of that, all first ones before the others. */
typedef struct {
    srt_convolution of;
    int64_t inner, parts;     /* length of a row of weights, and in how many parts it is worked through */
    int64_t width, blocks;    /* positions of a block, and how many blocks there are */
    int64_t shares;           /* of a block */
    _Atomic int32_t *arrived; /* (blocks, shares): parts that are made; NULL where whoever has a share makes them all */
} conv_job;

/* Output and input channels whose weights are transformed at once. */
enum { SRT_WINOGRAD_ROWS = 14, SRT_WINOGRAD_DEPTH = 128 };

/* Tiles that are few, and the lanes of the widest vector. */
enum { SRT_FEW_TILES = 8, SRT_MOST_LANES = 16 };

typedef struct { /* a unit is a share of the output channels of one group, in a block of tiles of 4 x 4 outputs */
    srt_convolution of;
    int64_t tiles, width, blocks; /* tiles of all samples, those of a block, and how many blocks there are */
    int64_t shares;               /* units of a block */
    int64_t depth;                /* input channels whose weights are transformed at once */
    int64_t few;                  /* 4 or 8, at least as many as there are tiles; 0 if they are more */
} winograd_job;

typedef struct { /* a unit is a band of output rows of a plane: the first bands of all planes come first */
    const float *x, *w, *bias;
    float *y;
    int64_t bands, planes;
    int64_t multiplier;
    int64_t first, span;       /* output channels first..first + span of each sample */
    int64_t channels_in_total; /* output channels of a sample */
    const srt_window *window;
    const srt_activation *act;
    bool count_padding;
} window_job;

typedef struct { /* a unit is a row */
    const float *x;
    float *y;
    int64_t cols;
} row_job;

typedef struct { /* inner == 1: a unit is a row of k elements; otherwise one of the outer * inner columns */
    const float *x;
    float *y;
    int64_t k, inner;
    bool log;
} softmax_job;

typedef struct { /* a unit is a channel of a sample */
    const float *x;
    float *y;
    int64_t channels, inner, size;
    float alpha, beta, bias; /* alpha is already divided by size */
} lrn_job;

typedef struct {
    srt_range *unary, *bias, *transpose, *dense, *scale_shift, *prelu, *conv, *winograd, *winograd_few, *depthwise,
        *max_pool, *average_pool, *row_mean, *row_max, *softmax, *lrn;
} srt_table;

extern const srt_table srt_table_scalar, srt_table_avx2, srt_table_avx512;

/* The table of the instruction set in use. */
const srt_table *srt_table_active(void);

#endif
