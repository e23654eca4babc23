/* SPDX-License-Identifier: MIT
 * Keys and values of one session: [n_layer][n_head_kv][n_ctx][head_dim], f16 or f32.
 */
#ifndef PG_MODEL_KV_H
#define PG_MODEL_KV_H

#include "model/model.h"

struct pg_kv {
    enum pg_kv_type type;
    int n_ctx;
    void *k, *v;
    size_t bytes; /* of both; one mapping that starts at k */
};

size_t pg_kv_bytes(const struct pg_hparams *h, int n_ctx, enum pg_kv_type type);
int pg_kv_open(struct pg_kv *kv, const struct pg_hparams *h, int n_ctx, enum pg_kv_type type,
               struct pg_err *err);
void pg_kv_close(struct pg_kv *kv);

#endif
