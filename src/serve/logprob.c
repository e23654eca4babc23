/* SPDX-License-Identifier: MIT */
#include "serve/scheduler.h"

#include <math.h>

/* log(sum exp(logits)), without overflow. */
static double log_sum(const float *logits, int n)
{
    float most = logits[0];
    double sum = 0;
    for (int i = 1; i < n; i++)
        most = PG_MAX(most, logits[i]);
    for (int i = 0; i < n; i++)
        sum += (double)pg_expf(logits[i] - most);
    return (double)most + log(sum);
}

void pg_logprobs(const float *logits, int n_vocab, struct pg_token *out, int32_t *top_id,
                 float *top_logprob)
{
    const double sum = log_sum(logits, n_vocab);
    int n = 0;
    out->logprob = (float)((double)logits[out->id] - sum);
    out->n_top = PG_MIN(out->n_top, n_vocab);
    for (int i = 0; i < n_vocab && out->n_top > 0; i++) {
        const float p = (float)((double)logits[i] - sum);
        int at = n < out->n_top ? n : out->n_top;
        while (at > 0 && top_logprob[at - 1] < p) /* of equals the lower id is first */
            at--;
        if (at == out->n_top)
            continue;
        n = PG_MIN(n + 1, out->n_top);
        for (int j = n - 1; j > at; j--) {
            top_id[j] = top_id[j - 1];
            top_logprob[j] = top_logprob[j - 1];
        }
        top_id[at] = i;
        top_logprob[at] = p;
    }
}
