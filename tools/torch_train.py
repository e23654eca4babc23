"""Trains in PyTorch what `pregate train` trains: the same weights, batches, losses, clipping and AdamW.

    torch_train.py MODEL --data FILE... [--gate pregate --level 1] [--steps 20] [--batch 4x128] [--json OUT]

A model with an encoder learns from JSON lines {"source": text, "target": text}; its --batch is 4x96x64, sequences x
tokens of sources x tokens of timelines. MODEL may be letters:FILE, FILE being one of tests/data without a vocabulary
(tests/e2e/tiny_model.py gives it one). Prints a line a step; with --json writes the losses. Needs torch and numpy, and
a built `pregate` for the tokens. tests/data/first20 was made by it (tools/README.md has the commands).
"""
import argparse
import hashlib
import itertools
import json
import pathlib
import sys
import tempfile
import time

import torch

import corpus
from gguf_read import read_gguf
from torch_model import Pairs, open_model, pairs_row

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA = ROOT / "tests/data"
sys.path.append(str(ROOT / "tests/e2e"))
from tiny_model import lettered  # noqa: E402
MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
BETAS, EPS, DECAY, CLIP = (0.9, 0.95), 1e-8, 0.01, 1.0


# ---------------------------------------------------------------- batches, as in src/data/batches.h


def mix(x):
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


def random_at(seed, stream, n):
    return mix(mix(mix(seed + GOLDEN & MASK) + stream * GOLDEN & MASK) + (n + 1) * GOLDEN & MASK)


def shuffled(n, seed, stream):
    order = list(range(n))
    for i in range(n - 1, 0, -1):
        j = random_at(seed, stream, i) % (i + 1)
        order[i], order[j] = order[j], order[i]
    return order


def rows(docs, length, seed):
    """(token, target, start) of one row after another, without end."""
    pieces = [(d, at, min(length, len(d) - at)) for d in docs for at in range(0, len(d), length) if len(d) - at > 1]
    epoch, order = 0, shuffled(len(pieces), seed, 0)
    while True:
        token, target, start = [], [], []
        while len(token) < length:
            if not order:
                epoch += 1
                order = shuffled(len(pieces), seed, epoch)
            doc, at, n = pieces[order.pop(0)]
            begin = len(token)
            for i in range(at, at + min(n, length - begin)):
                token.append(doc[i])
                target.append(doc[i + 1] if i + 1 < len(doc) else -1)
                start.append(begin)
        yield token, target, start


def batches(docs, n_seq, length, seed):
    return batches_of(rows(docs, length, seed), n_seq)


def batches_of(source, n_seq):
    while True:
        yield [torch.tensor(x) for x in zip(*(next(source) for _ in range(n_seq)))]


def cut_pair(pair, lengths, end):
    """The end of a source always stays; that of a target only where there is room."""
    (source, target), (source_len, seq_len) = pair, lengths
    return source[:source_len - 1] + [end], (target + [end])[:seq_len]


def fits(row, lengths):
    return all(sum(len(pair[i]) for pair in row) <= lengths[i] for i in range(2))


def rows_of_pairs(pairs, lengths, seed, start_token):
    """One row after another, without end (pairs_row): filled with pairs as long as the next one fits. The last row of an
    epoch goes on with pairs of the next."""
    row = []
    for epoch in itertools.count():
        for n in shuffled(len(pairs), seed, epoch):
            if not fits(row + [pairs[n]], lengths):
                yield list(pairs_row(row, lengths, start_token).values())
                row = []
            row.append(pairs[n])


def pair_batches(args, model, n_seq, *lengths):
    pairs = []
    for path in args.data:
        pairs += corpus.token_pairs(args.pregate, args.model, path)
    pairs = [cut_pair(pair, lengths, end_token(args)) for pair in pairs]
    return batches_of(rows_of_pairs(pairs, lengths, args.seed, model.start_token), n_seq)


# ---------------------------------------------------------------- steps


def optimiser(model, lr):
    matrices = [p for p in model.params.values() if p.dim() > 1]
    vectors = [p for p in model.params.values() if p.dim() == 1]
    return torch.optim.AdamW([{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}],
                             lr=lr, betas=BETAS, eps=EPS, foreach=True)


def step(model, opt, batch, balance=0.01, sticky=0.0, sticky_cache=0):
    losses = model.losses(batch, balance, sticky, sticky_cache)
    opt.zero_grad(set_to_none=True)
    losses["total"].backward()
    norm = torch.nn.utils.clip_grad_norm_([p for p in model.params.values() if p.grad is not None], CLIP, foreach=True)
    opt.step()
    return losses, norm


def read_docs(args):
    docs = []
    for path in args.data:
        docs += corpus.token_documents(args.pregate, args.model, path, args.cache)
    return [d + [end_token(args)] for d in docs]


def end_token(args):
    return read_gguf(args.model)[0]["tokenizer.ggml.eos_token_id"] if args.eos is None else args.eos


def options(p):
    p.add_argument("model", type=pathlib.Path)
    p.add_argument("--data", nargs="+", type=pathlib.Path, required=True)
    p.add_argument("--gate", choices=["router", "pregate"], default="router")
    p.add_argument("--level", type=int, default=1)
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--batch", default="16x256")
    p.add_argument("--lr", type=float, default=3e-4)
    p.add_argument("--balance", type=float, default=0.01)
    p.add_argument("--sticky", type=float, default=0.0)
    p.add_argument("--sticky-cache", type=int, default=0)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--double", action="store_true", help="float64")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--eos", type=int, help="the token that ends a text (the file's)")
    p.add_argument("--pregate", type=pathlib.Path, default=ROOT / "build/pregate")
    p.add_argument("--cache", type=pathlib.Path, default=ROOT / "build/tokens")
    return p


def train(args):
    """The losses of each step."""
    n_seq, *lengths = map(int, args.batch.split("x"))
    model = open_model(args.model, torch.float64 if args.double else torch.float32, args.gate, args.level)
    if isinstance(model, Pairs):
        source = pair_batches(args, model, n_seq, *lengths)
    else:
        source = batches(read_docs(args), n_seq, *lengths, args.seed)
    opt, steps = optimiser(model, args.lr), []
    for i in range(args.steps):
        begin = time.time()
        losses, norm = step(model, opt, next(source), args.balance, args.sticky, args.sticky_cache)
        seconds = time.time() - begin
        steps.append({"loss": losses["nll"].item(), "balance": losses["balance"].item(),
                      "sticky": losses["sticky"].item(), "grad_norm": norm.item()})
        print(i + 1, " ".join(f"{k} {v:.6f}" for k, v in steps[-1].items()), f"{n_seq * sum(lengths) / seconds:.0f} tok/s",
              flush=True)
    return steps


def main():
    p = options(argparse.ArgumentParser(description=__doc__.split("\n")[0]))
    p.add_argument("--json", type=pathlib.Path)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    kept = {k: getattr(args, k) for k in ("gate", "level", "batch", "lr", "balance", "sticky", "sticky_cache", "seed")}
    with tempfile.TemporaryDirectory() as folder:
        if str(args.model).startswith("letters:"):
            kept["model"] = {"letters": str(args.model).split(":")[1]}
            args.model = pathlib.Path(lettered(f"{folder}/model.gguf", DATA / kept["model"]["letters"]))
        kept["model_sha256"] = hashlib.sha256(args.model.read_bytes()).hexdigest()
        steps = train(args)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({**kept, "steps": steps}, indent=1) + "\n")


if __name__ == "__main__":
    main()
