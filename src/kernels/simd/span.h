/* span.h - the outputs whose inputs are not padding. */
#ifndef STREAMRT_SPAN_H
#define STREAMRT_SPAN_H

#include "functions.h"

/* The outputs o whose input o * stride + shift lies in 0..input: first <= o < last. */
typedef struct {
    int64_t first, last;
} span;

V span valid_outputs(int64_t shift, int64_t stride, int64_t input, int64_t output) {
    span s = {shift < 0 ? -shift : 0, input > shift ? input - shift : 0};
    if (stride != 1) { /* rounded up; a division takes as long as several elements */
        s.first = (s.first + stride - 1) / stride;
        s.last = (s.last + stride - 1) / stride;
    }
    s.first = smaller(s.first, output);
    s.last = smaller(s.last, output);
    if (s.last < s.first) s.last = s.first;
    return s;
}

#endif
