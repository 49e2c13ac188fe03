/* activation.h - y = act(x) over a row, as an operator of its own and at the end of kernels that fuse it. */
#ifndef STREAMRT_ACTIVATION_H
#define STREAMRT_ACTIVATION_H

#include "functions.h"

/* y[i] = expression, in which v is x[i], for all n elements. x may be y. */
#define MAP(x, y, n, expression)                                                                                       \
    do {                                                                                                               \
        int64_t i_ = 0;                                                                                                \
        for (; i_ + VL <= (n); i_ += VL) {                                                                             \
            vf v = load((x) + i_);                                                                                     \
            store((y) + i_, (expression));                                                                             \
        }                                                                                                              \
        if (i_ < (n)) {                                                                                                \
            vmask rest_ = lanes(0, (n) - i_);                                                                          \
            vf v = load_mask((x) + i_, rest_, splat(0.0f));                                                            \
            store_first((y) + i_, first_lanes((n) - i_), (expression));                                                \
        }                                                                                                              \
    } while (0)

/* scale times the whole number from low to high that is nearest to v / scale, half to even. Between -2^22 and 2^22 a
 * float plus 1.5 * 2^23 has no bits for a fraction, so that the sum is rounded to a whole number. */
V vf stepped(vf v, vf scale, vf low, vf high) {
    const vf whole = splat(12582912.0f);
    return scale * (clamp(v / scale, low, high) + whole - whole);
}

FN void activate(const float *x, float *y, int64_t n, const srt_activation *act) {
    const vf alpha = splat(act->alpha), beta = splat(act->beta), low = splat(act->low), high = splat(act->high);
    const vf zero = splat(0.0f), one = splat(1.0f);
    switch (act->code) {
    case SRT_LEAKY_RELU:
        MAP(x, y, n, select_less(v, zero, alpha * v, v));
        break;
    case SRT_SIGMOID:
        MAP(x, y, n, sigmoid_of(v));
        break;
    case SRT_HARD_SIGMOID:
        MAP(x, y, n, clamp(muladd(alpha, v, beta), zero, one));
        break;
    case SRT_HARD_SWISH:
        MAP(x, y, n, gate(v, clamp(muladd(v, splat(1.0f / 6.0f), splat(0.5f)), zero, one)));
        break;
    case SRT_TANH:
        MAP(x, y, n, tanh_of(v));
        break;
    case SRT_ELU:
        MAP(x, y, n, select_less(v, zero, alpha * expm1_of_negative(v), v));
        break;
    case SRT_GELU:
        MAP(x, y, n, gate(v, normal_cdf(v)));
        break;
    case SRT_GELU_TANH: /* (1 + tanh(u)) / 2 = sigmoid(2 u); 2 sqrt(2 / pi) = 1.5957691 */
        MAP(x, y, n, gate(v, sigmoid_of(1.59576912160573071f * muladd(0.044715f * v * v, v, v))));
        break;
    case SRT_ERF:
        MAP(x, y, n, erf_of(v));
        break;
    case SRT_SWISH:
        MAP(x, y, n, gate(v, sigmoid_of(alpha * v)));
        break;
    case SRT_MISH:
        MAP(x, y, n, gate(v, tanh_softplus_of(v)));
        break;
    case SRT_QUANTIZE_DEQUANTIZE_8:
        MAP(x, y, n, stepped(v, alpha, beta, beta + splat(255.0f)));
        break;
    case SRT_QUANTIZE_DEQUANTIZE_16:
        MAP(x, y, n, stepped(v, alpha, beta, beta + splat(65535.0f)));
        break;
    default:
        MAP(x, y, n, clamp(v, low, high));
    }
}

/* y = act(y + b) over a row; b may be NULL. */
FN void finish_row(float *y, int64_t n, const float *b, const srt_activation *act) {
    const vf low = splat(act->low), high = splat(act->high), zero = splat(0.0f);
    for (int64_t i = 0; b && i < n; i += VL) {
        vmask some = lanes(0, n - i);
        store_first(y + i, first_lanes(n - i),
                    clamp(load_mask(y + i, some, zero) + load_mask(b + i, some, zero), low, high));
    }
    if (!b || act->separate) activate(y, y, n, act);
}

#endif
