/* SPDX-License-Identifier: MIT
 * Option structs of the interface: one table says what each field may be (ranges.c), and one
 * function takes them in. What depends on a model is checked where the model is known.
 */
#ifndef PG_BASE_RANGES_H
#define PG_BASE_RANGES_H

#include "base/err.h"

enum pg_options_kind {
    PG_OPTIONS_ENGINE,
    PG_OPTIONS_SESSION,
    PG_OPTIONS_SCHEDULER,
    PG_OPTIONS_REQUEST,
    PG_OPTIONS_SAMPLING,
    PG_OPTIONS_SYNTH,
    PG_OPTIONS_CONVERT,
    PG_OPTIONS_QUANTIZE,
    PG_OPTIONS_PACK,
    PG_OPTIONS_TRAIN,
    PG_OPTIONS_TUNE,
    PG_OPTIONS_EVAL,
    PG_OPTIONS_SIM,
    PG_OPTIONS_CHAT,
    PG_OPTIONS_REPLY
};

/* Copies a caller's option struct, which begins with its `size`, into ours; what an older, shorter
 * one lacks becomes zero. PG_EARG when the size cannot be that of such a struct, when what must be
 * given is NULL, and when a number or an enum is outside what it may be; the sentence names the
 * field. */
int pg_options_take(enum pg_options_kind kind, void *whole, const void *given, struct pg_err *err);

#endif
