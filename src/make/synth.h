/* SPDX-License-Identifier: MIT
 * The sizes of a named shape, for who needs no file of it.
 */
#ifndef PG_MAKE_SYNTH_H
#define PG_MAKE_SYNTH_H

#include <stdbool.h>

/* has_encoder: n_layer in the encoder and as many in the decoder, every second with experts, whose
 * matrices are two; else all layers have experts of three matrices, if there are any. */
struct pg_synth_dims {
    bool has_encoder;
    int n_layer, n_embd, n_q, n_kv; /* n_q: heads times their width */
    int n_ff, n_ff_shexp;           /* n_ff: of an expert, where there are experts */
    int n_expert, n_used, n_vocab;
};
/* False for a name that is none of pg_synth_shape_name. */
bool pg_synth_dims(const char *name, struct pg_synth_dims *out);

#endif
