/* SPDX-License-Identifier: MIT */
#include "helpers.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

char test_dir[64];

int make_dir(void **state)
{
    (void)state;
    /* Files that are synced take a second on a slow disk. */
    snprintf(test_dir, sizeof(test_dir), "%s/pregate-test-XXXXXX",
             access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
    return mkdtemp(test_dir) ? 0 : -1;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st, (void)type, (void)at;
    return remove(path);
}

int remove_dir(void **state)
{
    (void)state;
    return nftw(test_dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

char *in_dir(char out[128], const char *name)
{
    assert_true(snprintf(out, 128, "%s/%s", test_dir, name) < 128);
    return out;
}

char *whole_file(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        fail_msg("%s cannot be opened", path);
    fseek(f, 0, SEEK_END);
    *n = (size_t)ftell(f);
    rewind(f);
    char *bytes = malloc(*n + 1);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, *n, f), *n);
    bytes[*n] = 0;
    fclose(f);
    return bytes;
}

void put_file(const char *path, const void *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    if (!f)
        fail_msg("%s cannot be made", path);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

const char *put_text(const char *path, const char *text)
{
    put_file(path, text, strlen(text));
    return path;
}

void file_says(const char *path, const char *text)
{
    size_t n;
    char *bytes = whole_file(path, &n);
    assert_string_equal(bytes, text);
    free(bytes);
}

void says(const char *sentence, const char *words)
{
    if (!strstr(sentence, words))
        fail_msg("\"%s\" does not say \"%s\"", sentence, words);
}

void must(int rc, const struct pg_err *err)
{
    if (rc)
        fail_msg("%d: %s", rc, err->text);
}

void say_skipped(const char *test, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    printf("SKIPPED: %s: ", test);
    vprintf(format, args);
    printf("\n");
    fflush(stdout);
    va_end(args);
}
