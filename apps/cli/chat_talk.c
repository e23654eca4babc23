/* SPDX-License-Identifier: MIT
 * A conversation, twice: as messages, which the template makes a text of, and as the tokens that
 * the session has evaluated. An answer keeps the tokens that it was sampled with: where the text of
 * the next prompt begins with that of all before, only the rest is tokenized. Where the template
 * has rewritten an earlier turn (most leave out old reasoning), the whole text is, and the session
 * keeps what it has in common with it.
 */
#include "chat.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

/* ChatML, for models that were trained on it and whose file does not say so. */
static const char chatml[] =
    "{%- for m in messages -%}"
    "{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}";

int chat_buf_put(struct chat_buf *b, const char *s, size_t n, struct pg_err *err)
{
    if (n > b->cap - b->n) {
        const size_t cap = 2 * (b->n + n) + 256;
        char *larger = realloc(b->s, cap);
        if (!larger)
            return cli_fail(err, PG_ENOMEM, "chat: no memory for %zu bytes of text", cap);
        b->s = larger;
        b->cap = cap;
    }
    if (n)
        memcpy(b->s + b->n, s, n);
    b->n += n;
    return 0;
}

/* ---------------------------------------------------------------- opening ------------------- */

static int context_of(const struct cli_args *a)
{
    return a->n_ctx ? a->n_ctx : 4096;
}

size_t chat_talk_most(const struct chat_talk *t)
{
    return 16 * (size_t)t->n_ctx + 4096;
}

/* The conversation as messages, text and tokens, and what the template works in: some ten copies of
 * a text of 4 or 5 bytes a token, and more where one is being made; and what lines are edited in.
 */
static uint64_t own_bytes(const struct cli_args *a)
{
    return (2u << 20) + 192 * (uint64_t)context_of(a);
}

static void sampling_init(struct chat_talk *t)
{
    const struct cli_args *a = t->args;
    uint32_t random = 1;
    if (!a->seed_given && getrandom(&random, sizeof(random), 0) != (ssize_t)sizeof(random))
        random = (uint32_t)cli_now_ns();
    t->sampling = cli_sampling_of(a, a->seed_given ? a->seed : random);
}

int cli_template_open(pg_chat **out, const struct cli_args *args, struct pg_err *err)
{
    struct pg_chat_options opt = {PG_CHAT_OPTIONS_INIT, .model = args->subject};
    const char *name = args->chat_template;
    char *file = NULL;
    size_t n_file = 0;
    if (name && !strcmp(name, "chatml")) {
        opt.source = chatml;
        opt.n_source = strlen(chatml);
    } else if (name) {
        const int rc = cli_file_read(name, &file, &n_file, err);
        if (rc)
            return rc;
        opt.source = file;
        opt.n_source = n_file;
    }
    const int rc = pg_chat_open(out, &opt, err);
    free(file);
    return rc;
}

static int engine_open(struct chat_talk *t, struct pg_err *err)
{
    struct pg_options opt;
    struct pg_model_info info;
    uint64_t bytes;
    int rc = cli_grammar_open(&t->grammar, t->args, &bytes, err);
    if (rc)
        return rc;
    cli_engine_options(&opt, t->args, &t->progress);
    opt.caller_bytes = own_bytes(t->args) + bytes;
    rc = pg_engine_open(&t->engine, &opt, err);
    if (rc)
        return rc;
    pg_engine_plan(t->engine, &t->plan);
    pg_engine_info(t->engine, &info);
    if (info.decoder_start >= 0)
        return cli_fail(err, PG_ENOTSUP, "%s: a model with an encoder has no conversations",
                        t->args->subject);
    t->n_ctx = context_of(t->args);
    if (!t->args->n_ctx && info.n_ctx_train > 0 && info.n_ctx_train < t->n_ctx)
        t->n_ctx = info.n_ctx_train;
    return pg_session_open(&t->session, t->engine, NULL, err);
}

