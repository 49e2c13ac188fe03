/* kernels.h - the loops of a pass. NumPy computes the matrix products that are not here.
 *
 * Rules for every function here:
 * - Arrays are float32, row-major, and contiguous unless a row stride (in elements) or a band is named. Shapes stand
 *   beside the pointers. The caller has checked shapes and sizes. No function fails, allocates memory or keeps a
 *   pointer.
 * - Any thread may call. A large job is shared with the workers of parallel.h. Results are the same bits for any number
 *   of threads. They may differ in the last bits between instruction sets, because only some fuse multiply and add.
 * - Inputs and outputs must not overlap. "x may be y" allows the same array for both.
 * - A NaN gives a NaN, as in NumPy, also through Relu, Clip, max_pool and row_max.
 */
#ifndef STREAMRT_KERNELS_H
#define STREAMRT_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Activations: ONNX operators, with their attributes as alpha and beta. */
typedef enum {
    SRT_IDENTITY = 0,
    SRT_RELU,
    SRT_LEAKY_RELU,   /* alpha x for x < 0 */
    SRT_CLIP,         /* min(beta, max(alpha, x)) */
    SRT_SIGMOID,      /* 1 / (1 + exp(-x)) */
    SRT_HARD_SIGMOID, /* max(0, min(1, alpha x + beta)) */
    SRT_HARD_SWISH,   /* x max(0, min(1, x / 6 + 1 / 2)) */
    SRT_TANH,
    SRT_ELU,       /* alpha (exp(x) - 1) for x < 0 */
    SRT_GELU,      /* x (1 + erf(x / sqrt 2)) / 2 */
    SRT_GELU_TANH, /* x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 */
    SRT_ERF,
    SRT_SWISH,                  /* x sigmoid(alpha x) */
    SRT_MISH,                   /* x tanh(log(1 + exp(x))) */
    SRT_QUANTIZE_DEQUANTIZE_8,  /* alpha min(beta + 255, max(beta, x / alpha)), which is rounded to whole multiples of
                                 * alpha, half to even; |beta| < 2^16 */
    SRT_QUANTIZE_DEQUANTIZE_16, /* the same with 65535 */
    SRT_ACTIVATION_COUNT,
} srt_activation_code;

/* A prepared activation. At -infinity HardSwish, Gelu, GeluTanh, Swish and Mish give their limit 0 instead of NaN. */
typedef struct {
    int code; /* srt_activation_code */
    float alpha, beta;
    float low, high; /* Identity, Relu and Clip clamp to this range, which is infinite for the others */
    bool separate;   /* not a clamp: computed from the values that the kernel has just written */
    int64_t cost;    /* time for one element, in units of the time to copy it */
} srt_activation;

/* code must be below SRT_ACTIVATION_COUNT. */
srt_activation srt_activation_make(int code, float alpha, float beta);

/* The operator's name, a static string; NULL when code is out of range. */
const char *srt_activation_name(int code);

/* A window that slides over a plane or a volume, for convolution and pooling. Index 0 is vertical, 1 horizontal, and 2
 * is depth: the axis of the planes of a volume, which lie one behind the other. A plane has the lengths 1 along it.
 * Output row o and kernel row k read input row o * stride - before + k * dilation; rows outside are padding. */
enum { SRT_WINDOW_AXES = 3 };
typedef struct {
    int64_t kernel[SRT_WINDOW_AXES], stride[SRT_WINDOW_AXES], dilation[SRT_WINDOW_AXES];
    int64_t before[SRT_WINDOW_AXES], after[SRT_WINDOW_AXES]; /* padding */
    int64_t input[SRT_WINDOW_AXES], output[SRT_WINDOW_AXES];
} srt_window;

/* The largest length in a window, 2^30 - 1: sums of a few products of two lengths fit an int64_t. */
enum { SRT_WINDOW_MAX = 0x3fffffff };

/* The most taps, output positions, and elements of a volume that is padded along its depth: sums of a few such numbers
 * fit an int64_t. A plane has fewer. */
