/* copy.c - how copies are cut into pieces that threads share: see kernels.h. The loops are in simd/copy.h. */
#include "sharing.h"
#include "simd/table.h"

/* Words of a unit: 32 KiB, so that finding its place takes little time, and all threads end together. */
enum { UNIT = 8 * 1024 };

/* Columns and rows of a piece that is transposed. The lines of y that a piece writes stay in the first-level cache
 * until they are full. */
enum { TRANSPOSED_COLS = 128, TRANSPOSED_ROWS = 64 };

/* The fewest words that are written past the caches: 32 MiB. Whoever reads so many finds few of them in a cache. */
enum { PAST = 8 * 1024 * 1024 };

/* Takes the axes with more than one element, those of y with the largest steps first. All steps of y become positive.
 * Returns their number, or -1 if there are too many. */
static int take_axes(srt_copy *copy, srt_copy_axis *axis, int64_t size, int axes, const int64_t *shape,
                     const int64_t *x_steps, const int64_t *y_steps) {
    int count = 0;
    for (int i = 0; i < axes; i++) {
        if (shape[i] == 1) continue;
        if (count == SRT_COPY_AXES - 1) return -1;
        srt_copy_axis a = {shape[i], x_steps[i] / 4, y_steps[i] / 4};
        if (a.y < 0) { /* from the last element to the first */
            copy->x += (a.extent - 1) * a.x;
            copy->y += (a.extent - 1) * a.y;
            a.x = -a.x;
            a.y = -a.y;
        }
        int at = count++;
        for (; at > 0 && axis[at - 1].y < a.y; at--) axis[at] = axis[at - 1];
        axis[at] = a;
    }
    if (size == 8) axis[count++] = (srt_copy_axis){2, 1, 1};
    return count;
}

/* Joins neighbours that are contiguous in both arrays. Returns the number of axes that are left. */
static int joined(srt_copy_axis *axis, int count) {
    int left = 0;
    for (int i = 0; i < count; i++) {
        const srt_copy_axis a = axis[i];
        if (left > 0 && axis[left - 1].x == a.extent * a.x && axis[left - 1].y == a.extent * a.y)
            axis[left - 1] = (srt_copy_axis){axis[left - 1].extent * a.extent, a.x, a.y};
        else
            axis[left++] = a;
    }
    return left;
}

/* Makes the last two axes those of the rows and the columns of a matrix, and says how it is copied. `count` > 1. */
static srt_copy_kind arrange(srt_copy_axis *axis, int count) {
    const srt_copy_axis *cols = &axis[count - 1];
    if (cols->y != 1) return SRT_COPY_STRIDED;
    if (cols->x == 1) return SRT_COPY_RUNS;
    for (int i = count - 2; i >= 0; i--) {
        if (axis[i].x != 1) continue;
        const srt_copy_axis rows = axis[i];
        for (; i < count - 2; i++) axis[i] = axis[i + 1];
        axis[i] = rows;
        return SRT_COPY_TRANSPOSE;
    }
    return SRT_COPY_STRIDED;
}

/* Cuts the matrices of `rows` and `cols` into pieces of about a unit, or takes several together. */
static void cut(srt_copy *copy, int64_t rows, int64_t cols) {
    const bool is_tiled = copy->kind == SRT_COPY_TRANSPOSE && rows > 4 && cols > 4;
    const int64_t most = copy->kind == SRT_COPY_TRANSPOSE && rows <= 4 ? UNIT / rows : UNIT;
    copy->piece_cols = smaller(cols, is_tiled ? TRANSPOSED_COLS : most);
    copy->piece_rows = smaller(rows, is_tiled ? TRANSPOSED_ROWS : divided_up(UNIT, copy->piece_cols));
    copy->col_pieces = divided_up(cols, copy->piece_cols);
    copy->row_pieces = divided_up(rows, copy->piece_rows);
    copy->together = divided_up(UNIT, copy->piece_rows * copy->piece_cols);
}

/* The first word of an array, and the word behind its last. */
typedef struct {
    uintptr_t begin, end;
} reach;

static reach reach_of(const float *p, const srt_copy_axis *axis, int count, bool of_y) {
    reach found = {(uintptr_t)p, (uintptr_t)p + sizeof *p};
    for (int i = 0; i < count; i++) {
        const int64_t bytes = (axis[i].extent - 1) * (of_y ? axis[i].y : axis[i].x) * 4;
        if (bytes < 0)
            found.begin -= (uintptr_t)-bytes;
        else
            found.end += (uintptr_t)bytes;
    }
    return found;
}

const char *srt_copy_prepare(srt_copy *copy, const srt_copy *before, srt_copy_axis axis[SRT_COPY_AXES], const void *x,
                             void *y, int64_t size, int axes, const int64_t *shape, const int64_t *x_steps,
                             const int64_t *y_steps) {
    *copy = (srt_copy){.x = x, .y = y, .axis = axis};
    if (before) {
        copy->first_unit = copy->units = before->units;
        copy->words = before->words;
    }
    for (int i = 0; i < axes; i++)
        if (shape[i] == 0) return NULL;
    for (int i = 0; i < axes; i++)
        if (shape[i] > 1 && (x_steps[i] % 4 != 0 || y_steps[i] % 4 != 0)) return "steps must be whole words of 4 bytes";
    int count = take_axes(copy, axis, size, axes, shape, x_steps, y_steps);
    if (count < 0) return "at most 16 axes may have more than one element";
    int64_t inner = 0; /* words from the first to the last of the axes that lie further in */
    for (int i = count - 1; i >= 0; i--) {
        if (axis[i].y <= inner) return "elements of the target must not overlap";
        inner += (axis[i].extent - 1) * axis[i].y;
    }
    const reach of_x = reach_of(copy->x, axis, count, false), of_y = reach_of(copy->y, axis, count, true);
    if (of_x.begin < of_y.end && of_y.begin < of_x.end) return "the target overlaps the source";
    count = joined(axis, count);
    copy->kind = count > 1                                      ? arrange(axis, count)
                 : count == 0 || (axis->x == 1 && axis->y == 1) ? SRT_COPY_RUNS
                                                                : SRT_COPY_STRIDED;
    while (count < 2) { /* axes of one element come first */
        if (count == 1) axis[1] = axis[0];
        axis[0] = (srt_copy_axis){1, 0, 0};
        if (count == 0) axis[1] = (srt_copy_axis){1, 1, 1};
        count = count == 0 ? 2 : count + 1;
    }
    copy->axes = count - 2;
    cut(copy, axis[count - 2].extent, axis[count - 1].extent);
    copy->pieces = copy->row_pieces * copy->col_pieces;
    int64_t words = axis[count - 2].extent * axis[count - 1].extent;
    for (int i = 0; i < copy->axes; i++) {
        copy->pieces *= axis[i].extent;
        words *= axis[i].extent;
    }
    copy->units += divided_up(copy->pieces, copy->together);
    copy->words += words;
    return NULL;
}

void srt_copy_all(const srt_copy *copies, int64_t count) {
    if (count == 0 || copies[count - 1].units == 0) return;
    const srt_copy *last = &copies[count - 1];
    const copy_job job = {copies, last->words >= PAST};
    srt_parallel(last->units, srt_grain(last->words / last->units / 2), srt_table_active()->copy, &job);
}