int chat_talk_open(struct chat_talk *t, const struct cli_args *args, struct pg_err *err)
{
    const bool terminal = isatty(STDOUT_FILENO);
    *t = (struct chat_talk){
        .args = args, .thinks_shown = terminal, .colour = terminal && !getenv("NO_COLOR")};
    sampling_init(t);
    int rc = cli_template_open(&t->template, t->args, err);
    rc = rc ? rc : engine_open(t, err);
    if (rc)
        return rc;
    t->messages = json_array();
    t->ids = malloc((size_t)t->n_ctx * sizeof(*t->ids));
    if (!t->messages || !t->ids)
        return cli_fail(err, PG_ENOMEM, "chat: no memory for a conversation of %d tokens",
                        t->n_ctx);
    return args->system ? chat_talk_system(t, args->system, strlen(args->system), err) : 0;
}

void chat_talk_close(struct chat_talk *t)
{
    cli_grammar_close(&t->grammar);
    pg_session_close(t->session);
    pg_engine_close(t->engine);
    pg_chat_close(t->template);
    json_decref(t->messages);
    free(t->ids);
    free(t->text.s);
    free(t->answer.s);
    free(t->reasoning.s);
}

/* ---------------------------------------------------------------- messages ------------------ */

static json_t *message_make(const char *role, const char *text, size_t n)
{
    json_t *m = json_object();
    if (m && (json_object_set_new(m, "role", json_string(role)) ||
              json_object_set_new(m, "content", cli_json_text(text, n)))) {
        json_decref(m);
        m = NULL;
    }
    return m;
}

static bool is_role(const struct chat_talk *t, size_t i, const char *role)
{
    const char *found = json_string_value(json_object_get(json_array_get(t->messages, i), "role"));
    return found && !strcmp(found, role);
}

static int message_add(struct chat_talk *t, json_t *m, struct pg_err *err)
{
    return json_array_append_new(t->messages, m)
               ? cli_fail(err, PG_ENOMEM, "chat: no memory for a message")
               : 0;
}

static void message_drop_last(struct chat_talk *t)
{
    json_array_remove(t->messages, json_array_size(t->messages) - 1);
}

int chat_talk_system(struct chat_talk *t, const char *text, size_t n, struct pg_err *err)
{
    json_t *m = n ? message_make("system", text, n) : NULL;
    if (is_role(t, 0, "system"))
        json_array_remove(t->messages, 0);
    if (n && (!m || json_array_insert_new(t->messages, 0, m)))
        return cli_fail(err, PG_ENOMEM, "chat: no memory for a message");
    return 0;
}

void chat_talk_clear(struct chat_talk *t)
{
    const size_t first = is_role(t, 0, "system") ? 1 : 0;
    while (json_array_size(t->messages) > first)
        message_drop_last(t);
}

/* ---------------------------------------------------------------- files --------------------- */

int chat_talk_save(const struct chat_talk *t, const char *path, struct pg_err *err)
{
    struct cli_outfile f;
    if (cli_same_target(path, t->args->subject) || cli_same_target(path, t->args->chat_template))
        return cli_fail(err, PG_EARG, "%s would be written, but it is an input", path);
    int rc = cli_outfile_check(path, false, err);
    rc = rc ? rc : cli_outfile_open(&f, path, err);
    if (rc)
        return rc;
    json_t *o = json_pack("{s:O}", "messages", t->messages);
    if (!o)
        rc = cli_fail(err, PG_ENOMEM, "%s: out of memory", path);
    else if (json_dumpf(o, f.stream, JSON_INDENT(2)) || fputc('\n', f.stream) == EOF)
        rc = cli_outfile_failed(&f, err);
    else
        rc = cli_outfile_commit(&f, err);
    json_decref(o);
    cli_outfile_abandon(&f);
    return rc;
}

/* The i-th message out of a file: texts, of somebody who is known. */
static int message_check(const char *path, size_t i, const json_t *m, struct pg_err *err)
{
    static const char *const roles[] = {"system", "user", "assistant"};
    const char *role = json_string_value(json_object_get(m, "role"));
    bool known = false;
    for (size_t r = 0; role && r < sizeof(roles) / sizeof(roles[0]); r++)
        known |= !strcmp(role, roles[r]);
    const json_t *reasoning = json_object_get(m, "reasoning_content");
    if (known && json_is_string(json_object_get(m, "content")) &&
        (!reasoning || json_is_string(reasoning)))
        return 0;
    return cli_fail(err, PG_EFORMAT,
                    "%s: messages[%zu]: an object with the role system, user or assistant and a "
                    "text as content is wanted",
                    path, i);
}

