/* table.h - the loops of kernels.h that each instruction set provides, for a range of a job's units.
 *
 * Functions of type srt_range get a job as described here and do the units first..last.
 * The bodies are written once, over the vector of vec.h, and compiled once for each instruction set:
 * scalar.c, avx2.c, avx512.c and neon.c each include their vec_*.h and bodies.h.
 */
#ifndef STREAMRT_TABLE_H
#define STREAMRT_TABLE_H

#include "../../parallel.h"
#include "../kernels.h"

/* The lanes of the widest vector, and the rows of the largest tile of a convolution, of all instruction sets. Units of
 * jobs and their memory are the same for every instruction set. */
enum { SRT_MOST_LANES = 16, SRT_MOST_ROWS = 12 };

/* Terms after which a tile of a convolution fetches what it needs next. Fewer would end the loop over terms more often,
 * and each end is a branch that the processor does not foresee. */
enum { SRT_CONV_STEP = 32 };

/* CONV_SETS of every instruction set is a multiple of this number of floats. conv.c cuts rows of such lengths into
 * pairs of whole steps, for any instruction set. */
enum { SRT_LEAST_SETS = 1024 };

/* The most phases of a row of a convolution's input: see phases.h. */
enum { SRT_MOST_PHASES = 16 };

typedef struct { /* a unit is some pieces of a copy: see srt_copy */
    const srt_copy *copies;
    bool past; /* whether values that the cache cannot hold are written past it */
} copy_job;

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

typedef struct { /* a unit is a row of t, which is a column of y */
    const float *t;
    float *y;
    int64_t batch, stride;
    const float *bias;
    const srt_activation *act;
} transpose_job;

typedef struct { /* a unit is a row: out row i is row first + i of w */
    srt_weights w;
    int64_t first;
    float *out;
} decode_job;

/* Rows: multiples of DENSE_ROWS, and of WIDE_ROWS, of every instruction set. */
enum { SRT_DENSE_UNIT = 12, SRT_WIDE_UNIT = 8 };

typedef struct { /* a unit is SRT_DENSE_UNIT rows of w, or SRT_WIDE_UNIT with dense_wide */
    const float *x, *bias;
    srt_weights w;
    float *y;
    int64_t rows, batch, stride;
    const srt_activation *act;
} dense_job;

typedef struct { /* a unit is an element; element i belongs to channel i / size % channels */
    const float *x;
    float *y;
    int64_t channels, size;
    const float *scale, *shift; /* for prelu scale is the slope, and shift is not used */
    const srt_activation *act;
} channel_job;

/* A unit is a share of the output channels of one group, in a block of positions of one sample: the parts part..until
 * of its sums. If two threads compute the parts of a sum at once, a unit is one part of that; the units of all first
 * parts come first, and there is one line. */
typedef struct {
    srt_convolution of;       /* its window is that of the band: see band.h */
    bool in_place;            /* rows of the matrix of columns are channels of the input, and need not be laid out */
    int64_t lines, positions; /* of the band: pieces whose outputs lie next to each other, and the outputs of one */
    const int32_t *offsets;   /* (inner,): where the columns of a term begin in phases of rows; NULL: no phases */
    int64_t phases, pitch;    /* of a row, and the elements of each, if there are any: see phases.h */
    int64_t dots;             /* outputs of the band, in order, before those whose sums are dot products */
    int64_t inner, parts;     /* terms of a row of weights, and the number of its parts */
    int64_t part, until;      /* the parts of a job: part..until; all of them if `arrived` */
    int64_t width, blocks;    /* positions of a block; number of blocks of a line */
    int64_t shares;           /* of a block */
    _Atomic int32_t *arrived; /* (blocks, shares): finished parts; NULL if no two parts are computed at once */
} conv_job;

/* Output and input channels whose weights are transformed together: at most 36 matrices of 12 x 128, 216 KiB. */
enum { SRT_WINOGRAD_ROWS = SRT_MOST_ROWS, SRT_WINOGRAD_DEPTH = 128 };

/* The most tiles of all samples for which winograd_few is used. */
enum { SRT_FEW_TILES = 8 };

typedef struct { /* a unit is a share of the output channels of one group, in a block of tiles of 4 x 4 outputs */
    srt_convolution of;           /* its window is that of the band: see band.h */
    int64_t tiles, width, blocks; /* tiles of all samples; tiles of a block; number of blocks */
    int64_t shares;               /* units of a block */
    int64_t depth;                /* input channels whose weights are transformed together */
    int64_t few;                  /* 4 or 8, and at least the number of tiles; 0 if there are more tiles */
} winograd_job;

typedef struct { /* a unit is a band of rows of a volume's output planes: the first bands of all volumes come first */
    const float *x, *w, *bias;
    float *y;
    int64_t bands, volumes;
    int64_t multiplier;
    int64_t first, span;                /* output channels first..first + span of each sample */
    int64_t channels_in_total;          /* output channels of a sample */
    const srt_window *window, *picture; /* of the band, and of the whole planes: see band.h */
    srt_steps x_steps, y_steps;
    const srt_activation *act;
    bool count_padding;
} window_job;

typedef struct { /* a unit is a row */
    const float *x;
    float *y;
    int64_t cols, block;
} row_job;

/* So many elements, or less than twice as many, are added in float32, and these sums in float64. Each of the 4 * VL
 * partial sums has at most 64 elements. */
enum { SRT_SUM_BLOCK = 512 };

typedef struct { /* a unit is a plane */
    const float *x;
    double *y;
    srt_steps steps;
    int64_t rows, width, numbers;
    bool begins;      /* y has nothing yet */
    int64_t together; /* rows; if these are several, they have less than twice SRT_SUM_BLOCK elements */
} plane_job;

typedef struct { /* a unit is a row of k elements if inner is 1, else one of the outer * inner columns */
    const float *x;
    float *y;
    int64_t k, inner;
    bool log;
} softmax_job;

typedef struct { /* a unit is a channel of a sample */
    const float *x;
    float *y;
    int64_t channels, inner, size;
    float alpha, beta, bias; /* alpha is divided by size */
} lrn_job;

/* Bytes of a strip. The processor's CRC-32C instruction takes 8 bytes in each cycle, and has its result after three
 * cycles, so three strips are read at once. A strip of 4 KiB takes 512 steps, and joining strips only 8 look-ups. */
enum { SRT_CRC_STRIP = 4096 };

/* The register of CRC-32C after SRT_CRC_STRIP zero bytes. */
uint32_t srt_crc32c_after_strip(uint32_t crc);

typedef struct {
    bool (*available)(void);          /* whether this processor and operating system run it */
    int dense_most, dense_most_large; /* samples */
    bool gemm_pays;
    int conv_rows;   /* of a tile */
    int lanes, dots; /* of a vector; the most columns behind the last whole vector that are dot products */
    srt_range *copy, *unary, *bias, *transpose, *decode, *dense, *dense_wide, *scale_shift, *prelu, *conv, *winograd,
        *winograd_few, *depthwise, *max_pool, *average_pool, *row_mean, *plane_sums, *row_max, *softmax, *lrn;
    uint32_t (*crc32c)(const uint8_t *p, size_t size, uint32_t start); /* the register after p; NULL: no instruction */
} srt_table;

/* The table of the instruction set in use. */
const srt_table *srt_table_active(void);

#endif
