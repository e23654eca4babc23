/* SPDX-License-Identifier: MIT
 * Calls that a request insists on: a grammar in the form in which the model writes them.
 */
#ifndef PG_SERVER_TOOL_GRAMMAR_H
#define PG_SERVER_TOOL_GRAMMAR_H

#include "chat_in.h"

/* Of TOOLS_REQUIRED and TOOLS_NAMED. Returns the mark that goes before calls, which the prompt has
 * to end with: what follows is JSON, in whatever form the template has calls. NULL with a fault
 * where the model writes them otherwise. */
const char *tool_grammar(struct gen *g, const struct chat_in *in, struct fault *f);

#endif
