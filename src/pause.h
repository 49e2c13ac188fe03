/* pause.h - the processor's hint for a thread that polls. */
#ifndef STREAMRT_PAUSE_H
#define STREAMRT_PAUSE_H

/* Gives the units of the core to its other thread for a moment. Does nothing on a processor without such a hint. */
static inline void srt_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#endif
