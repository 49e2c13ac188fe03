/* functions.h - exp, log, tanh and similar functions of a vector of floats.
 *
 * Reductions and minimax polynomials are those of Moshier's Cephes library in single precision (expf, logf, tanhf,
 * erff, erfcf). Errors are at most a few units in the last place: see tests/kernels. A NaN stays NaN; infinities give
 * the limits.
 */
#ifndef STREAMRT_FUNCTIONS_H
#define STREAMRT_FUNCTIONS_H

#include <float.h>
#include <math.h>
#include <string.h>

#include "vec.h"

V int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

V int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

V vf magnitude(vf x) {
    return (vf)((vi)x & 0x7fffffff);
}

/* `value`, which must not be negative, with the sign of `sign`. */
V vf with_sign(vf value, vf sign) {
    return (vf)((vi)value | ((vi)sign & INT32_MIN));
}

/* exp(x) = 2^n * (1 + p) for |x| < 2^21: n is the integer nearest to x / ln 2, r = x - n ln 2 with |r| <= ln(2) / 2,
 * and p = exp(r) - 1. */
typedef struct {
    vf n;
    vf p;
} split_exp;

V split_exp exp_split(vf x) {
    /* a sum with 1.5 * 2^23 has no bits for a fraction, so it is rounded to an integer */
    const vf shifter = splat(12582912.0f);
    vf n = muladd(x, splat(1.44269504088896341f), shifter) - shifter; /* 1 / ln 2 */
    vf r = muladd(n, splat(-0.693359375f), x); /* ln 2 in two parts; the product with the first part is exact */
    r = muladd(n, splat(2.12194440e-4f), r);
    vf p = splat(1.9875691500e-4f);
    p = muladd(p, r, splat(1.3981999507e-3f));
    p = muladd(p, r, splat(8.3334519073e-3f));
    p = muladd(p, r, splat(4.1665795894e-2f));
    p = muladd(p, r, splat(1.6666665459e-1f));
    p = muladd(p, r, splat(5.0000001201e-1f));
    return (split_exp){n, muladd(p, r * r, r)};
}

/* exp(x) for x <= 89. Below the clamp it is 0. */
V vf exp_of_small(vf x) {
    split_exp e = exp_split(vmax(splat(-104.5f), x));
    return scaled(e.p + 1.0f, e.n);
}

/* exp(x). Beyond the clamps it is 0 or infinity. */
V vf exp_of(vf x) {
    return exp_of_small(vmin(splat(89.0f), x));
}

/* exp(x) - 1 for x <= 0, exact near 0. Below -87 it is -1. */
V vf expm1_of_negative(vf x) {
    split_exp e = exp_split(vmin(splat(0.0f), vmax(splat(-87.0f), x)));
    vf scale = scaled(splat(1.0f), e.n);
    return muladd(e.p, scale, scale - 1.0f);
}

/* log(x): x = m * 2^e with sqrt(1/2) <= m < sqrt(2), and a polynomial in m - 1. log(0) = -inf, log(x < 0) = NaN. */
V vf log_of(vf x) {
    vf tiny = splat(FLT_MIN);
    vf normal = select_less(x, tiny, x * 8388608.0f, x); /* subnormals times 2^23 */
    vf bias = select_less(x, tiny, splat(127.0f + 23.0f), splat(127.0f));
    vi bits = (vi)normal;
    /* moves the lower bound of m from 1 to sqrt(1/2) */
    vi shifted = bits - 0x3f3504f3;
    vf e = __builtin_convertvector((shifted >> 23) + 127, vf) - bias;
    vf m = (vf)((shifted & 0x007fffff) + 0x3f3504f3) - 1.0f;
    vf z = m * m;
    vf p = splat(7.0376836292e-2f);
    p = muladd(p, m, splat(-1.1514610310e-1f));
    p = muladd(p, m, splat(1.1676998740e-1f));
    p = muladd(p, m, splat(-1.2420140846e-1f));
    p = muladd(p, m, splat(1.4249322787e-1f));
    p = muladd(p, m, splat(-1.6668057665e-1f));
    p = muladd(p, m, splat(2.0000714765e-1f));
    p = muladd(p, m, splat(-2.4999993993e-1f));
    p = muladd(p, m, splat(3.3333331174e-1f));
    vf y = muladd(p * m, z, e * -2.12194440e-4f);
    y = muladd(z, splat(-0.5f), y);
    y = muladd(e, splat(0.693359375f), m + y);
    const vf zero = splat(0.0f), infinity = splat(INFINITY);
    y = select_less(x, infinity, y, x);
    return select_less(zero, x, y, select_less(x, zero, splat(NAN), x - infinity));
}

