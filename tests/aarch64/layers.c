/* layers.c - computes a layer in one thread: layers INSTRUCTION_SET LAYER. Any other name computes nothing. See
 * tests/aarch64/count. */
#include "kernels/isa.h"
#include "kernels/kernels.h"
#include "parallel.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROOM = 1 << 20 };                               /* floats of each array */
static float x[ROOM], w[ROOM], y[ROOM], scratch[ROOM]; /* zeros: no loop depends on values */

/* A square window with the padding that keeps the map's size, but for the stride. */
static srt_window window_of(int64_t kernel, int64_t stride, int64_t side) {
    srt_window window = {.kernel = {kernel, kernel, 1},
                         .stride = {stride, stride, 1},
                         .dilation = {1, 1, 1},
                         .before = {kernel / 2, kernel / 2},
                         .after = {kernel / 2, kernel / 2},
                         .input = {side, side, 1},
                         .output = {0, 0, 1}};
    window.output[0] = window.output[1] = (side + 2 * (kernel / 2) - kernel) / stride + 1;
    return window;
}

static void convolve(int64_t channels, int64_t outputs, int64_t kernel, int64_t stride, int64_t side, bool winograd) {
    const srt_window window = window_of(kernel, stride, side);
    const srt_activation relu = srt_activation_make(SRT_RELU, 0, 0);
    const int64_t seat = winograd ? srt_winograd_seat(1, channels, outputs, &window, 1) : 8 * 32 * SRT_CONV_DEPTH;
    if (seat == 0 || seat > ROOM) abort();
    const srt_convolution c = {.x = x,
                               .w = srt_weights_make(w, SRT_FLOAT32, channels * kernel * kernel, 0, false),
                               .bias = w,
                               .y = y,
                               .n = 1,
                               .groups = 1,
                               .channels = channels,
                               .outputs = outputs,
                               .window = &window,
                               .band = srt_whole(&window),
                               .last = outputs,
                               .low = -INFINITY,
                               .high = INFINITY,
                               .scratch = scratch,
                               .seats = 1,
                               .seat = seat,
                               .act = &relu};
    (winograd ? srt_winograd : srt_conv)(&c);
}

static void depthwise(int64_t kernel, int64_t stride, int64_t side) {
    const srt_window window = window_of(kernel, stride, side);
    const srt_activation relu = srt_activation_make(SRT_RELU, 0, 0);
    const srt_band whole = srt_whole(&window);
    srt_depthwise(x, w, w, y, 1, 16, 1, &window, &whole, 0, 16, &relu);
}

static void dense(int64_t batch) {
    const srt_activation relu = srt_activation_make(SRT_RELU, 0, 0);
    const srt_weights weights = srt_weights_make(w, SRT_FLOAT32, 1024, 0, false);
    srt_dense(&weights, x, w, y, 250, batch, 250, &relu);
}

static void layer(const char *name) {
    const srt_activation sigmoid = srt_activation_make(SRT_SIGMOID, 0, 0);
    const srt_window pool = window_of(3, 2, 56);
    const srt_band whole = srt_whole(&pool);
    if (strcmp(name, "pointwise-28") == 0) convolve(64, 64, 1, 1, 28, false);
    if (strcmp(name, "pointwise-7") == 0) convolve(320, 128, 1, 1, 7, false);
    if (strcmp(name, "conv-3x3-stride-2") == 0) convolve(32, 32, 3, 2, 28, false);
    if (strcmp(name, "conv-7x7-stride-2-phases") == 0) convolve(3, 64, 7, 2, 112, false);
    if (strcmp(name, "winograd-28") == 0) convolve(32, 32, 3, 1, 28, true);
    if (strcmp(name, "winograd-7") == 0) convolve(256, 256, 3, 1, 7, true);
    if (strcmp(name, "depthwise-3x3") == 0) depthwise(3, 1, 56);
    if (strcmp(name, "depthwise-5x5-stride-2") == 0) depthwise(5, 2, 56);
    if (strcmp(name, "depthwise-3x3-7") == 0) depthwise(3, 1, 7);
    if (strcmp(name, "dense-1") == 0) dense(1);
    if (strcmp(name, "dense-4") == 0) dense(4);
    if (strcmp(name, "max-pool") == 0) srt_max_pool(x, y, 16, &pool, &whole);
    if (strcmp(name, "sigmoid") == 0) srt_unary(x, y, 1 << 14, &sigmoid);
    if (strcmp(name, "softmax") == 0) srt_softmax(x, y, 16, 1000, 1, false);
    if (strcmp(name, "crc32c") == 0) y[0] = (float)srt_crc32c(x, 1 << 20, 0);
}

int main(int count, char **arguments) {
    if (count != 3 || !srt_isa_use(arguments[1])) {
        fprintf(stderr, "no such instruction set here\n");
        return 1;
    }
    srt_set_threads(1);
    srt_crc32c(x, 1, 0); /* makes its tables */
    layer(arguments[2]);
    return 0;
}