#define SRT_VOLUME_MAX ((int64_t)1 << 60)

/* NULL for a valid window, else a static string that names the fault: a length out of range, too large a volume, or an
 * output whose last window begins beyond the padded input. */
const char *srt_window_check(const srt_window *window);

/* The elements of a volume of these extents. Of a valid window: its taps, the elements of its input and its output. */
static inline int64_t srt_volume(const int64_t extents[SRT_WINDOW_AXES]) {
    return extents[0] * extents[1] * extents[2];
}

/* How far apart a tensor's rows lie, in elements. The elements of a row lie next to each other. Planes are those of all
 * channels of all samples, in this order. All planes of a volume count as one plane here. */
typedef struct {
    int64_t row, plane; /* from a row, or a plane, to the next */
} srt_steps;

/* A band: the output rows first..last of all planes, which a kernel computes from the input rows from..to. No other row
 * need be in memory. A pointer to the input is the address of row `from` of its first plane. Pointers to the output and
 * to a residual are those of their rows `first`. Rows that the windows read and that lie in the picture are within
 * from..to; all rows outside of from..to count as padding. A band of volumes has all rows, and no gaps. */
typedef struct {
    int64_t first, last;
    int64_t from, to;
    srt_steps x, y, residual; /* a row is at least as long as its elements, and at most SRT_WINDOW_MAX */
} srt_band;

/* The band that has all rows, without gaps. */
srt_band srt_whole(const srt_window *window);

/* Sets *from and *to to the input rows that the output rows first..last of a valid window read, from the first to the
 * last. They are equal if all these windows lie in the padding. 0 <= first <= last <= output[0]. */
void srt_rows_read(const srt_window *window, int64_t first, int64_t last, int64_t *from, int64_t *to);

/* NULL for a valid band of a valid window, else a static string that names the fault: rows out of range, an input row
 * that is read and not in memory, steps out of range, or a band of volumes. The caller knows the sizes of its arrays.
 */
const char *srt_band_check(const srt_window *window, const srt_band *band);

/* Moves `count` rows of each plane up within memory: row from + i of x to row to + i, to <= from. x: row 0 of the first
 * of `planes` planes with rows of `width` elements. */
void srt_move_rows(float *x, srt_steps steps, int64_t planes, int64_t width, int64_t from, int64_t to, int64_t count);

/* Copies: values move from one array to another of the same shape, whose elements lie at any distances. Everything is
 * counted in words of 4 bytes; a value of 8 bytes is an axis of two words. */
enum { SRT_COPY_AXES = 17 };

/* An axis: its extent, and from one of its elements to the next in x and in y. */
typedef struct {
    int64_t extent, x, y;
} srt_copy_axis;

/* How the two innermost axes, which are a matrix, are copied. */
typedef enum {
    SRT_COPY_RUNS,      /* both rows are contiguous: runs of words */
    SRT_COPY_TRANSPOSE, /* rows of y are contiguous, and columns of x */
    SRT_COPY_STRIDED,   /* word by word */
} srt_copy_kind;

/* A prepared copy of a list. It does not own its axes, `axes` outer ones and then those of the rows and the columns of
 * the matrices. A matrix is cut into pieces, and so many successive pieces are a unit that one thread copies. */
typedef struct {
    const float *x;
    float *y;
    const srt_copy_axis *axis;
    int axes;
    int kind;                         /* srt_copy_kind */
    int64_t piece_rows, piece_cols;   /* of a piece; the last may have fewer */
    int64_t row_pieces, col_pieces;   /* of a matrix */
    int64_t pieces, together;         /* of the copy, and of a unit */
    int64_t first_unit, units, words; /* of the copies before it; of this copy and those before it */
} srt_copy;

/* Prepares copying x to y: `axes` axes of `shape`, which lie x_steps and y_steps bytes apart, and values of `size`
 * bytes, 4 or 8. Neighbouring axes that are contiguous in both arrays become one. before: the copy that precedes it in
 * a list, or NULL. axis: room for the axes, which must live as long as the copy.
 *
 * Returns NULL, or a static string that names the fault: too many axes, steps that are no whole words, elements of y
 * that may overlap, or a y that overlaps x. An axis of x may have the step 0. */
