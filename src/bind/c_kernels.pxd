# The functions of kernels/kernels.h, parallel.h and kernels/isa.h. These headers are their manual.

from libc.stdint cimport int64_t, uint32_t

cdef extern from "kernels/isa.h" nogil:
    const char *srt_isa_name(int isa)
    bint srt_isa_available(int isa)
    const char *srt_isa_active()
    bint srt_isa_use(const char *name)

cdef extern from "parallel.h" nogil:
    enum:
        SRT_MAX_THREADS
    void srt_rouse(int threads)
    int srt_widest()
    int srt_threads()
    void srt_set_threads(int count)

cdef extern from "kernels/kernels.h" nogil:
    enum:
        SRT_ACTIVATION_COUNT
        SRT_WINDOW_MAX
        SRT_WINDOW_AXES
    ctypedef struct srt_activation:
        pass
    ctypedef struct srt_window:
        int64_t kernel[3]
        int64_t stride[3]
        int64_t dilation[3]
        int64_t before[3]
        int64_t after[3]
        int64_t input[3]
        int64_t output[3]
    srt_activation srt_activation_make(int code, float alpha, float beta)
    const char *srt_activation_name(int code)
    ctypedef struct srt_steps:
        int64_t row
        int64_t plane
    ctypedef struct srt_band:
        int64_t first
        int64_t last
        int64_t start "from"
        int64_t end "to"
        srt_steps x
        srt_steps y
        srt_steps residual
    const char *srt_window_check(const srt_window *window)
    srt_band srt_whole(const srt_window *window)
    void srt_rows_read(const srt_window *window, int64_t first, int64_t last, int64_t *start, int64_t *end)
    const char *srt_band_check(const srt_window *window, const srt_band *band)
    void srt_move_rows(float *x, srt_steps steps, int64_t planes, int64_t width, int64_t start, int64_t to,
                       int64_t count)
    int64_t srt_volume(const int64_t *extents)
    enum:
        SRT_COPY_AXES
    ctypedef struct srt_copy_axis:
        pass
    ctypedef struct srt_copy:
        int axes
        const srt_copy_axis *axis
    const char *srt_copy_prepare(srt_copy *copy, const srt_copy *before, srt_copy_axis *axis, const void *x, void *y,
                                 int64_t size, int axes, const int64_t *shape, const int64_t *x_steps,
                                 const int64_t *y_steps)
    void srt_copy_all(const srt_copy *copies, int64_t count)
    void srt_unary(const float *x, float *y, int64_t n, const srt_activation *act)
    void srt_bias_act(float *y, int64_t rows, int64_t cols, int64_t stride, const float *bias,
                      const srt_activation *act)
    void srt_transpose_bias_act(const float *t, float *y, int64_t rows, int64_t batch, int64_t stride,
                                const float *bias, const srt_activation *act)
    ctypedef enum srt_weight_type:
        SRT_FLOAT32
        SRT_FLOAT16
        SRT_BFLOAT16
        SRT_INT8
        SRT_INT4
    ctypedef struct srt_weights:
        const void *data
        int type
        int64_t inner
    srt_weights srt_weights_make(const void *data, int type, int64_t inner, int64_t block, bint zeros)
    srt_weights srt_weights_from(srt_weights w, int64_t row)
    int64_t srt_row_bytes(int type, int64_t inner, int64_t block, bint zeros)
    void srt_decode(const srt_weights *w, int64_t first, int64_t last, float *out)
    enum:
        SRT_DENSE_BATCH
        SRT_DENSE_GROUP
        SRT_DENSE_CHUNK
        SRT_DENSE_WIDE
    void srt_dense(const srt_weights *w, const float *x, const float *bias, float *y, int64_t rows, int64_t batch,
                   int64_t stride, const srt_activation *act)
    void srt_scale_shift_act(const float *x, const float *scale, const float *shift, float *y, int64_t n,
                             int64_t channels, int64_t size, const srt_activation *act)
    void srt_prelu(const float *x, const float *slope, bint one_slope, float *y, int64_t n, int64_t channels,
                   int64_t size)
    void srt_dense_wide(const srt_weights *w, const float *x, const float *bias, float *y, int64_t rows, int64_t batch,
                        int64_t stride, const srt_activation *act)
    int srt_dense_most(int64_t weights)
    bint srt_gemm_pays()
    bint srt_products_pay()
    ctypedef struct srt_product_of_samples:
        const float *x
        srt_weights w
        const float *bias
        float *y
        int64_t batch
        int64_t rows
        int64_t stride
        float *block
        int64_t room
        float *scratch
        int64_t seats
        int64_t seat
        const srt_activation *act
    void srt_gemm(const srt_product_of_samples *g)
    enum:
        SRT_CONV_DEPTH
        SRT_CONV_COLUMNS
    ctypedef struct srt_convolution:
        const float *x
        srt_weights w
        const float *bias
        const float *residual
        float *y
        int64_t n
        int64_t groups
        int64_t channels
        int64_t outputs
        const srt_window *window
        srt_band band
        int64_t first
        int64_t last
        const float *scale
        const float *shift
        bint each
        bint across
        float low
        float high
        float *scratch
        int64_t seats
        int64_t seat
        float *sums
        const srt_activation *act
    ctypedef struct srt_matrices:
        const float *a
        const float *b
        float *y
        int64_t n
        int64_t groups
        int64_t rows
        int64_t inner
        int64_t columns
        bint transposed
        float *scratch
        int64_t seats
        int64_t seat
        const srt_activation *act
    void srt_matmul(const srt_matrices *m)
    ctypedef struct srt_attention_job:
        const float *q
        const float *k
        const float *v
        const float *mask
        float *y
        int64_t n
        int64_t heads
        int64_t shared
        int64_t queries
        int64_t keys
        int64_t inner
        int64_t width
        int64_t steps[4]
        int64_t masked
        bint truth
        bint causal
        bint zeros
        int64_t offset
        int64_t left
        int64_t right
        float scale
        float cap
        float *scores
        int64_t room
        float *scaled
        float *unused
        float *scratch
        int64_t seats
        int64_t seat
    void srt_attention(const srt_attention_job *a)
    int64_t srt_attention_rows(int64_t pieces, int64_t rows, int64_t keys, int64_t room)
    int64_t srt_conv_sums(int64_t n, int64_t groups, int64_t inner, int64_t outputs, const srt_window *window)
    void srt_conv(const srt_convolution *c)
    void srt_winograd(const srt_convolution *c)
    int64_t srt_winograd_seat(int64_t n, int64_t channels, int64_t outputs, const srt_window *window, int64_t threads)
    void srt_depthwise(const float *x, const float *w, const float *bias, float *y, int64_t n, int64_t channels,
                       int64_t multiplier, const srt_window *window, const srt_band *band, int64_t first,
                       int64_t last, const srt_activation *act)
    void srt_max_pool(const float *x, float *y, int64_t volumes, const srt_window *window, const srt_band *band)
    void srt_average_pool(const float *x, float *y, int64_t volumes, const srt_window *window, const srt_band *band,
                          bint count_padding)
    void srt_row_mean(const float *x, float *y, int64_t rows, int64_t cols, int64_t block)
    int64_t srt_rows_together(int64_t width)
    void srt_plane_sums(const float *x, srt_steps steps, double *y, int64_t planes, int64_t rows, int64_t width,
                        int64_t numbers, bint begins)
    void srt_row_max(const float *x, float *y, int64_t rows, int64_t cols)
    void srt_softmax(const float *x, float *y, int64_t outer, int64_t k, int64_t inner, bint log)
    void srt_lrn(const float *x, float *y, int64_t n, int64_t channels, int64_t inner, int64_t size, float alpha,
                 float beta, float bias)
    uint32_t srt_crc32c(const void *data, size_t size, uint32_t value)
