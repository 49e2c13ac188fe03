/* lrn.h - local response normalisation over channels. */
#ifndef STREAMRT_LRN_H
#define STREAMRT_LRN_H

#include "activation.h"

FN void lrn(const void *arguments, int64_t first, int64_t last) {
    const lrn_job *job = arguments;
    int64_t before = (job->size - 1) / 2, after = job->size / 2;
    for (int64_t unit = first; unit < last; unit++) {
        int64_t c = unit % job->channels;
        int64_t from = c > before ? c - before : 0;
        int64_t to = after < job->channels - c ? c + after + 1 : job->channels;
        const float *x = job->x + unit * job->inner;
        float *y = job->y + unit * job->inner;
        for (int64_t i = 0; i < job->inner; i += VL) {
            vmask some = lanes(0, job->inner - i);
            vf sum = splat(0.0f);
            for (int64_t k = from; k < to; k++) {
                vf v = load_mask(x + (k - c) * job->inner + i, some, splat(0.0f));
                sum = muladd(v, v, sum);
            }
            vf base = muladd(sum, splat(job->alpha), splat(job->bias));
            vf v = load_mask(x + i, some, splat(0.0f));
            store_first(y + i, first_lanes(job->inner - i), v * exp_of(log_of(base) * -job->beta));
        }
    }
}

#endif
