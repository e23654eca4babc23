/* SPDX-License-Identifier: MIT
 * Fields that the interfaces have in common, into a struct gen.
 */
#ifndef PG_SERVER_SPEC_H
#define PG_SERVER_SPEC_H

#include "gen.h"
#include "json_in.h"

/* Sampling as OpenAI has it by default, and as llama.cpp's programs have it. */
void spec_defaults_openai(struct gen *g);
void spec_defaults_native(struct gen *g);
/* temperature … logit_bias, and the extensions that local servers have; fields that would change
 * the answer and that we do not have are refused. */
void spec_sampling(struct gen *g, const struct in *in);
void spec_seed(struct gen *g, const struct in *in);
/* A string or a list of strings; empty ones are as if they were not there. */
void spec_stops(struct gen *g, const struct in *in, const char *key, size_t most);
/* grammar, json_schema, response_format: one at most. */
void spec_grammar(struct gen *g, const struct in *in);
/* The grammar of a schema; NULL: any object. */
void spec_schema(struct gen *g, const struct in *in, const char *key, const json_t *schema);
/* How many tokens an answer has at most: the last of these fields that is there; -1 is no limit.
 * `names` ends with NULL. */
void spec_most(struct gen *g, const struct in *in, const char *const *names);
/* stream, stream_options, n, and how the reply is told. */
void spec_stream(struct gen *g, const struct in *in);
/* The prompt, of a text as it is. */
void spec_prompt_text(struct gen *g, const char *text, size_t n, struct fault *f);
/* Or of a list of ids. */
void spec_prompt_ids(struct gen *g, const struct in *in, const char *key, const json_t *list);
/* An error of the library while a field was read. */
void spec_failed(const struct in *in, const char *key, const struct pg_err *err);

#endif
