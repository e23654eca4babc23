/* SPDX-License-Identifier: MIT
 * What `pregate train` leaves beside the model: a row for each step, and the curve of the loss.
 */
#ifndef PG_CLI_TRAIN_CURVE_H
#define PG_CLI_TRAIN_CURVE_H

#include "cli.h"

int train_write_csv(const pg_trainer *t, const char *path, struct pg_err *err);
int train_write_svg(const pg_trainer *t, const char *path, const char *title, struct pg_err *err);

#endif
