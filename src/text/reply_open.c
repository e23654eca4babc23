/* SPDX-License-Identifier: MIT */
#include "base/ranges.h"
#include "text/reply_impl.h"

#include <string.h>

int pg_reply_open(pg_reply **out, const struct pg_reply_options *opt, struct pg_err *err)
{
    struct pg_reply_options o;
    *out = NULL;
    PG_TRY(pg_options_take(PG_OPTIONS_REPLY, &o, opt, err));
    if (!o.vocab)
        return pg_fail(err, PG_EARG, "options: vocab: none given");
    const char *source = o.chat ? pg_chat_source(o.chat) : NULL;
    const struct pg_reply_form form = pg_reply_form_of(source, source ? strlen(source) : 0);
    return pg_reply_open_form(out, &o, &form, err);
}
