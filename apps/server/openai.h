/* SPDX-License-Identifier: MIT
 * What the interfaces in OpenAI's manner have in common.
 */
#ifndef PG_SERVER_OPENAI_H
#define PG_SERVER_OPENAI_H

#include "gen.h"

#define OPENAI_FINGERPRINT "pregate-" PG_VERSION

/* A gen with an id; NULL with a fault. */
struct gen *openai_gen(struct conn *c, const struct gen_api *api, const char *prefix,
                       struct fault *f);
json_t *openai_usage(const struct gen *g);
json_t *openai_progress(const struct gen *g, int done, int total);
void openai_error(struct gen *g, const struct fault *f);
void openai_done(struct gen *g); /* data: [DONE] */

#endif
