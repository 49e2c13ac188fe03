/* kernels.h - the loops of a pass; the matrix products that are not here are NumPy's.
 *
 * Rules for every function here:
 * - Arrays are float32, row-major and contiguous unless a row stride (in elements) is named. Shapes stand beside
 *   the pointers. The caller has checked shapes and sizes: nothing here fails, allocates or keeps a pointer.
 * - Any thread may call. A big job is shared with the workers of parallel.h. Results do not depend on the number of
 *   threads, bit for bit; they may differ in the last bits between instruction sets, which fuse multiply and add
 *   or do not.
 * - Inputs and outputs must not overlap, except where "x may be y" allows the very same array.
 * - NaN in, NaN out, as in NumPy: also through Relu, Clip, max_pool and row_max.
 */
#ifndef STREAMRT_KERNELS_H
#define STREAMRT_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Activations: ONNX operators by name, with their attributes as alpha and beta. */
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
    SRT_SWISH, /* x sigmoid(alpha x) */
    SRT_ACTIVATION_COUNT,
} srt_activation_code;

/* An activation, prepared. HardSwish, Gelu, GeluTanh and Swish give their limit 0 at -infinity, not NaN. */
typedef struct {
    int code; /* srt_activation_code */
    float alpha, beta;
    float low, high; /* Identity, Relu and Clip are clamps to this range; all others leave it infinite */
    bool separate;   /* not a clamp: takes a second look at what the kernel has just written */
    int64_t cost;    /* of one element, relative to a copy of it */
} srt_activation;

/* code must be below SRT_ACTIVATION_COUNT. */
srt_activation srt_activation_make(int code, float alpha, float beta);

/* The operator's name, a static string; NULL when code is out of range. */
const char *srt_activation_name(int code);

/* A sliding window over a plane, for convolution and pooling. Index 0 is vertical, 1 horizontal.
 * Input row of output row o and kernel row k: o * stride - before + k * dilation; rows outside are padding. */
typedef struct {
    int64_t kernel[2], stride[2], dilation[2];
    int64_t before[2], after[2]; /* padding */
    int64_t input[2], output[2];
} srt_window;

/* Every length in a window is at most this, so that the product of two, and sums of such, fit an int64_t. */
enum { SRT_WINDOW_MAX = 0x3fffffff };

/* NULL when the window makes sense; otherwise a static string that says what is wrong with it:
 * a length out of range, or an output whose last window begins beyond the padded input. */
const char *srt_window_check(const srt_window *window);

/* y = act(x), n elements. x may be y. */
void srt_unary(const float *x, float *y, int64_t n, const srt_activation *act);

/* y = act(y + bias) in place. y (rows, cols) with a row stride; bias (rows,) or NULL. */
void srt_bias_act(float *y, int64_t rows, int64_t cols, int64_t stride, const float *bias, const srt_activation *act);

/* y = act(transpose(t) + bias). t (rows, batch); y (batch, rows) with a row stride; bias (rows,) or NULL. */
void srt_transpose_bias_act(const float *t, float *y, int64_t rows, int64_t batch, int64_t stride, const float *bias,
                            const srt_activation *act);

/* A product with few samples: how many they may be, and how they lie in memory. One group of samples after the other
 * (the last may be smaller), each cut into chunks (the last one filled up with zeros): (chunks, samples, floats). A
 * group is so read from one place, wherever in the cache the weights beside it may fall. */
enum { SRT_DENSE_BATCH = 16, SRT_DENSE_GROUP = 4, SRT_DENSE_CHUNK = 16 };

/* y = act(x @ transpose(w) + bias). w (rows, inner); x (batch, ceil(inner / SRT_DENSE_CHUNK) * SRT_DENSE_CHUNK) in the
 * order above; batch <= SRT_DENSE_BATCH; bias (rows,) or NULL; y (batch, rows) with a row stride. */
void srt_dense(const float *w, const float *x, const float *bias, float *y, int64_t rows, int64_t inner, int64_t batch,
               int64_t stride, const srt_activation *act);

/* Samples up to which srt_dense takes less time than srt_gemm, with so many weights. */
int srt_dense_most(int64_t weights);

/* The same for more samples, as they come: x (batch, inner), y (batch, rows) with a row stride, w (rows, inner), bias
 * (rows,) or NULL, the batch below SRT_WINDOW_MAX. block: memory for `room` products, at least one a sample.
 * scratch (seats, seat) as for srt_conv. */
