/* SPDX-License-Identifier: MIT
 * Runs a command and writes the peak of its resident memory, in bytes, to a file.
 *
 *     peak_of FILE [--into PROCS] COMMAND ARGUMENT…
 *
 * PROCS is the file of a control group that lists its processes: the command alone runs in it.
 * The kernel carries the peak of a process over exec, so whoever starts the command must itself be
 * small; the interpreter that runs the budget test is larger than the budgets it tests.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static void run(const char *procs, char **command)
{
    FILE *f = procs ? fopen(procs, "w") : NULL;
    if (procs && (!f || fputs("0", f) < 0 || fclose(f))) {
        fprintf(stderr, "%s: %s\n", procs, strerror(errno));
        _exit(126);
    }
    execv(command[0], command);
    fprintf(stderr, "%s: %s\n", command[0], strerror(errno));
    _exit(127);
}

int main(int argc, char **argv)
{
    bool into = argc > 4 && !strcmp(argv[2], "--into");
    struct rusage usage;
    int status;
    if (argc < 3) {
        fprintf(stderr, "usage: peak_of FILE COMMAND...\n");
        return 2;
    }
    const pid_t child = fork();
    if (child == 0)
        run(into ? argv[3] : NULL, argv + (into ? 4 : 2));
    FILE *out = fopen(argv[1], "w");
    if (child < 0 || !out || wait4(child, &status, 0, &usage) != child) {
        fprintf(stderr, "peak_of: %s\n", strerror(errno));
        return 126;
    }
    fprintf(out, "%ld\n", usage.ru_maxrss * 1024);
    if (fclose(out))
        return 126;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