const char *srt_copy_prepare(srt_copy *copy, const srt_copy *before, srt_copy_axis axis[SRT_COPY_AXES], const void *x,
                             void *y, int64_t size, int axes, const int64_t *shape, const int64_t *x_steps,
                             const int64_t *y_steps);

/* Makes the `count` prepared copies of a list, in any order. No y may overlap another x or y. */
void srt_copy_all(const srt_copy *copies, int64_t count);

/* y = act(x), n elements. x may be y. */
void srt_unary(const float *x, float *y, int64_t n, const srt_activation *act);

/* y = act(y + bias) in place. y (rows, cols) with a row stride; bias (rows,) or NULL. */
void srt_bias_act(float *y, int64_t rows, int64_t cols, int64_t stride, const float *bias, const srt_activation *act);

/* y = act(transpose(t) + bias). t (rows, batch); y (batch, rows) with a row stride; bias (rows,) or NULL. */
void srt_transpose_bias_act(const float *t, float *y, int64_t rows, int64_t batch, int64_t stride, const float *bias,
                            const srt_activation *act);

/* How a row of weights lies in memory. */
typedef enum {
    SRT_FLOAT32 = 0,
    SRT_FLOAT16,
    SRT_BFLOAT16,
    SRT_INT8, /* the scales of all blocks, float32; their zero points, if there are any, int8; the codes, int8 */
    SRT_INT4, /* the same, with codes from -8 to 7, each plus 8, two in a byte. Of 32 codes, the first 16 lie in the
               * lower halves of 16 bytes, and the others in the upper halves. The last codes take as many bytes as
               * there are lower halves, and upper halves that are left over are 0. */
    SRT_WEIGHT_TYPES,
} srt_weight_type;

/* Weights (rows, inner), which kernels read row by row. The rows lie `pitch` bytes apart: srt_row_bytes(...). A row of
 * integers is cut into blocks of `block` weights, of which the last may be shorter. Weight k is
 * (code[k] - zero[k / block]) * scale[k / block], rounded once to float32. Floats are as they are, and have no blocks.
 */
typedef struct {
    const void *data;
    int type; /* srt_weight_type */
    int64_t inner, pitch, block;
    bool zeros;    /* whether there are zero points; otherwise they are 0 */
    int64_t codes; /* bytes of a row before its codes */
} srt_weights;

/* Fills in what follows from the other arguments. block > 0 with integers; it and `zeros` are ignored with floats. */
srt_weights srt_weights_make(const void *data, int type, int64_t inner, int64_t block, bool zeros);

/* The weights from row `row` on. */
static inline srt_weights srt_weights_from(srt_weights w, int64_t row) {
    w.data = (const char *)w.data + row * w.pitch;
    return w;
}

/* Bytes of a row of weights. Rows of integers have a multiple of 4, so that all scales are aligned. At most 8 inner
 * + 8. inner < 2^59; block > 0 with integers. */
int64_t srt_row_bytes(int type, int64_t inner, int64_t block, bool zeros);

/* out (last - first, inner): the weights of the rows first..last as float32. */
void srt_decode(const srt_weights *w, int64_t first, int64_t last, float *out);

/* For products with few samples: the most samples, the samples of a group, and the floats of a chunk. 4 samples' sums
 * with some rows fit the registers; 16 floats are a cache line, and whole vectors of every instruction set.
 *
 * In memory the groups follow each other; the last may be smaller. A group is (chunks, samples, SRT_DENSE_CHUNK), its
 * last chunk filled up with zeros. So a group is read from one place, and its samples do not push each other out of
 * the same sets of the cache. */
enum { SRT_DENSE_BATCH = 8, SRT_DENSE_GROUP = 4, SRT_DENSE_CHUNK = 16 };

