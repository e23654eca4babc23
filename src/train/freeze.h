/* SPDX-License-Identifier: MIT
 * Which tensors stay as they are: a list of names with commas between, where * stands for any
 * characters.
 */
#ifndef PG_TRAIN_FREEZE_H
#define PG_TRAIN_FREEZE_H

#include "net/net.h"

/* Sets frozen[i] of the tensors that `list` names; leaves the others. A pattern that names none is
 * an error. list NULL or "": none. */
int pg_freeze(const struct pg_params *params, const char *list, bool *frozen, struct pg_err *err);

#endif
