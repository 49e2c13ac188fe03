/* arena.c - offsets for blocks of memory with known lifetimes in one arena.
 *
 * Greedy: Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020, section 4. The caller
 * chooses the order of the blocks.
 */
#include "streamrt.h"

#include <stdlib.h>
#include <string.h>

/* The offset of a block that has none yet. */
#define NOWHERE UINT64_MAX

/* Rivals are collected from as many placed blocks at once, so that the loop over them has no branch. */
enum { CHUNK = 256 };

/* A block that has its offset. Lifetimes are copied, so that the loop over all placed blocks reads memory in order. */
typedef struct {
    int32_t first, last;
    uint32_t block;
} placed;

/* The lowest offset at which a block overlaps no rival: no placed block that is alive at the same time. `all` is in the
 * order of offsets. */
static uint64_t lowest_gap(const srt_block *block, const srt_block *blocks, const uint64_t *offsets, const placed *all,
                           uint32_t count) {
    uint32_t rivals[CHUNK];
    uint64_t gap = 0; /* where the gap begins that lies below the next rival */
    for (uint32_t begin = 0; begin < count; begin += CHUNK) {
        const uint32_t end = count - begin > CHUNK ? begin + CHUNK : count;
        uint32_t found = 0;
        for (uint32_t i = begin; i < end; i++) {
            rivals[found] = all[i].block;
            found += (all[i].first <= block->last) & (all[i].last >= block->first);
        }
        for (uint32_t i = 0; i < found; i++) {
            const uint64_t start = offsets[rivals[i]], behind = start + blocks[rivals[i]].nbytes;
            if (start >= gap && start - gap >= block->nbytes) {
                return gap;
            }
            gap = behind > gap ? behind : gap;
        }
    }
    return gap;
}

/* Inserts a block behind all placed blocks whose offset is not larger. */
static void insert(placed *all, uint32_t count, const uint64_t *offsets, placed block) {
    uint32_t low = 0, high = count;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (offsets[all[middle].block] <= offsets[block.block]) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    memmove(&all[low + 1], &all[low], (count - low) * sizeof *all);
    all[low] = block;
}

srt_status srt_arena_place(const srt_block *blocks, uint32_t count, const uint32_t *order, uint32_t ordered,
                           uint64_t *offsets, uint64_t *end) {
    if (ordered > count) {
        return SRT_MISUSE;
    }
    *end = 0;
    for (uint32_t i = 0; i < count; i++) {
        offsets[i] = NOWHERE;
    }
    placed *all = malloc((ordered + (size_t)1) * sizeof *all); /* one more, because malloc(0) may give NULL */
    if (!all) {
        return SRT_NO_MEMORY;
    }
    srt_status status = SRT_OK;
    for (uint32_t n = 0; n < ordered; n++) {
        const uint32_t number = order[n];
        if (number >= count || offsets[number] != NOWHERE || blocks[number].first > blocks[number].last) {
            status = SRT_MISUSE;
            break;
        }
        const srt_block *block = &blocks[number];
        const uint64_t offset = lowest_gap(block, blocks, offsets, all, n);
        if (block->nbytes > (uint64_t)INT64_MAX - offset) {
            status = SRT_MISUSE;
            break;
        }
        offsets[number] = offset;
        insert(all, n, offsets, (placed){block->first, block->last, number});
        *end = offset + block->nbytes > *end ? offset + block->nbytes : *end;
    }
    free(all);
    for (uint32_t i = 0; i < count; i++) {
        offsets[i] = offsets[i] == NOWHERE ? 0 : offsets[i];
    }
    return status;
}
