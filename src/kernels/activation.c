/* activation.c - names and parameters of activations: see kernels.h. */
#include "kernels.h"

#include <math.h>

/* cost: the time for an element, in units of the time to copy it. It is rough, because it only decides how many threads
 * share a job. */
static const struct {
    const char *name;
    int64_t cost;
} table[SRT_ACTIVATION_COUNT] = {
    [SRT_IDENTITY] = {"Identity", 1},
    [SRT_RELU] = {"Relu", 1},
    [SRT_LEAKY_RELU] = {"LeakyRelu", 1},
    [SRT_CLIP] = {"Clip", 1},
    [SRT_SIGMOID] = {"Sigmoid", 4},
    [SRT_HARD_SIGMOID] = {"HardSigmoid", 1},
    [SRT_HARD_SWISH] = {"HardSwish", 2},
    [SRT_TANH] = {"Tanh", 6},
    [SRT_ELU] = {"Elu", 4},
    [SRT_GELU] = {"Gelu", 10},
    [SRT_GELU_TANH] = {"GeluTanh", 5},
    [SRT_ERF] = {"Erf", 10},
    [SRT_SWISH] = {"Swish", 5},
    [SRT_MISH] = {"Mish", 5},
    [SRT_QUANTIZE_DEQUANTIZE_8] = {"QuantizeDequantize8", 2},
    [SRT_QUANTIZE_DEQUANTIZE_16] = {"QuantizeDequantize16", 2},
};

const char *srt_activation_name(int code) {
    return code >= 0 && code < SRT_ACTIVATION_COUNT ? table[code].name : NULL;
}

srt_activation srt_activation_make(int code, float alpha, float beta) {
    return (srt_activation){
        .code = code,
        .alpha = alpha,
        .beta = beta,
        .low = code == SRT_RELU   ? 0.0f
               : code == SRT_CLIP ? alpha
                                  : -INFINITY,
        .high = code == SRT_CLIP ? beta : INFINITY,
        .separate = code != SRT_IDENTITY && code != SRT_RELU && code != SRT_CLIP,
        .cost = table[code].cost,
    };
}
