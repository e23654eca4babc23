/* SPDX-License-Identifier: MIT
 * Conversations: what the interfaces bring is put into OpenAI's form, checked, and made a prompt by
 * the model's template.
 */
#ifndef PG_SERVER_CHAT_IN_H
#define PG_SERVER_CHAT_IN_H

#include "gen.h"
#include "json_in.h"

enum tool_choice { TOOLS_AUTO, TOOLS_NONE, TOOLS_REQUIRED, TOOLS_NAMED };

/* A conversation. `messages` and `tools` are as OpenAI's chat completions have them; the references
 * are the struct's own. */
struct chat_in {
    json_t *messages, *tools, *variables; /* variables: what the template sees beside them */
    enum tool_choice choice;
    const char *tool;   /* of TOOLS_NAMED */
    bool no_generation; /* the template is not asked to begin an answer */
    bool no_prefill;    /* a last message of the assistant is one like the others */
    const char *path;   /* of the messages, in faults: "messages" */
};

void chat_in_fini(struct chat_in *in);
/* The fields of OpenAI's body. */
void chat_in_read(struct chat_in *in, struct gen *g, const struct in *body);
/* What the template sees beside them: chat_template_kwargs, and how much is to be reasoned. */
void chat_in_variables(struct chat_in *in, const struct in *body, const char *effort);
/* Checks it, and fills in the prompt, and what of the reply has to be known. */
void chat_in_prompt(struct chat_in *in, struct gen *g, struct fault *f);
/* How an interface has conversations: its answers, what their ids begin with, and its body. */
struct chat_way {
    const struct gen_api *api;
    const char *prefix;
    void (*read)(struct chat_in *in, struct gen *g, const struct in *body);
};
/* A request from its body to the scheduler, or to the fault that it is answered with. */
void chat_in_serve(struct conn *c, const struct chat_way *way);
/* The prompt's text alone, malloced. */
char *chat_in_text(struct chat_in *in, struct gen *g, struct fault *f);

#endif