int chat_talk_load(struct chat_talk *t, const char *path, struct pg_err *err)
{
    const size_t most =
        4 * chat_talk_most(t); /* as JSON; more is no conversation of this context */
    json_error_t why;
    struct stat st;
    if (!stat(path, &st) && (!S_ISREG(st.st_mode) || (uint64_t)st.st_size > most))
        return cli_fail(err, PG_EARG, "%s: a file of at most %zu bytes is wanted", path, most);
    json_t *file = json_load_file(path, JSON_REJECT_DUPLICATES, &why);
    json_t *messages = json_object_get(file, "messages"), *m;
    size_t i;
    int rc = 0;
    if (!file && why.line < 0)
        rc = cli_fail(err, PG_EIO, "%s", why.text);
    else if (!file)
        rc = cli_fail(err, PG_EFORMAT, "%s:%d: %s", path, why.line, why.text);
    else if (!json_is_array(messages))
        rc = cli_fail(err, PG_EFORMAT, "%s: no list \"messages\", which /save writes", path);
    json_array_foreach(messages, i, m)
    {
        rc = rc ? rc : message_check(path, i, m, err);
    }
    if (!rc) {
        json_decref(t->messages);
        t->messages = json_incref(messages);
    }
    json_decref(file);
    return rc;
}

/* ---------------------------------------------------------------- the prompt ---------------- */

static char *request_make(const struct chat_talk *t)
{
    json_t *o = json_pack("{s:O, s:b}", "messages", t->messages, "add_generation_prompt", 1);
    if (o && (t->args->think || t->args->no_think))
        json_object_set_new(o, "enable_thinking", json_boolean(t->args->think));
    char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    return text;
}

static int render(const struct chat_talk *t, struct pg_chat_text *out, struct pg_err *err)
{
    char *request = request_make(t);
    if (!request)
        return cli_fail(err, PG_ENOMEM, "chat: no memory for the conversation");
    const int rc = pg_chat_render(t->template, request, strlen(request), out, err);
    free(request);
    return rc;
}

static size_t text_size(const struct pg_chat_text *p)
{
    size_t n = 0;
    for (int i = 0; i < p->n; i++)
        n += p->segment[i].n;
    return n;
}

static bool begins_with(const struct pg_chat_text *p, const struct chat_buf *have)
{
    size_t at = 0;
    for (int i = 0; i < p->n && at < have->n; i++) {
        const size_t left = have->n - at, n = p->segment[i].n < left ? p->segment[i].n : left;
        if (memcmp(p->segment[i].text, have->s + at, n) != 0)
            return false;
        at += n;
    }
    return at == have->n;
}

static int tokenize(const pg_vocab *v, const struct pg_chat_text *p, struct pg_ids *ids,
                    struct pg_err *err)
{
    size_t most = 3 * text_size(p) + 3;
    for (;;) {
        *ids = (struct pg_ids){.id = malloc(most * sizeof(*ids->id)), .cap = most};
        if (!ids->id)
            return cli_fail(err, PG_ENOMEM, "chat: no memory for %zu ids", most);
        const int rc = pg_chat_tokenize(v, p, ids, err);
        if (rc != PG_EARG || ids->n <= most)
            return rc;
        most = ids->n;
        free(ids->id);
    }
}

/* The ids of the prompt behind the first `skip` bytes, which the conversation has already. */
static int tokenize_rest(const struct chat_talk *t, const struct pg_chat_text *p, size_t skip,
                         struct pg_ids *ids, struct pg_err *err)
{
    const pg_vocab *v = pg_engine_vocab(t->engine);
    struct pg_segment *rest = malloc(((size_t)p->n + 1) * sizeof(*rest));
    struct pg_chat_text of_rest = {.segment = rest};
    if (!rest)
        return cli_fail(err, PG_ENOMEM, "chat: no memory for the conversation");
    const bool begins = skip == 0;
    for (int i = 0; i < p->n; i++) {
        struct pg_segment s = p->segment[i];
        const size_t cut = s.n < skip ? s.n : skip;
        skip -= cut;
        s.text += cut;
        s.n -= cut;
        if (s.n)
            rest[of_rest.n++] = s;
    }
    const int rc = tokenize(v, &of_rest, ids, err);
    free(rest);
    /* In the middle of a text no beginning is wanted. */
    if (!rc && !begins && ids->n && ids->id[0] == pg_vocab_bos(v))
        memmove(ids->id, ids->id + 1, --ids->n * sizeof(*ids->id));
    return rc;
}

