"""Faults of the room core."""

from __future__ import annotations

from faults.fault import CORE, Fault

FAULTS = (
    Fault(
        "window-unchecked",
        "core",
        "src/io/prefetch.c",
        "need <= plan->window - p->held_streamed;",
        "need <= plan->window;",
        "up to two windows of streamed weights are held",
        CORE,
    ),
    Fault(
        "released-first",
        "core",
        "src/io/prefetch.c",
        " && !reads_before_release(p)",
        "",
        "a granule that the next range needs is released and read again",
        CORE,
    ),
    Fault(
        "mapped-again",
        "core",
        "src/os_linux.c",
        "        unmap_pages(fd, base, offset, length, blocks);\n        posix_fadvise",
        "        if (attempt == 1) unmap_pages(fd, base, offset, length, blocks);\n        posix_fadvise",
        "pages that a fault maps again during their release stay in the page cache",
        CORE,
    ),
    Fault(
        "kept-forgotten",
        "core",
        "src/io/prefetch.c",
        "    if (pause == 0) {",
        "    if (true) {",
        "pages that the page cache keeps at their release stay in it while the thread is idle",
        CORE,
    ),
    Fault(
        "kept-at-the-end",
        "core",
        "src/io/prefetch.c",
        "    if (old && release_pending(&p->releaser)) release_again(&p->releaser, old);\n",
        "",
        "pages that the page cache keeps at their release stay in it after the prefetcher stops",
        CORE,
    ),
    Fault(
        "ahead-of-others",
        "core",
        "src/io/prefetch.c",
        "plan->to_the_end ? SRT_BLOCKS_AHEAD : SRT_BLOCKS;",
        "SRT_BLOCKS_AHEAD;",
        "the kernel reads blocks ahead of a window",
        CORE,
    ),
    Fault(
        "ahead-forgotten",
        "core",
        "src/io/prefetch.c",
        "        if (p->ahead) catch_up(p, p->plan);\n        take_over",
        "        take_over",
        "blocks that the kernel has read ahead stay in the page cache when the schedule changes",
        CORE,
    ),
    Fault(
        "ahead-of-a-failure",
        "core",
        "src/io/prefetch.c",
        "return there && after.bytes_read",
        "return !there || after.bytes_read",
        "blocks behind one that cannot be read stay in the page cache when the prefetcher stops",
        CORE,
    ),
    Fault(
        "steps-counted",
        "core",
        "src/bind/steps.pxi",
        "            stepped(count)",
        "            stepped(i)",
        "a progress bar has another length after each step",
        CORE,
    ),
)