/* y = act(x @ transpose(w) + bias). w (rows, inner); x (batch, ceil(inner / SRT_DENSE_CHUNK) * SRT_DENSE_CHUNK) in
 * that order; batch <= SRT_DENSE_BATCH; bias (rows,) or NULL; y (batch, rows) with a row stride. */
void srt_dense(const srt_weights *w, const float *x, const float *bias, float *y, int64_t rows, int64_t batch,
               int64_t stride, const srt_activation *act);

/* The most samples of srt_dense_wide: a vector of the widest instruction set, two vectors of AVX2. */
enum { SRT_DENSE_WIDE = 16 };

/* The same for batch <= SRT_DENSE_WIDE and x (inner, SRT_DENSE_WIDE): element (k, s) is feature k of sample s, and 0
 * from sample `batch` on. It takes less time than srt_dense with more than SRT_DENSE_BATCH samples would. */
void srt_dense_wide(const srt_weights *w, const float *x, const float *bias, float *y, int64_t rows, int64_t batch,
                    int64_t stride, const srt_activation *act);

/* Whether products with weights are computed here. False with the instruction set "numpy": NumPy computes them. */
bool srt_products_pay(void);

/* The largest batch for which srt_dense or srt_dense_wide takes less time than srt_gemm, for a number of weights. 0 if
 * srt_products_pay() is false. */
int srt_dense_most(int64_t weights);

/* y = act(x @ transpose(w) + bias) for any number of samples up to SRT_WINDOW_MAX. x (batch, inner); w (rows, inner);
 * bias (rows,) or NULL, y (batch, rows) with a row stride. block: memory for `room` products, at least one for each
 * sample. scratch (seats, seat) as for srt_conv. */
typedef struct {
    const float *x, *bias;
    srt_weights w;
    float *y;
    int64_t batch, rows, stride;
    float *block;
    int64_t room;
    float *scratch;
    int64_t seats, seat;
    const srt_activation *act;
} srt_product_of_samples;
void srt_gemm(const srt_product_of_samples *g);

/* Whether srt_gemm takes less time than a BLAS library. */
bool srt_gemm_pays(void);

/* y = act(x * scale + shift). x, y (n, channels, size); scale, shift (channels,). x may be y. */
void srt_scale_shift_act(const float *x, const float *scale, const float *shift, float *y, int64_t n, int64_t channels,
                         int64_t size, const srt_activation *act);

/* y = x < 0 ? slope * x : x. x, y (n, channels, size); slope (channels,), or one for all. x may be y. */
void srt_prelu(const float *x, const float *slope, bool one_slope, float *y, int64_t n, int64_t channels, int64_t size);

/* A convolution: a band of the output channels first..last of y (n, groups * outputs, od, oh, ow) from
 * x (n, groups * channels, d, h, w), the weights w (groups * outputs, channels, kd, kh, kw) and bias (groups *
 * outputs,) or NULL. residual, of y's shape or NULL, is added before the activation, and may be y. A plane is a volume
 * of depth 1.
 *
 * With `scale`, the input is min(high, max(low, x * scale + shift)), with a scale and a shift for each channel: scale
 * (groups * channels,), or with `each` (n, groups * channels); shift (groups * channels,) or NULL. The window must then
 * be 1 x 1 x 1 with stride 1 and without padding. For srt_conv only.
 *
 * With `across`, x is (n, groups, oh * ow, channels), and the window is 1 x 1: each row is an output position. Without
 * scale. The band has all rows, without gaps. For srt_conv only.
 *
 * scratch (seats, seat): at most `seats` threads take part, each with `seat` floats. sums: NULL, or
 * srt_conv_sums(...) floats for srt_conv. */
typedef struct {
    const float *x, *bias, *residual;
    srt_weights w; /* a row for each output channel */
    float *y;
    int64_t n, groups, channels, outputs; /* channels and outputs of one group */
    const srt_window *window;
    srt_band band;
    int64_t first, last; /* output channels */
    const float *scale, *shift;
    bool each, across;
    float low, high;
    float *scratch;
    int64_t seats, seat;
    float *sums;
    const srt_activation *act;
} srt_convolution;