static int take_prompt(struct chat_talk *t, const struct pg_chat_text *p, struct pg_err *err)
{
    const bool goes_on = t->went_on = begins_with(p, &t->text);
    const size_t n_kept = goes_on ? t->n_ids : 0;
    struct pg_ids ids = {0};
    int rc = tokenize_rest(t, p, goes_on ? t->text.n : 0, &ids, err);
    if (!rc && n_kept + ids.n >= (size_t)t->n_ctx)
        rc = cli_fail(err, PG_ECONTEXT,
                      "the context is full: with this message the conversation has %zu tokens, and "
                      "the context %d",
                      n_kept + ids.n, t->n_ctx);
    if (!rc) {
        memcpy(t->ids + n_kept, ids.id, ids.n * sizeof(*ids.id));
        t->n_ids = t->n_prompt_ids = n_kept + ids.n;
        t->text.n = 0;
        for (int i = 0; !rc && i < p->n; i++)
            rc = chat_buf_put(&t->text, p->segment[i].text, p->segment[i].n, err);
        t->n_prompt_text = t->text.n;
    }
    free(ids.id);
    return rc;
}

static int prompt_run(struct chat_talk *t, struct pg_err *err)
{
    struct pg_chat_text p = {0};
    int rc = render(t, &p, err);
    if (!rc)
        rc = take_prompt(t, &p, err);
    pg_chat_text_free(&p);
    if (rc)
        return rc;
    struct pg_stats done;
    pg_engine_stats(t->engine, &t->before);
    rc = pg_session_sync(t->session, t->ids, t->n_ids, err);
    pg_engine_stats(t->engine, &done);
    t->at_prompt = done;
    t->n_reused = t->n_ids -
                  (size_t)(done.n_prompt + done.n_decode - t->before.n_prompt - t->before.n_decode);
    cli_progress_clear();
    return rc;
}

/* ---------------------------------------------------------------- the answer ---------------- */

static void show_mode(struct chat_talk *t, bool reasoning)
{
    if (reasoning == t->in_reasoning)
        return;
    t->in_reasoning = reasoning;
    if (t->colour)
        fputs(reasoning ? "\033[2m" : "\033[0m\n\n", stdout);
    else
        fputs(reasoning ? "[thinking]\n" : "\n[/thinking]\n\n", stdout);
}

static void on_part(void *user, const struct pg_reply_part *part)
{
    struct chat_talk *t = user;
    const bool reasoning = part->kind == PG_REPLY_REASONING;
    if (t->failed.code)
        return;
    if (chat_buf_put(reasoning ? &t->reasoning : &t->answer, part->text, part->n, &t->failed))
        return;
    if (reasoning && !t->thinks_shown)
        return;
    cli_progress_clear();
    show_mode(t, reasoning);
    cli_print_safe(stdout, part->text, part->n);
    if (fflush(stdout))
        cli_stdout_failed(&t->failed);
}

/* One token more. */
static int answer_step(struct chat_talk *t, pg_reply *reply, struct pg_detok *raw, bool *ended,
                       struct pg_err *err)
{
    const pg_vocab *v = pg_engine_vocab(t->engine);
    const int n_predict = t->args->n_predict;
    char piece[PG_PIECE_MAX];
    int32_t id;
    *ended = true;
    int rc = pg_session_sample(t->session, &t->sampling, &id, err);
    if (rc)
        return rc;
    t->stop = CHAT_STOP_END;
    if (pg_vocab_is_end(v, id))
        return 0;
    t->ids[t->n_ids++] = id;
    rc = chat_buf_put(&t->text, piece, pg_detokenize(raw, id, piece), err);
    rc = rc ? rc : pg_reply_put(reply, id, err);
    if (!rc && t->failed.code)
        rc = (*err = t->failed).code;
    if (!rc && cli_grammar_ends(&t->grammar))
        return 0;
    t->stop = CHAT_STOP_LENGTH;
    if (rc || (n_predict >= 0 && t->n_ids - t->n_prompt_ids >= (size_t)n_predict))
        return rc;
    t->stop = CHAT_STOP_CONTEXT;
    if (t->n_ids == (size_t)t->n_ctx)
        return 0;
    *ended = false;
    const struct pg_row row = {.session = t->session, .tokens = &id, .n = 1};
    return pg_step(t->engine, &row, 1, err);
}

