/* vec_generic.h - functions of vec.h that only AVX-512 has instructions for. */
#ifndef STREAMRT_VEC_GENERIC_H
#define STREAMRT_VEC_GENERIC_H

/* Multiplies with 2^n in two steps, because 2^n may not be a normal number. */
V vf scaled(vf x, vf n) {
    const vi whole = __builtin_convertvector(n, vi), half = whole >> 1;
    return x * (vf)((half + 127) << 23) * (vf)((whole - half + 127) << 23);
}

V vf reciprocal(vf x) {
    return 1.0f / x;
}

#endif
