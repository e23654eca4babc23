"""Losses and gradients of small batches by PyTorch in float64, for tests/unit/test_net_torch.c.

    dump_gradients.py [--out tests/data/gradients] [MODEL...]

Needs torch and numpy. A file for each tiny model and gate: the batch (several documents in a row, targets left out; of
a model with an encoder several pairs, and padding), the losses of src/net/net.h, and of each parameter's gradient the
sum, the norm, and values at up to 16 places: 8 spread evenly, 8 where it is largest.
"""
import argparse
import json
import pathlib

import numpy as np
import torch

from torch_model import Pairs, open_model, pairs_row

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODELS = [  # file, pre-gate levels
    ("gguf_moe/gqa_mixtral", [1]),
    ("gguf_moe/qwen_scale", [1]),
    ("gen_moe/qwen3moe", [1]),
    ("gen_moe/olmoe", [1]),
    ("gen_moe/mixed", [1, 2]),
    ("stories260K/stories260K", []),
    ("gen_moe/switch", [1]),  # its stacks have two blocks with experts each
    ("gen_moe/t5dense", []),
    ("gen_moe/t5gated", []),
]
STARTS = [[0], [0, 7, 15], [0, 1, 18]]  # of the documents in each row
SEQ_LEN = 22
PAIRS = [[(9, 7), (6, 5), (5, 6)], [(22, 19)], [(1, 1), (12, 9), (4, 4)]]  # tokens of source and target, in each row
SOURCE_LEN, TARGET_LEN = 22, 19
BALANCE, STICKY = 0.01, 0.1
LEAST_GAP = 1e-4  # between the last chosen probability and the first that was not


def batch(n_vocab, seed):
    random = np.random.default_rng(seed)
    token = random.integers(0, n_vocab, (len(STARTS), SEQ_LEN))
    start, target = np.zeros_like(token), np.full_like(token, -1)
    for row, begins in enumerate(STARTS):
        for a, b in zip(begins, begins[1:] + [SEQ_LEN]):
            start[row, a:b] = a
            target[row, a:b - 1] = token[row, a + 1:b]
    target[0, 3] = -1
    return {name: torch.tensor(x) for name, x in (("token", token), ("target", target), ("start", start))}


def pairs_batch(n_vocab, start_token, seed):
    random, rows = np.random.default_rng(seed), []
    for lengths in PAIRS:
        pairs = []
        for n_source, n_target in lengths:
            target = random.integers(1, n_vocab, n_target).tolist()
            pairs.append((random.integers(1, n_vocab, n_source).tolist(), target))
        rows.append(pairs_row(pairs, (SOURCE_LEN, TARGET_LEN), start_token))
    batch = {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}
    batch["target"][0, 3] = -1
    return batch


def gap(gates, n_used):
    """How far the closest choice was from another one."""
    least = 1.0
    for g in gates:
        top = g.p.topk(n_used + 1, -1).values
        least = min(least, (top[:, :-1] - top[:, 1:]).min().item())
    return least


def places(g):
    n = g.numel()
    if n <= 16:
        return list(range(n))
    largest = g.abs().flatten().argsort(descending=True, stable=True)[:8].tolist()
    return sorted(set(largest + [(2 * i + 1) * n // 16 for i in range(8)]))


def clear_batch(m):
    """One without a near tie, where a hundred have one."""
    n_vocab = m.params["token_embd.weight"].shape[0]
    for seed in range(100):
        drawn = pairs_batch(n_vocab, m.start_token, seed) if isinstance(m, Pairs) else batch(n_vocab, seed)
        token, _, *more = drawn.values()
        with torch.no_grad():
            gates = m.forward(token, *more)[1]
        if not gates or gap(gates, m.n_used) > LEAST_GAP:
            break
    return drawn


def gradient(p):
    g = torch.zeros_like(p) if p.grad is None else p.grad
    at = places(g)
    return {"n": g.numel(), "sum": g.sum().item(), "norm": g.norm().item(), "max": g.abs().max().item(), "at": at,
            "value": g.flatten()[at].tolist()}


def dump(name, gate, level):
    m = open_model(ROOT / "tests/data" / f"{name}.gguf", torch.float64, gate, level)
    cache = 2 * m.n_used
    if cache >= m.n_expert:
        cache = max(m.n_used, m.n_expert - 1) if m.n_expert else 0
    chosen = clear_batch(m)
    losses = m.losses(chosen.values(), BALANCE, STICKY, cache)
    losses["total"].backward()
    n_seq, seq_len = chosen["token"].shape
    lengths = {"n_seq": n_seq, "seq_len": seq_len}
    if "source" in chosen:
        lengths["source_len"] = chosen["source"].shape[1]
    return {"model": f"{name}.gguf", "gate": gate, "level": level, **lengths,
            "balance_weight": BALANCE, "sticky_weight": STICKY, "sticky_cache": cache,
            **{k: v.flatten().tolist() for k, v in chosen.items()}, **{k: v.item() for k, v in losses.items()},
            "params": {k: gradient(p) for k, p in m.params.items()}}


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--out", type=pathlib.Path, default=ROOT / "tests/data/gradients")
    p.add_argument("models", nargs="*", metavar="MODEL", help="such as switch; all where none is named")
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name, levels in MODELS:
        if args.models and pathlib.Path(name).name not in args.models:
            continue
        for gate, level in [("router", 0)] + [("pregate", level) for level in levels]:
            result = dump(name, gate, max(1, level))
            path = args.out / f"{pathlib.Path(name).name}-{gate}{level or ''}.json"
            path.write_text(json.dumps(result) + "\n")
            print(path, " ".join(f"{k} {result[k]:.6f}" for k in ("total", "nll", "balance", "sticky")))


if __name__ == "__main__":
    main()
