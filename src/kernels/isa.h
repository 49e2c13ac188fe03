/* isa.h - which instruction set the kernels run on.
 *
 * The choice is made once, when the module is imported, and may be forced by name. It is read without a lock: change it
 * only while no kernel runs. The set "numpy" has the loops of "scalar", but NumPy computes the products.
 */
#ifndef STREAMRT_ISA_H
#define STREAMRT_ISA_H

#include <stdbool.h>

/* The name of an instruction set, a static string: isa counts from 0, the best last. NULL when isa is out of range. */
const char *srt_isa_name(int isa);

/* Whether this processor and operating system run it; isa must be in range. Any thread. */
bool srt_isa_available(int isa);

/* The name of the instruction set in use, a static string. Any thread. */
const char *srt_isa_active(void);

/* Use the named instruction set, or the best available one when name is NULL or empty.
 * Returns false, and changes nothing, when the name is unknown or the processor cannot run it. */
bool srt_isa_use(const char *name);

#endif
