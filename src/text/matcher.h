/* SPDX-License-Identifier: MIT
 * What the sampler asks a matcher beside the public interface (pregate.h).
 */
#ifndef PG_TEXT_MATCHER_H
#define PG_TEXT_MATCHER_H

#include "pregate.h"

int pg_matcher_n_vocab(const pg_matcher *m);

#endif
