/* SPDX-License-Identifier: MIT
 * What is wrong with a request, and how each interface says it.
 */
#ifndef PG_SERVER_ERROR_H
#define PG_SERVER_ERROR_H

#include <pregate.h>

#include <jansson.h>

struct conn;

struct fault {
    int status;       /* 0: nothing is wrong */
    const char *code; /* a constant for programs, or NULL */
    char param[64];   /* the field; "" = none */
    char text[512];
};

/* The first fault stays. param may be NULL. */
__attribute__((format(printf, 4, 5))) void fault_set(struct fault *f, int status, const char *param,
                                                     const char *fmt, ...);
/* Of an error of the library: whose fault it is follows from the code. */
void fault_of(struct fault *f, const struct pg_err *err);
/* How the interface of this connection's route says it; a new reference. */
json_t *fault_json(const struct conn *c, const struct fault *f);
void fault_reply(struct conn *c, const struct fault *f);
__attribute__((format(printf, 3, 4))) void reply_error(struct conn *c, int status, const char *fmt,
                                                       ...);
/* Takes j. */
void reply_json(struct conn *c, int status, json_t *j);

#endif
