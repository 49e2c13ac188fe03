/* entry.c - the products of a layer, called and timed from Python: see library.py. */
#include "kernels/isa.h"
#include "kernels/kernels.h"
#include "parallel.h"

#include <time.h>

#define EXPORTED __attribute__((visibility("default")))

/* A product: a convolution of a square map, or a dense layer, for which `size` is 0. */
typedef struct {
    const float *x, *w, *bias; /* w: `copies` copies of the weights, `apart` floats from one to the next */
    float *y, *scratch, *block;
    int64_t n, channels, outputs, size, kernel, stride;
    int64_t winograd; /* whether a convolution is computed by Winograd's algorithm */
    int64_t seats, seat, room, copies, apart;
} layer;

static srt_window window_of(const layer *l) {
    const int64_t k = l->kernel, pad = k / 2, out = (l->size + 2 * pad - k) / l->stride + 1;
    return (srt_window){.kernel = {k, k, 1},
                        .stride = {l->stride, l->stride, 1},
                        .dilation = {1, 1, 1},
                        .before = {pad, pad, 0},
                        .after = {pad, pad, 0},
                        .input = {l->size, l->size, 1},
                        .output = {out, out, 1}};
}

static void convolve(const layer *l, const float *w) {
    const srt_window window = window_of(l);
    const srt_activation relu = srt_activation_make(SRT_RELU, 0, 0);
    const srt_convolution c = {.x = l->x,
                               .w = srt_weights_make(w, SRT_FLOAT32, l->channels * l->kernel * l->kernel, 0, false),
                               .bias = l->bias,
                               .y = l->y,
                               .n = l->n,
                               .groups = 1,
                               .channels = l->channels,
                               .outputs = l->outputs,
                               .window = &window,
                               .band = srt_whole(&window),
                               .last = l->outputs,
                               .scratch = l->scratch,
                               .seats = l->seats,
                               .seat = l->seat,
                               .sums = l->winograd ? NULL : l->block,
                               .act = &relu};
    if (l->winograd)
        srt_winograd(&c);
    else
        srt_conv(&c);
}

/* As streamrt/ops/gemm.py chooses. x is laid out for the kernel. */
static void multiply(const layer *l, const float *w) {
    const srt_activation relu = srt_activation_make(SRT_RELU, 0, 0);
    const srt_weights weights = srt_weights_make(w, SRT_FLOAT32, l->channels, 0, false);
    const int64_t most = srt_dense_most(l->channels * l->outputs);
    if (l->n <= most && l->n <= SRT_DENSE_BATCH) {
        srt_dense(&weights, l->x, l->bias, l->y, l->outputs, l->n, l->outputs, &relu);
    } else if (l->n <= most) {
        srt_dense_wide(&weights, l->x, l->bias, l->y, l->outputs, l->n, l->outputs, &relu);
    } else {
        const srt_product_of_samples product = {.x = l->x,
                                                .bias = l->bias,
                                                .w = weights,
                                                .y = l->y,
                                                .batch = l->n,
                                                .rows = l->outputs,
                                                .stride = l->outputs,
                                                .block = l->block,
                                                .room = l->room,
                                                .scratch = l->scratch,
                                                .seats = l->seats,
                                                .seat = l->seat,
                                                .act = &relu};
        srt_gemm(&product);
    }
}

static double now(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

EXPORTED int64_t bench_use(const char *isa, int64_t threads) {
    srt_set_threads((int)threads);
    return srt_isa_use(isa);
}

EXPORTED int64_t bench_dense_most(int64_t weights) {
    return srt_dense_most(weights);
}

EXPORTED int64_t bench_winograd_seat(const layer *l) {
    const srt_window window = window_of(l);
    return srt_winograd_seat(l->n, l->channels, l->outputs, &window, l->seats);
}

EXPORTED int64_t bench_conv_sums(const layer *l) {
    const srt_window window = window_of(l);
    return srt_conv_sums(l->n, 1, l->channels * l->kernel * l->kernel, l->outputs, &window);
}

/* Computes a layer `calls` times, with one copy of the weights after the other from copy `at` on, and sets the seconds
 * of each call. One thread is timed by its own clock, which stands still while others have the processor. */
EXPORTED void bench_run(const layer *l, int64_t at, int64_t calls, double *seconds) {
    const clockid_t clock = srt_threads() == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
    for (int64_t i = 0; i < calls; i++) {
        const float *w = l->w + (at + i) % l->copies * l->apart;
        const double start = now(clock);
        if (l->size > 0)
            convolve(l, w);
        else
            multiply(l, w);
        seconds[i] = now(clock) - start;
    }
}
