/* schedule.c - makes and changes the tables of a schedule. */
#include "schedule.h"

#include <stdlib.h>

#define MAX_ITEMS ((size_t)USERS)

bool schedule_valid(const srt_item *items, size_t count, uint64_t window, uint64_t granule, uint64_t file_size) {
    if ((granule != srt_page_size() && granule != SRT_BLOCK) || count > MAX_ITEMS) return false;
    for (size_t i = 0; i < count; i++) {
        if (items[i].length == 0 || items[i].offset > file_size || items[i].length > file_size - items[i].offset)
            return false;
        if (!items[i].pinned && window == 0) return false;
    }
    return true;
}

/* The value of schedule.to_the_end. The granules are marked already. */
static bool pins_to_the_end(const schedule *plan) {
    size_t first = 0, end;
    while (first < plan->granule_count && !(plan->granules[first] & PINNED)) first++;
    for (end = first; end < plan->granule_count && (plan->granules[end] & PINNED);) end++;
    return plan->streamed == 0 && first < end && end == plan->granule_count;
}

schedule *schedule_new(const srt_item *items, size_t count, uint64_t window, uint64_t granule, uint64_t file_size) {
    size_t streamed = 0;
    for (size_t i = 0; i < count; i++) streamed += !items[i].pinned;
    schedule *plan = calloc(1, sizeof *plan);
    if (!plan) return NULL;
    plan->count = count;
    plan->streamed = streamed;
    plan->granule = granule;
    plan->window = window;
    plan->file_size = file_size;
    plan->granule_count = (size_t)((file_size - 1) / granule + 1);
    plan->items = calloc(count + 1, sizeof *plan->items); /* + 1: calloc(0) may return NULL */
    plan->streams = calloc(streamed + 1, sizeof *plan->streams);
    plan->states = calloc(streamed + 1, sizeof *plan->states);
    plan->releases = calloc(streamed + 1, sizeof *plan->releases);
    plan->granules = calloc(plan->granule_count, sizeof *plan->granules);
    bool complete = plan->items && plan->streams && plan->states && plan->releases && plan->granules;
    for (size_t i = 0; i < 3; i++) {
        plan->records[i] = calloc(count + 1, sizeof *plan->records[i]);
        complete = complete && plan->records[i];
    }
    if (!complete) {
        schedule_free(plan);
        return NULL;
    }
    for (size_t i = 0, slot = 0; i < count; i++) {
        item *it = &plan->items[i];
        it->first = (size_t)(items[i].offset / granule);
        it->last = (size_t)((items[i].offset + items[i].length - 1) / granule + 1);
        it->pinned = items[i].pinned;
        if (it->pinned) {
            for (size_t g = it->first; g < it->last; g++) plan->granules[g] |= PINNED;
        } else {
            plan->streams[slot] = i;
            it->slot = slot++;
        }
    }
    plan->to_the_end = pins_to_the_end(plan);
    return plan;
}

void schedule_free(schedule *plan) {
    if (!plan) return;
    free(plan->items);
    free(plan->streams);
    free(plan->states);
    free(plan->releases);
    free(plan->granules);
    for (size_t i = 0; i < 3; i++) free(plan->records[i]);
    free(plan);
}

void schedule_queue_release(schedule *plan, size_t slot) {
    plan->states[slot] = DONE;
    plan->releases[(plan->release_first + plan->release_count++) % plan->streamed] = slot;
}

size_t schedule_chunk_end(const schedule *plan, size_t first, size_t last) {
    size_t block = (size_t)(SRT_BLOCK / plan->granule);
    size_t end = first + 1;
    while (end < last && end % block != 0 && !(plan->granules[end] & POPULATED)) end++;
    return end;
}
