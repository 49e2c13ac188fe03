/* matmul.c - a product of computed matrices is a 1 x 1 convolution: a column is a position, a row is an output channel,
 * and a pair of matrices is a group. See kernels.h. */
#include "sharing.h"
#include "simd/table.h"

void srt_matmul(const srt_matrices *m) {
    if (m->groups == 0 || m->rows == 0) return;
    const srt_window columns = {.kernel = {1, 1, 1},
                                .stride = {1, 1, 1},
                                .dilation = {1, 1, 1},
                                .input = {1, m->columns, 1},
                                .output = {1, m->columns, 1}};
    const srt_convolution sums = {.x = m->b,
                                  .w = srt_weights_make(m->a, SRT_FLOAT32, m->inner, 0, false),
                                  .y = m->y,
                                  .n = m->n,
                                  .groups = m->groups,
                                  .channels = m->inner,
                                  .outputs = m->rows,
                                  .window = &columns,
                                  .band = srt_whole(&columns),
                                  .last = m->groups * m->rows,
                                  .across = m->transposed,
                                  .scratch = m->scratch,
                                  .seats = m->seats,
                                  .seat = m->seat,
                                  .act = m->act};
    srt_conv(&sums);
}
