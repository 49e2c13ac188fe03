/* python.c - runs aarch64's Python under qemu. Tests start processes by sys.executable, which this program is. It is
 * linked statically, because a test may preload a library for aarch64. Compiled with QEMU, ROOT and PYTHON, paths.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int count, char **arguments) {
    const char **command = calloc((size_t)count + 6, sizeof *command);
    if (command == NULL) return 127;
    int n = 0;
    command[n++] = QEMU;
    command[n++] = "-0"; /* Python looks for pyvenv.cfg beside the program of this name */
    command[n++] = arguments[0];
    command[n++] = "-L";
    command[n++] = ROOT;
    command[n++] = PYTHON;
    for (int i = 1; i < count; i++) command[n++] = arguments[i];
    execv(QEMU, (char *const *)command);
    perror(QEMU);
    return 127;
}
