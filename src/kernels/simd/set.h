/* set.h - how functions of an instruction set are declared; each vec_*.h defines SET and TARGET and includes it first.
 */
#ifndef STREAMRT_SET_H
#define STREAMRT_SET_H

#define V static inline __attribute__((always_inline)) TARGET
#define FN static TARGET

/* srt_avx2_table and so on: a name for each instruction set, because other units see it. */
#define EXPORT(name) EXPORT_OF(SET, name)
#define EXPORT_OF(set, name) EXPORT_AS(set, name)
#define EXPORT_AS(set, name) srt_##set##_##name

#endif
