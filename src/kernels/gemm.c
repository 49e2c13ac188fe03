/* gemm.c - a product with samples is a convolution: a sample is a position, a feature is a channel. See kernels.h. */
#include "sharing.h"
#include "simd/table.h"

bool srt_gemm_pays(void) {
    return srt_products_pay() && srt_table_active()->gemm_pays;
}

void srt_gemm(const srt_product_of_samples *g) {
    if (g->batch == 0) return;
    const srt_window samples = {.kernel = {1, 1, 1},
                                .stride = {1, 1, 1},
                                .dilation = {1, 1, 1},
                                .input = {1, g->batch, 1},
                                .output = {1, g->batch, 1}};
    const srt_activation none = srt_activation_make(SRT_IDENTITY, 0, 0);
    const int64_t height = g->room / g->batch;
    for (int64_t row = 0, rows; row < g->rows; row += rows) {
        rows = smaller(height, g->rows - row);
        const srt_convolution sums = {.x = g->x,
                                      .w = srt_weights_from(g->w, row),
                                      .y = g->block,
                                      .n = 1,
                                      .groups = 1,
                                      .channels = g->w.inner,
                                      .outputs = rows,
                                      .window = &samples,
                                      .band = srt_whole(&samples),
                                      .last = rows,
                                      .across = true,
                                      .scratch = g->scratch,
                                      .seats = g->seats,
                                      .seat = g->seat,
                                      .act = &none};
        srt_conv(&sums);
        srt_transpose_bias_act(g->block, g->y + row, rows, g->batch, g->stride, g->bias ? g->bias + row : NULL, g->act);
    }
}
