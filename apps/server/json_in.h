/* SPDX-License-Identifier: MIT
 * JSON from outside: what it may cost is found before it is read, and each field has a type and a
 * range. null is as if a field were not there.
 */
#ifndef PG_SERVER_JSON_IN_H
#define PG_SERVER_JSON_IN_H

#include "error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ledger;

/* Bytes of memory that the values of a text take at most, or 0 with a fault: too deep. */
size_t json_weight(const char *text, size_t n, struct fault *f);
/* The object that a text is, whose weight is known and charged; or NULL with a fault. */
json_t *json_read_object(const char *text, size_t n, struct fault *f);
/* The object that the body is, or NULL with a fault; what it takes is charged with the body. */
json_t *json_body(struct conn *c, struct fault *f);
/* The object that a text in the body is, charged likewise. NULL where it is none, which is no
 * fault; too little memory is one. */
json_t *json_inner(struct conn *c, const char *text, size_t n, struct fault *f);

/* Fields of an object. After a fault nothing more is read, so that the first is the one that is
 * told. */
struct in {
    const json_t *object;
    struct fault *fault;
    const char *path; /* before the names in messages: "options." */
};

__attribute__((format(printf, 3, 4))) void in_wrong(const struct in *in, const char *key,
                                                    const char *fmt, ...);
json_t *in_get(const struct in *in, const char *key); /* NULL: absent or null */
void in_bool(const struct in *in, const char *key, bool *out);
void in_int(const struct in *in, const char *key, int64_t min, int64_t max, int64_t *out);
void in_int32(const struct in *in, const char *key, int min, int max, int *out);
void in_real(const struct in *in, const char *key, double min, double max, float *out);
/* NULL where absent. */
const char *in_text(const struct in *in, const char *key);
json_t *in_array(const struct in *in, const char *key, size_t most);
json_t *in_object(const struct in *in, const char *key);
/* The index in `names`, which ends with NULL, or -1 where absent. */
int in_choice(const struct in *in, const char *key, const char *const *names);
/* Fields that we do not have, and that would change the answer: 0, false, "" and empty lists are
 * all they may say. `names` ends with NULL. */
void in_refuse(const struct in *in, const char *const *names);

#endif