typedef struct {
    const float *x, *w, *bias;
    float *y;
    int64_t batch, inner, rows, stride;
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

/* A convolution: output channels first..last of y (n, groups * outputs, oh, ow) from x (n, groups * channels, h, w),
 * the weights w (groups * outputs, channels, kh, kw) and bias (groups * outputs,) or NULL. residual, of y's shape or
 * NULL, is added before the activation, and may be y.
 *
 * With `scale`, the input is min(high, max(low, x * scale + shift)), one scale and shift for each channel: scale
 * (groups * channels,), or with `each` (n, groups * channels); shift (groups * channels,) or NULL. The window must then
 * be 1 x 1 with stride 1 and without padding, and srt_conv is the one to call.
 *
 * With `across`, x is (n, oh * ow, channels): what a 1 x 1 window sees, a row each. Without groups and scale, for
 * srt_conv.
 *
 * scratch (seats, seat): no more than `seats` threads take part, each with so many floats. sums: NULL, or
 * srt_conv_sums(...) floats for srt_conv. */
typedef struct {
    const float *x, *w, *bias, *residual;
    float *y;
    int64_t n, groups, channels, outputs; /* the last two of one group */
    const srt_window *window;
    int64_t first, last;
    const float *scale, *shift;
    bool each, across;
    float low, high;
    float *scratch;
    int64_t seats, seat;
    float *sums;
    const srt_activation *act;
} srt_convolution;

/* A convolution as a product. A row of weights is worked through in equal parts of at most SRT_CONV_DEPTH terms, with
 * the columns of SRT_CONV_COLUMNS output positions, or of a multiple of that, laid out in scratch memory: 72 KiB at
 * least, and best what is half of a core's own cache. seat >= SRT_CONV_COLUMNS * (the smaller of channels * kh * kw and
 * SRT_CONV_DEPTH). */
enum { SRT_CONV_DEPTH = 576, SRT_CONV_COLUMNS = 32 };
void srt_conv(const srt_convolution *c);

/* Floats of memory with which two threads can make the two parts of a sum at the same time, each from channels that it
 * computed itself, which is faster on small maps; 0 where it is not. The results are the same with and without. inner:
 * the terms of a sum, of one group as outputs are. */
int64_t srt_conv_sums(int64_t n, int64_t groups, int64_t inner, int64_t outputs, const srt_window *window);

/* The same for a window of 3 x 3 with stride and dilation 1, by Winograd's F(4 x 4, 3 x 3), whose sums err about four
 * times as much. A value that is infinite, or too large to be added to others, may make NaN in all outputs of the tiles
 * that read it. seat is at least what srt_winograd_seat returned for this shape; other numbers of samples may share
 * it. */
void srt_winograd(const srt_convolution *c);

/* Floats of scratch memory with which srt_winograd is faster than srt_conv; 0 where it is not, or can't be used.
 * channels and outputs are those of one group. */
int64_t srt_winograd_seat(int64_t n, int64_t channels, int64_t outputs, const srt_window *window);

/* Convolution where each output channel reads one input channel: output channels first..last of
 * y (n, channels * multiplier, oh, ow) from x (n, channels, h, w), w (channels * multiplier, kh, kw) and
 * bias (channels * multiplier,) or NULL; output channel j reads input channel j / multiplier. */
void srt_depthwise(const float *x, const float *w, const float *bias, float *y, int64_t n, int64_t channels,
                   int64_t multiplier, const srt_window *window, int64_t first, int64_t last,
                   const srt_activation *act);

/* x (planes, h, w), y (planes, oh, ow). A window that lies in the padding entirely gives -infinity. */
void srt_max_pool(const float *x, float *y, int64_t planes, const srt_window *window);

/* As ONNX's AveragePool: the divisor is the number of elements of the window that lie in the input, or, with
 * count_padding, in the padded input. A window that holds none gives 0. */
void srt_average_pool(const float *x, float *y, int64_t planes, const srt_window *window, bool count_padding);

/* x (rows, cols), y (rows,). The mean of no elements is NaN. Short sums are made in float32, sums of those in
 * float64: the result is as good as if all were. */
void srt_row_mean(const float *x, float *y, int64_t rows, int64_t cols);

/* x (rows, cols), y (rows,); cols > 0. */
void srt_row_max(const float *x, float *y, int64_t rows, int64_t cols);

/* exp(x - max) / sum over the middle axis of x, y (outer, k, inner), or its logarithm. x may be y. */
void srt_softmax(const float *x, float *y, int64_t outer, int64_t k, int64_t inner, bool log);

/* Local response normalisation over channels: y = x / (bias + alpha / size * sum of squares)^beta, where the sum
 * runs over the channels c - (size - 1) / 2 to c + size / 2 that exist. x, y (n, channels, inner). */
void srt_lrn(const float *x, float *y, int64_t n, int64_t channels, int64_t inner, int64_t size, float alpha,
             float beta, float bias);

/* CRC-32C (Castagnoli, as in iSCSI, RFC 3720) of data, continuing from the value of what came before, or from 0. */
uint32_t srt_crc32c(const void *data, size_t size, uint32_t value);

#endif