/* A convolution as a product. A row of weights is multiplied in equal parts of at most SRT_CONV_DEPTH terms. Scratch
 * memory holds the columns of a multiple of SRT_CONV_COLUMNS output positions, up to 72 KiB for each SRT_CONV_COLUMNS,
 * or sorted rows of the input instead, if these fit. Half of a core's own cache is best. seat >= SRT_CONV_COLUMNS *
 * (the smaller of channels * kd * kh * kw and SRT_CONV_DEPTH). A row has the same bits in every band. Bands whose rows
 * of y, of the residual, or with a window of 1 x 1 of x, have gaps take longer: each row is a product of its own. */
enum { SRT_CONV_DEPTH = 576, SRT_CONV_COLUMNS = 32 };
void srt_conv(const srt_convolution *c);

/* Products of computed matrices: y (n, groups, rows, columns) = act(a @ b). All samples share a (groups, rows, inner).
 * b is (n, groups, inner, columns), or with `transposed` (n, groups, columns, inner). columns <= SRT_WINDOW_MAX.
 * scratch as for srt_conv with sums of `inner` terms. */
typedef struct {
    const float *a, *b;
    float *y;
    int64_t n, groups, rows, inner, columns;
    bool transposed;
    float *scratch;
    int64_t seats, seat;
    const srt_activation *act;
} srt_matrices;
void srt_matmul(const srt_matrices *m);

/* Attention: y = softmax(cap(scale * q @ transpose(k)) + mask) @ v, where cap(x) is cap * tanh(x / cap).
 *
 * Heads of keys: k (n, heads, keys, inner), v (n, heads, keys, width). A head of keys has `shared` heads of queries:
 * q (n, heads, shared, queries, inner), y (n, heads, shared, queries, width). All extents but n are positive; keys and
 * width <= SRT_WINDOW_MAX.
 *
 * The element of the mask for a sample, a head of queries, a query and a key lies at the sum of the indices times
 * `steps`. The last step is 0 or 1. NULL: no mask. Only the first `masked` keys have elements; others are not used.
 * `truth`: elements are truth values; a key whose element is 0 is not used. Query i lies at the place i + offset of
 * the keys. It uses keys up to this place if `causal`, and from `left` keys before it to `right` keys behind it, if
 * these are not -1. A query whose mask is -infinity for every key that it may use, or that may use no key, gives 0 with
 * `zeros`, else NaN.
 *
 * scores: memory for `room` numbers, at least keys. scaled: NULL if scale is 1 and cap is 0, else memory for
 * srt_attention_rows(...) * inner floats. unused: memory for srt_attention_rows(...) floats. scratch as for srt_conv
 * with sums of the largest of inner and keys. */
typedef struct {
    const float *q, *k, *v, *mask;
    float *y;
    int64_t n, heads, shared, queries, keys, inner, width;
    int64_t steps[4], masked;
    bool truth, causal, zeros;
    int64_t offset, left, right; /* at most SRT_WINDOW_MAX; offset >= 0 */
    float scale, cap;            /* cap 0: none */
    float *scores;
    int64_t room;
    float *scaled, *unused;
    float *scratch;
    int64_t seats, seat;
} srt_attention_job;
void srt_attention(const srt_attention_job *a);

/* Rows of scores, which are queries of all heads, that are computed together. At most room / keys, and at least 1. */
int64_t srt_attention_rows(int64_t pieces, int64_t rows, int64_t keys, int64_t room);

/* Floats of memory with which two threads compute the two parts of a sum at the same time, each from channels that it
 * computed itself. 0 if that is not faster; it is faster on small maps. Results are the same with and without this
 * memory. inner: terms of a sum; outputs: channels of one group. */
int64_t srt_conv_sums(int64_t n, int64_t groups, int64_t inner, int64_t outputs, const srt_window *window);