V vf sigmoid_of(vf x) {
    vf e = exp_of_small(-magnitude(x)); /* never overflows */
    return select_less(x, splat(0.0f), e, splat(1.0f)) * reciprocal(e + 1.0f);
}

V vf tanh_of(vf x) {
    vf a = magnitude(x), z = x * x;
    vf p = splat(-5.70498872745e-3f);
    p = muladd(p, z, splat(2.06390887954e-2f));
    p = muladd(p, z, splat(-5.37397155531e-2f));
    p = muladd(p, z, splat(1.33314422036e-1f));
    p = muladd(p, z, splat(-3.33332819422e-1f));
    vf near = muladd(p * z, x, x);
    vf far = 1.0f - 2.0f / (exp_of(a + a) + 1.0f);
    return select_less(a, splat(0.625f), near, with_sign(far, x));
}

/* tanh(log(1 + exp(x))) = n / (n + 2) with n = exp(x) (exp(x) + 2). It is 1 in float32 long before the clamp, beyond
 * which n would overflow. */
V vf tanh_softplus_of(vf x) {
    vf e = exp_of_small(vmin(splat(40.0f), x));
    vf n = e * (e + 2.0f);
    return n * reciprocal(n + 2.0f);
}

/* erf(x) / x for |x| < 1. */
V vf erf_near(vf x) {
    vf z = x * x;
    vf p = splat(7.853861353153693e-5f);
    p = muladd(p, z, splat(-8.010193625184903e-4f));
    p = muladd(p, z, splat(5.188327685732524e-3f));
    p = muladd(p, z, splat(-2.685381193529856e-2f));
    p = muladd(p, z, splat(1.128358514861418e-1f));
    p = muladd(p, z, splat(-3.761262582423300e-1f));
    return muladd(p, z, splat(1.128379165726710f));
}

/* 1 - erf(a) for a >= 1: exp(-a^2) / a times a polynomial in 1 / a^2. There is one polynomial for a < 2, and one above.
 */
V vf erfc_far(vf a) {
    vf q = 1.0f / a, z = q * q;
    vf p = splat(2.326819970068386e-2f);
    p = muladd(p, z, splat(-1.387039388740657e-1f));
    p = muladd(p, z, splat(3.687424674597105e-1f));
    p = muladd(p, z, splat(-5.824733027278666e-1f));
    p = muladd(p, z, splat(6.210004621745983e-1f));
    p = muladd(p, z, splat(-4.944515323274145e-1f));
    p = muladd(p, z, splat(3.404879937665872e-1f));
    p = muladd(p, z, splat(-2.741127028184656e-1f));
    p = muladd(p, z, splat(5.638259427386472e-1f));
    vf r = splat(-1.047766399936249e+1f);
    r = muladd(r, z, splat(1.297719955372516e+1f));
    r = muladd(r, z, splat(-7.495518717768503e+0f));
    r = muladd(r, z, splat(2.921019019210786e+0f));
    r = muladd(r, z, splat(-1.015265279202700e+0f));
    r = muladd(r, z, splat(4.218463358204948e-1f));
    r = muladd(r, z, splat(-2.820767439740514e-1f));
    r = muladd(r, z, splat(5.641895067754075e-1f));
    return exp_of(-a * a) * q * select_less(a, splat(2.0f), p, r);
}

V vf erf_of(vf x) {
    vf a = magnitude(x);
    return select_less(a, splat(1.0f), x * erf_near(x), with_sign(1.0f - erfc_far(a), x));
}

/* The distribution function of the normal distribution: (1 + erf(x / sqrt 2)) / 2. */
V vf normal_cdf(vf x) {
    vf z = x * 0.707106781186547524f, a = magnitude(z);
    vf tail = 0.5f * erfc_far(a);
    vf far = select_less(x, splat(0.0f), tail, 1.0f - tail);
    return select_less(a, splat(1.0f), muladd(0.5f * z, erf_near(z), splat(0.5f)), far);
}

V vf clamp(vf x, vf low, vf high) {
    return vmin(high, vmax(low, x));
}

/* x * p, but 0 where p is 0, even if x is infinite. */
V vf gate(vf x, vf p) {
    return select_less(splat(0.0f), p, x * p, p);
}

/* The sum of the lanes, in a fixed order. */
V double sum_of_lanes(vf v) {
    double sum = 0.0;
    for (int i = 0; i < VL; i++) sum += v[i];
    return sum;
}

/* The largest lane; NaN if any lane is. */
V float max_of_lanes(vf v) {
    float max = v[0];
    for (int i = 1; i < VL; i++)
        max = v[i] > max || v[i] != v[i] ? v[i] : max; /* a NaN in max stays: every comparison with it is false */
    return max;
}

#endif
