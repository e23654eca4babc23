/* SPDX-License-Identifier: MIT
 * Runs a fuzz target over the files of its corpus, so that what fuzzing once found stays a test in
 * builds that have no libFuzzer. Each file is given in an exact-size copy: reading one byte past
 * the input is then visible to the address sanitizer. An empty or missing corpus is a failure.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Returns 0 when the target has seen the whole file. */
static int replay(const char *path)
{
    struct stat st;
    FILE *f = fopen(path, "rb");
    if (!f || fstat(fileno(f), &st) || !S_ISREG(st.st_mode)) {
        fprintf(stderr, "%s: not a readable file\n", path);
        if (f)
            fclose(f);
        return 1;
    }
    size_t n = (size_t)st.st_size;
    uint8_t *data = malloc(n ? n : 1);
    int rc = !data || fread(data, 1, n, f) != n;
    fclose(f);
    if (rc)
        fprintf(stderr, "%s: cannot be read whole\n", path);
    else
        LLVMFuzzerTestOneInput(data, n);
    free(data);
    return rc;
}

int main(int argc, char **argv)
{
    int n_files = 0, n_bad = 0;
    DIR *dir = argc == 2 ? opendir(argv[1]) : NULL;
    if (!dir) {
        fprintf(stderr, "usage: %s CORPUS_FOLDER\n", argv[0]);
        return 2;
    }
    for (struct dirent *e; (e = readdir(dir));) {
        char path[4096];
        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "%s/%s", argv[1], e->d_name);
        n_bad += replay(path);
        n_files++;
    }
    closedir(dir);
    printf("%d files replayed, %d unreadable\n", n_files, n_bad);
    return n_bad || !n_files;
}