/* A convolution of planes with a window of 3 x 3, stride and dilation 1, by Winograd's F(4 x 4, 3 x 3). Errors are
 * about 4 times those of srt_conv. A value that is infinite, or so large that a sum overflows, may give NaN in all
 * outputs of the tiles that read it. seat is at least srt_winograd_seat(...) for this shape and SRT_MAX_THREADS; other
 * numbers of samples may share it. Tiles begin at the band's first row. So a row has the same bits in every band that
 * begins at a multiple of 4 rows, and ends at one or with the picture; in other bands it has other errors. */
void srt_winograd(const srt_convolution *c);

/* Floats of scratch memory for each of `threads` threads with which srt_winograd is faster than srt_conv; 0 if it is
 * not, or cannot be used. Whether it is 0 does not depend on the threads. More threads get fewer floats each, and each
 * number works with any number of threads. channels and outputs are those of one group. */
int64_t srt_winograd_seat(int64_t n, int64_t channels, int64_t outputs, const srt_window *window, int64_t threads);

/* A convolution where each output channel reads one input channel. A band of the output channels first..last of
 * y (n, channels * multiplier, od, oh, ow) from x (n, channels, d, h, w), w (channels * multiplier, kd, kh, kw) and
 * bias (channels * multiplier,) or NULL; output channel j reads input channel j / multiplier. A row has the same bits
 * in every band, here and in pooling. */
void srt_depthwise(const float *x, const float *w, const float *bias, float *y, int64_t n, int64_t channels,
                   int64_t multiplier, const srt_window *window, const srt_band *band, int64_t first, int64_t last,
                   const srt_activation *act);

/* A band of y (volumes, od, oh, ow) from x (volumes, d, h, w). A window that lies entirely in the padding gives
 * -infinity. */
void srt_max_pool(const float *x, float *y, int64_t volumes, const srt_window *window, const srt_band *band);

/* As ONNX's AveragePool: the divisor is the number of elements of the window that lie in the input, or, with
 * count_padding, in the padded input. A window without such elements gives 0. */
void srt_average_pool(const float *x, float *y, int64_t volumes, const srt_window *window, const srt_band *band,
                      bool count_padding);

/* x (rows, cols), y (rows,). The mean of no elements is NaN. Less than 1,024 elements are added in float32, and these
 * sums in float64, in order. `block` elements are a row by themselves. The result is about as exact as a sum in float64
 * alone. */
void srt_row_mean(const float *x, float *y, int64_t rows, int64_t cols, int64_t block);

/* The rows of a plane that are added up together: the fewest that have 512 elements, as a power of two. */
int64_t srt_rows_together(int64_t width);

/* x (planes, rows, width), with rows and planes `steps` apart; y (planes, numbers). Adds the sum of each plane to
 * y[..][0]. If `numbers` is 3, it adds that of the squares to y[..][1], and y[..][2] is about the mean: squares would
 * lose digits in float32, so differences from this number are added. Sums as above, with the rows together as a block.
 * So y has the same bits if the rows come in several calls, which begin at multiples of srt_rows_together. The first
 * call `begins`: it finds y[..][2], and sets the others. */
void srt_plane_sums(const float *x, srt_steps steps, double *y, int64_t planes, int64_t rows, int64_t width,
                    int64_t numbers, bool begins);

/* x (rows, cols), y (rows,); cols > 0. */
void srt_row_max(const float *x, float *y, int64_t rows, int64_t cols);

/* exp(x - max) / sum over the middle axis of x, y (outer, k, inner), or its logarithm. x may be y. */
void srt_softmax(const float *x, float *y, int64_t outer, int64_t k, int64_t inner, bool log);

/* Local response normalisation over channels: y = x / (bias + alpha / size * sum of squares)^beta, where the sum
 * runs over the channels c - (size - 1) / 2 to c + size / 2 that exist. x, y (n, channels, inner). */
void srt_lrn(const float *x, float *y, int64_t n, int64_t channels, int64_t inner, int64_t size, float alpha,
             float beta, float bias);

/* CRC-32C (Castagnoli, as in iSCSI, RFC 3720) of data. value: the checksum of the preceding bytes, 0 at the start. */
uint32_t srt_crc32c(const void *data, size_t size, uint32_t value);

#endif
