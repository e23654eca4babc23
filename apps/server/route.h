/* SPDX-License-Identifier: MIT
 * The table of paths. A path is compared as it was sent: nothing is decoded or tidied.
 */
#ifndef PG_SERVER_ROUTE_H
#define PG_SERVER_ROUTE_H

#include "http_parse.h"

struct conn;

enum route_style { STYLE_OPENAI, STYLE_ANTHROPIC, STYLE_OLLAMA };

enum {
    ROUTE_PUBLIC = 1, /* without a key, and in every phase */
    ROUTE_WORKS = 2,  /* new work: not while draining */
    ROUTE_REST = 4,   /* the path goes on with a name */
    ROUTE_PROBE = 8   /* asked so often that good answers are not logged */
};

struct route {
    enum http_method method;
    const char *path;
    unsigned flags;
    enum route_style style;
    void (*handler)(struct conn *c);
};

/* By the head alone; replies and returns false when the request is refused. */
bool route_admit(struct conn *c);
void route_call(struct conn *c);

/* The handlers. */
void page_get(struct conn *c);
void experts_get(struct conn *c);
void experts_stream(struct conn *c);
void metrics_get(struct conn *c);
void native_health(struct conn *c);
void native_props(struct conn *c);
void native_slots(struct conn *c);
void native_tokenize(struct conn *c);
void native_detokenize(struct conn *c);
void native_apply_template(struct conn *c);
void native_completion(struct conn *c);
void openai_models(struct conn *c);
void openai_model(struct conn *c);
void openai_chat(struct conn *c);
void openai_completions(struct conn *c);
void openai_embeddings(struct conn *c);
void openai_responses(struct conn *c);
void anthropic_messages(struct conn *c);
void anthropic_count(struct conn *c);
void ollama_chat(struct conn *c);
void ollama_generate(struct conn *c);
void ollama_tags(struct conn *c);
void ollama_show(struct conn *c);
void ollama_ps(struct conn *c);
void ollama_version(struct conn *c);

#endif
