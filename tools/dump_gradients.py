"""Losses and gradients of small batches by PyTorch in float64, for tests/unit/test_net_torch.c.

    dump_gradients.py [--out tests/data/gradients]

Needs torch and numpy. A file for each tiny model and gate: the batch (several documents in a row, targets left out),
the losses of src/net/net.h, and of each parameter's gradient the sum, the norm, and values at up to 16 places: 8
spread evenly, 8 where it is largest.
"""
import argparse
import json
import pathlib

import numpy as np
import torch

from torch_model import Model

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODELS = [  # file, pre-gate levels
    ("gguf_moe/gqa_mixtral", [1]),
    ("gguf_moe/qwen_scale", [1]),
    ("gen_moe/qwen3moe", [1]),
    ("gen_moe/olmoe", [1]),
    ("gen_moe/mixed", [1, 2]),
    ("stories260K/stories260K", []),
]
STARTS = [[0], [0, 7, 15], [0, 1, 18]]  # of the documents in each row
SEQ_LEN = 22
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
    return (torch.tensor(x) for x in (token, target, start))


def gap(gates, n_used):
    """How far the closest choice was from another one."""
    least = 1.0
    for g in gates:
        top = g.p.topk(n_used + 1, -1).values
        least = min(least, (top[:, n_used - 1] - top[:, n_used]).min().item(),
                    (top[:, :n_used - 1] - top[:, 1:n_used]).min().item())
    return least


def places(g):
    n = g.numel()
    if n <= 16:
        return list(range(n))
    largest = g.abs().flatten().argsort(descending=True, stable=True)[:8].tolist()
    return sorted(set(largest + [(2 * i + 1) * n // 16 for i in range(8)]))


def dump(name, gate, level):
    m = Model(ROOT / "tests/data" / f"{name}.gguf", torch.float64, gate, level)
    n_vocab, cache = m.params["token_embd.weight"].shape[0], 2 * m.n_used
    if cache >= m.n_expert:
        cache = max(m.n_used, m.n_expert - 1) if m.n_expert else 0
    for seed in range(100):
        token, target, start = batch(n_vocab, seed)
        with torch.no_grad():
            gates = m.forward(token, start)[1]
        if not gates or gap(gates, m.n_used) > LEAST_GAP:
            break
    losses = m.losses((token, target, start), BALANCE, STICKY, cache)
    losses["total"].backward()
    params = {}
    for key, p in m.params.items():
        g = torch.zeros_like(p) if p.grad is None else p.grad
        at = places(g)
        params[key] = {"n": g.numel(), "sum": g.sum().item(), "norm": g.norm().item(),
                       "max": g.abs().max().item(), "at": at, "value": g.flatten()[at].tolist()}
    return {"model": f"{name}.gguf", "gate": gate, "level": level, "n_seq": len(STARTS), "seq_len": SEQ_LEN,
            "balance_weight": BALANCE, "sticky_weight": STICKY, "sticky_cache": cache,
            "token": token.flatten().tolist(), "target": target.flatten().tolist(),
            "start": start.flatten().tolist(), **{k: v.item() for k, v in losses.items()}, "params": params}


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--out", type=pathlib.Path, default=ROOT / "tests/data/gradients")
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name, levels in MODELS:
        for gate, level in [("router", 0)] + [("pregate", level) for level in levels]:
            result = dump(name, gate, max(1, level))
            path = args.out / f"{pathlib.Path(name).name}-{gate}{level or ''}.json"
            path.write_text(json.dumps(result) + "\n")
            print(path, " ".join(f"{k} {result[k]:.6f}" for k in ("total", "nll", "balance", "sticky")))


if __name__ == "__main__":
    main()
