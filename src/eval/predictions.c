/* SPDX-License-Identifier: MIT */
#include "eval/predictions.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static const char *const mark_names[2][3] = {{"exact_match", "f1", NULL},
                                             {"rouge1", "rouge2", "rougeL"}};

static json_t *gold_of(const struct pg_item *item)
{
    json_t *list = json_array();
    for (int i = 0; list && i < item->n_answers; i++) {
        if (json_array_append_new(list, json_string(item->answer[i]))) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

/* NULL when out of memory; what is set to NULL counts as that. */
static json_t *object_of(const struct pg_item *item, const char *answer, const double *mark)
{
    const char *const *name = mark_names[item->question == NULL];
    json_t *o = json_object();
    int failed = 0;
    if (item->question && item->id)
        failed |= json_object_set_new(o, "id", json_string(item->id));
    failed |= item->question ? json_object_set_new(o, "question", json_string(item->question))
                             : json_object_set_new(o, "document", json_string(item->passage));
    failed |= json_object_set_new(o, "answer", json_string(answer));
    failed |= json_object_set_new(o, "gold", gold_of(item));
    for (int i = 0; i < 3 && name[i]; i++)
        failed |= json_object_set_new(o, name[i], json_real(mark[i]));
    if (!failed)
        return o;
    json_decref(o);
    return NULL;
}

int pg_prediction_write(struct pg_outfile *f, const struct pg_item *item, const char *answer,
                        const double *mark, struct pg_err *err)
{
    json_t *o = object_of(item, answer, mark);
    char *line = o ? json_dumps(o, 0) : NULL;
    int rc = line ? pg_outfile_write(f, line, strlen(line), err)
                  : pg_fail(err, PG_ENOMEM, "out of memory: a line of predictions");
    rc = rc ? rc : pg_outfile_write(f, "\n", 1, err);
    free(line);
    json_decref(o);
    return rc;
}
