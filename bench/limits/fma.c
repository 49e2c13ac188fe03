/* The peak of the multiply-add units: chains of multiply-adds in registers, which read no memory.
 *
 * A unit begins one or two multiply-adds a cycle and takes 4 or 5 cycles for each. So 12 independent chains keep two
 * units busy, and 24 keep four busy. More chains than that need more registers than there are. */

#include <string.h>

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif

typedef float vec __attribute__((vector_size(BYTES)));

#define TWELVE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define TWELVE_MORE(X) X(12) X(13) X(14) X(15) X(16) X(17) X(18) X(19) X(20) X(21) X(22) X(23)
#if defined(__AVX512F__) || defined(__aarch64__) /* 32 registers; else there are 16 */
#define EACH_CHAIN(X) TWELVE(X) TWELVE_MORE(X)
#else
#define EACH_CHAIN(X) TWELVE(X)
#endif

#define COUNT(i) +1
#define BEGIN(i) vec chain##i = half * (float)(i);
#define STEP(i) chain##i = chain##i * half + half;
#define ADD(i) total += chain##i;

/* Takes `turns` steps in every chain and returns the operations; a multiply-add counts as two. The sum of the chains
 * goes to `result`, which has BYTES bytes, so that the compiler leaves nothing out. Call it with 0.5 for `start`: every
 * chain then tends to 1, and no step meets a denormal number. */
double multiply_add(long turns, float start, void *result) {
    vec half = {0}, total = {0};
    half += start;
    EACH_CHAIN(BEGIN)
    for (long turn = 0; turn < turns; turn++) {
        EACH_CHAIN(STEP)
    }
    EACH_CHAIN(ADD)
    memcpy(result, &total, BYTES);
    return 2.0 * (EACH_CHAIN(COUNT)) * (BYTES / sizeof(float)) * (double)turns;
}
