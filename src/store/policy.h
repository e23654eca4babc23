/* SPDX-License-Identifier: MIT
 * Eviction policies. They see keys and ticks only, no bytes and no threads, so that each can be
 * replayed against a recorded route trace in milliseconds.
 *
 * A key is block * n_expert + expert. The tick counts waves: it grows by one for each block of each
 * step, so as many ticks as a step has blocks are one cycle.
 */
#ifndef PG_STORE_POLICY_H
#define PG_STORE_POLICY_H

#include "base/err.h"

struct pg_policy;

/* Blocks [first, first + n). */
struct pg_span {
    int first, n;
};

int pg_policy_open(struct pg_policy **out, enum pg_evict kind, int n_block, int n_expert,
                   int n_slots, struct pg_err *err);
void pg_policy_close(struct pg_policy *p);
void pg_policy_reset(struct pg_policy *p); /* all slots are empty, nothing was ever used */
size_t pg_policy_heap_bytes(int n_block, int n_expert, int n_slots);
/* From now on steps go through these blocks; until then through all. The others come again after
 * an unknown number of steps. */
void pg_policy_span(struct pg_policy *p, struct pg_span span);
/* The first n blocks of a step are known on demand only, all others for certain before: a miss
 * there is waited for in full, elsewhere it hides behind computing. */
void pg_policy_expose(struct pg_policy *p, int n_block);
void pg_policy_tick(struct pg_policy *p, int block);          /* a wave of this block begins */
void pg_policy_use(struct pg_policy *p, int key);             /* wanted by the wave */
void pg_policy_admit(struct pg_policy *p, int slot, int key); /* key now lives in slot */
void pg_policy_remove(struct pg_policy *p, int slot);         /* slot is empty now */
/* What is known of the future: key will be wanted in `distance` ticks; certain or not. */
void pg_policy_hint(struct pg_policy *p, int key, int distance, bool certain);
/* The slot to give up among those with may[slot] != 0; -1 if none. */
int pg_policy_victim(struct pg_policy *p, const uint8_t *may);

#endif
