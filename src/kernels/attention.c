/* attention.c - attention, some rows of scores at a time: see kernels.h.
 *
 * A piece is a head of keys of a sample. Its rows are the queries of all heads that share it. A block is some whole
 * pieces, or some rows of one piece. A row of scores is complete in its block, so its softmax is exact.
 */
#include <math.h>
#include <string.h>

#include "sharing.h"
#include "simd/table.h"

typedef struct { /* a unit is a row of a block of scores */
    const srt_attention_job *of;
    int64_t first; /* the row of the block's first row, counted over all pieces */
} mask_job;

/* The most pieces of a block: a product takes their number as that of its groups. */
enum { MOST_PIECES = 1 << 20 };

/* Pieces that are computed together; 0 if a piece is cut. */
static int64_t whole_pieces(int64_t pieces, int64_t rows, int64_t keys, int64_t room) {
    return rows > room / keys ? 0 : smaller(smaller(pieces, MOST_PIECES), room / keys / rows);
}

int64_t srt_attention_rows(int64_t pieces, int64_t rows, int64_t keys, int64_t room) {
    const int64_t whole = whole_pieces(pieces, rows, keys, room);
    return whole > 0 ? whole * rows : room > keys ? room / keys : 1;
}

/* Adds the mask to n scores. step: elements from one key's element of the mask to the next. Returns whether a key may
 * be used. */
static bool add_mask(float *scores, const float *mask, int64_t step, int64_t n, bool truth) {
    bool any = false;
    for (int64_t i = 0; i < n; i++) {
        const float value = mask[i * step];
        const float bias = !truth ? value : value != 0.0f ? 0.0f : -INFINITY;
        any |= bias != -INFINITY;
        scores[i] += bias;
    }
    return any;
}

static void mask_rows(const void *arguments, int64_t first, int64_t last) {
    const mask_job *job = arguments;
    const srt_attention_job *a = job->of;
    for (int64_t i = first; i < last; i++) {
        const int64_t row = job->first + i, query = row % a->queries;
        const int64_t head = row / a->queries % (a->heads * a->shared),
                      sample = row / a->queries / a->heads / a->shared;
        const int64_t place = query + a->offset;
        int64_t from = a->left >= 0 && place > a->left ? place - a->left : 0, to = a->mask ? a->masked : a->keys;
        if (a->causal) to = smaller(to, place + 1);
        if (a->right >= 0) to = smaller(to, place + a->right + 1);
        to = smaller(to, a->keys);
        from = smaller(from, to);
        float *scores = a->scores + i * a->keys;
        bool any = from < to;
        for (int64_t k = 0; k < from; k++) scores[k] = -INFINITY;
        if (a->cap != 0.0f)
            for (int64_t k = from; k < to; k++) scores[k] *= a->cap;
        if (a->mask) {
            const float *mask = a->mask + sample * a->steps[0] + head * a->steps[1] + query * a->steps[2];
            any = add_mask(scores + from, mask + from * a->steps[3], a->steps[3], to - from, a->truth);
        }
        for (int64_t k = to; k < a->keys; k++) scores[k] = -INFINITY;
        a->unused[i] = any ? 0.0f : 1.0f;
    }
}

/* Computes `rows` rows from row `row` on, of one piece, or all rows of some pieces. */
static void block(const srt_attention_job *a, int64_t pieces, int64_t row, int64_t rows) {
    const srt_activation none = srt_activation_make(SRT_IDENTITY, 0, 0),
                         tanh_of_it = srt_activation_make(SRT_TANH, 0, 0);
    const int64_t piece = row / (a->shared * a->queries);
    const float *q = a->q + row * a->inner;
    if (a->scaled) {
        const float factor = a->cap != 0.0f ? a->scale / a->cap : a->scale;
        srt_scale_shift_act(q, &factor, &(const float){0.0f}, a->scaled, 1, 1, rows * a->inner, &none);
        q = a->scaled;
    }
    const srt_matrices scores = {.a = q,
                                 .b = a->k + piece * a->keys * a->inner,
                                 .y = a->scores,
                                 .n = 1,
                                 .groups = pieces,
                                 .rows = rows / pieces,
                                 .inner = a->inner,
                                 .columns = a->keys,
                                 .transposed = true,
                                 .scratch = a->scratch,
                                 .seats = a->seats,
                                 .seat = a->seat,
                                 .act = a->cap != 0.0f ? &tanh_of_it : &none};
    srt_matmul(&scores);
    const bool masked = a->mask || a->causal || a->left >= 0 || a->right >= 0 || a->cap != 0.0f;
    const mask_job job = {.of = a, .first = row};
    if (masked) srt_parallel(rows, srt_grain(a->keys), mask_rows, &job);
    srt_softmax(a->scores, a->scores, rows, a->keys, 1, false);
    for (int64_t i = 0; masked && a->zeros && i < rows; i++)
        if (a->unused[i] != 0.0f) memset(a->scores + i * a->keys, 0, (size_t)a->keys * sizeof(float));
    const srt_matrices values = {.a = a->scores,
                                 .b = a->v + piece * a->keys * a->width,
                                 .y = a->y + row * a->width,
                                 .n = 1,
                                 .groups = pieces,
                                 .rows = rows / pieces,
                                 .inner = a->keys,
                                 .columns = a->width,
                                 .scratch = a->scratch,
                                 .seats = a->seats,
                                 .seat = a->seat,
                                 .act = &none};
    srt_matmul(&values);
}

void srt_attention(const srt_attention_job *a) {
    const int64_t pieces = a->n * a->heads, rows = a->shared * a->queries;
    const int64_t whole = whole_pieces(pieces, rows, a->keys, a->room);
    const int64_t height = srt_attention_rows(pieces, rows, a->keys, a->room);
    for (int64_t piece = 0, some; piece < pieces; piece += some) {
        some = whole > 0 ? smaller(whole, pieces - piece) : 1;
        for (int64_t row = 0, count; row < some * rows; row += count) {
            count = smaller(height, some * rows - row);
            block(a, some, piece * rows + row, count);
        }
    }
}
