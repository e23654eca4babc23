"""Reference of a trained model in float64: logits of a prompt, 60 greedy tokens, perplexity on the held-out text.

    dump_reference.py [MODEL] [--out FILE.ref.json]

Computed on the weights as stored, by tools/torch_model.py. Needs torch and numpy, and a built `pregate` for the
tokens.
"""
import argparse
import json
import pathlib

import torch
import torch.nn.functional as F

import corpus
from torch_model import Model

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROMPT = "once upon a time, there was a little girl named lily. she liked to"


def greedy(model, ids, n):
    ids = list(ids)
    for _ in range(n):
        ids.append(model.forward(torch.tensor([ids]))[0][0, -1].argmax().item())
    return ids


def held_out(model, docs, n_ctx):
    """Perplexity per token of the first n_ctx tokens of each document, beginning-of-text not counted."""
    nll, n = 0.0, 0
    docs = sorted((d[:n_ctx] for d in docs), key=len)
    for i in range(0, len(docs), 8):
        part = docs[i:i + 8]
        length = max(map(len, part))
        rows = torch.tensor([d + [-1] * (length - len(d)) for d in part])
        logits = model.forward(rows.clamp(min=0))[0][:, :-1]
        nll += F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), ignore_index=-1, reduction="sum").item()
        n += (rows[:, 1:] >= 0).sum().item()
    return torch.tensor(nll / n, dtype=torch.float64).exp().item(), n


@torch.no_grad()
def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("model", nargs="?", type=pathlib.Path, default=ROOT / "models/tinystories-moe.gguf")
    p.add_argument("--out", type=pathlib.Path, default=ROOT / "tests/data/tinystories/tinystories-moe.ref.json")
    p.add_argument("--held", type=pathlib.Path, default=ROOT / "models/data/tinystories.heldout.txt")
    p.add_argument("--pregate", type=pathlib.Path, default=ROOT / "build/pregate")
    p.add_argument("--cache", type=pathlib.Path, default=ROOT / "build/tokens")
    args = p.parse_args()
    model = Model(args.model)
    ids = corpus.tokenize(args.pregate, args.model, PROMPT)
    logits = model.forward(torch.tensor([ids]))[0][0]
    more = greedy(model, ids, 60)
    ppl, n = held_out(model, corpus.token_documents(args.pregate, args.model, args.held, args.cache), 256)
    result = {"prompt": PROMPT, "ids": ids, "logits_f64": [[round(v, 9) for v in row] for row in logits.tolist()],
              "greedy_60_ids": more[len(ids):], "heldout_ppl_per_token_first256": ppl, "heldout_tokens": n}
    args.out.write_text(json.dumps(result) + "\n")
    print(f"{args.out}: {len(ids)} tokens, held-out perplexity {ppl:.6f} over {n} tokens")


if __name__ == "__main__":
    main()
