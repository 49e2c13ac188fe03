/* vec_generic.h - what has no instruction of its own but in AVX-512: see vec_scalar.h. */
#ifndef STREAMRT_VEC_GENERIC_H
#define STREAMRT_VEC_GENERIC_H

/* 2^n is applied in two halves, as it may be no normal number. */
V vf scaled(vf x, vf n) {
    const vi whole = __builtin_convertvector(n, vi), half = whole >> 1;
    return x * (vf)((half + 127) << 23) * (vf)((whole - half + 127) << 23);
}

V vf reciprocal(vf x) {
    return 1.0f / x;
}

#endif