static int answer_run(struct chat_talk *t, pg_reply *reply, struct pg_err *err)
{
    struct pg_detok raw = {.vocab = pg_engine_vocab(t->engine)};
    bool ended = t->args->n_predict == 0;
    int rc = cli_grammar_begin(&t->grammar, t->engine, err);
    t->sampling.matcher = t->grammar.matcher;
    t->stop = CHAT_STOP_LENGTH;
    while (!rc && !ended && !cli_interrupted())
        rc = answer_step(t, reply, &raw, &ended, err);
    if (rc == PG_ECANCELLED && cli_interrupted())
        rc = 0;
    if (!ended && !rc)
        t->stop = CHAT_STOP_INTERRUPTED;
    const int at_end = rc ? 0 : pg_reply_end(reply, err);
    if (!rc && !at_end && t->failed.code)
        rc = (*err = t->failed).code;
    show_mode(t, false);
    putchar('\n');
    fflush(stdout);
    pg_engine_stats(t->engine, &t->at_end);
    return rc ? rc : at_end;
}

static int answer_keep(struct chat_talk *t, struct pg_err *err)
{
    json_t *m = message_make("assistant", t->answer.s ? t->answer.s : "", t->answer.n);
    if (m && t->reasoning.n)
        json_object_set_new(m, "reasoning_content", cli_json_text(t->reasoning.s, t->reasoning.n));
    return message_add(t, m, err);
}

/* Whether what came is worth keeping when it did not end well. */
static int answer(struct chat_talk *t, struct pg_err *err)
{
    pg_reply *reply = NULL;
    t->answer.n = t->reasoning.n = 0;
    t->in_reasoning = false;
    t->failed.code = 0;
    int rc = prompt_run(t, err);
    if (rc)
        return rc;
    const struct pg_reply_options opt = {PG_REPLY_OPTIONS_INIT,
                                         .chat = t->template,
                                         .vocab = pg_engine_vocab(t->engine),
                                         .prompt = t->text.s,
                                         .n_prompt = t->text.n,
                                         .part = on_part,
                                         .user = t};
    rc = pg_reply_open(&reply, &opt, err);
    rc = rc ? rc : answer_run(t, reply, err);
    pg_reply_close(reply);
    if (!rc && t->n_ids == t->n_prompt_ids && t->stop == CHAT_STOP_INTERRUPTED)
        return cli_fail(err, PG_ECANCELLED, "interrupted before the answer began");
    return rc ? rc : answer_keep(t, err);
}

int chat_talk_say(struct chat_talk *t, const char *text, size_t n, struct pg_err *err)
{
    const size_t n_text = t->text.n, n_ids = t->n_ids;
    int rc = message_add(t, message_make("user", text, n), err);
    if (rc)
        return rc;
    t->went_on = true;
    rc = answer(t, err);
    if (rc) {
        message_drop_last(t);
        t->text.n = t->went_on ? n_text : 0;
        t->n_ids = t->went_on ? n_ids : 0;
    }
    return rc;
}

int chat_talk_retry(struct chat_talk *t, struct pg_err *err)
{
    const size_t n = json_array_size(t->messages);
    const bool answered = n && is_role(t, n - 1, "assistant");
    if (n < 1 + (size_t)answered || !is_role(t, n - 1 - (size_t)answered, "user"))
        return cli_fail(err, PG_EARG, "there is no message to answer");
    json_t *old = answered ? json_incref(json_array_get(t->messages, n - 1)) : NULL;
    if (old) {
        message_drop_last(t);
        t->text.n = t->n_prompt_text;
        t->n_ids = t->n_prompt_ids;
    }
    const int rc = answer(t, err);
    struct pg_err ignored;
    if (rc && old)
        message_add(t, json_incref(old), &ignored);
    json_decref(old);
    return rc;
}
