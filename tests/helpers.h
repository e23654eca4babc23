/* SPDX-License-Identifier: MIT
 * What test programs share: a folder of their own, whole files, and ends that say why. Include it
 * first: cmocka's header wants three others before it.
 */
#ifndef PG_TESTS_HELPERS_H
#define PG_TESTS_HELPERS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "pregate.h"

#ifndef PG_EMULATED /* built for another machine, run by qemu-user */
#define PG_EMULATED 0
#endif

extern char
    test_dir[64]; /* between make_dir and remove_dir: an empty folder, in memory if possible */

/* As set-up and tear-down of a group; state is not looked at. */
int make_dir(void **state);
int remove_dir(void **state); /* with all that is in it */

/* The path of a file there. Returns out. */
char *in_dir(char out[128], const char *name);
#define IN_DIR(name)                                                                               \
    in_dir((char[128]){0}, name) /* the text lives as long as the block around it */

/* Fails unless all of it can be read. The caller frees; a zero follows the n bytes. */
char *whole_file(const char *path, size_t *n);
void put_file(const char *path, const void *bytes, size_t n);
void file_says(const char *path, const char *text);       /* fails unless that is all of it */
const char *put_text(const char *path, const char *text); /* returns path */

/* Fails unless the words are in the sentence. */
void says(const char *sentence, const char *words);

/* Fails with the sentence of err unless rc is 0. */
void must(int rc, const struct pg_err *err);

/* Ends the test and says what was not checked; ./check prints such lines and counts them. */
#define skip_because(...)                                                                          \
    do {                                                                                           \
        say_skipped(__func__, __VA_ARGS__);                                                        \
        skip();                                                                                    \
    } while (0)
/* The same where a test has more to do: one line, and the test goes on. */
void say_skipped(const char *test, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Whether the address or the thread sanitizer is in: its own memory is in no plan. */
#if defined(__has_feature)
#define HAS_FEATURE(x) __has_feature(x)
#else
#define HAS_FEATURE(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) ||                               \
    HAS_FEATURE(address_sanitizer) || HAS_FEATURE(thread_sanitizer)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

#endif
