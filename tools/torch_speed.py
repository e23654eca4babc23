"""Training speed of PyTorch on the CPU and of `pregate train`, the same model, batch and steps, in turns.

    torch_speed.py [--rounds 5] [--steps 6] [--compile] [--gate pregate]

PyTorch gets its best of: 1 or 2 threads; experts one by one over sorted rows, or padded to one batched product; and
torch.compile, if asked for (it takes minutes). Fused attention and AdamW over all tensors at once in any case. A speed
is that of the median step of a round, the first step left out. Needs torch and numpy, and a built `pregate`.
"""
import argparse
import csv
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that wait take no time from the other program

import torch
import torch.nn.functional as F

import corpus
import torch_train
from torch_model import Model

ROOT = pathlib.Path(__file__).resolve().parent.parent


class PaddedModel(Model):
    """All experts in three batched products, rows padded to the longest."""

    def experts(self, h, blk, ids, w):
        flat = ids.flatten()
        order = flat.argsort(stable=True)
        token, expert = order // self.n_used, flat[order]
        counts = torch.bincount(flat, minlength=self.n_expert)
        longest = int(counts.max())
        rank = torch.arange(len(order)) - (counts.cumsum(0) - counts)[expert]
        place = expert * longest + rank
        rows = h.new_zeros(self.n_expert * longest, self.n_embd).index_copy(0, place, h.index_select(0, token))
        rows = rows.view(self.n_expert, longest, self.n_embd)
        gate, up, down = (self.params[f"{blk}ffn_{n}_exps.weight"].transpose(1, 2) for n in ("gate", "up", "down"))
        y = torch.bmm(F.silu(torch.bmm(rows, gate)) * torch.bmm(rows, up), down).flatten(0, 1).index_select(0, place)
        y = y * w.flatten().index_select(0, order)[:, None]
        return torch.zeros_like(h).index_add(0, token, y)


class Torch:
    """A training in PyTorch that can be gone on with."""

    def __init__(self, args, kind, threads, compiled=False):
        self.name = f"PyTorch, {kind}{', compiled' if compiled else ''}, {threads} thread{'s'[:threads - 1]}"
        make = PaddedModel if kind == "padded" else Model
        self.model = make(args.model, torch.float32, args.gate, 1)
        if compiled:
            self.model.forward = torch.compile(self.model.forward)
        self.threads, self.opt = threads, torch_train.optimiser(self.model, 3e-4)

    def speed(self, batches, n_steps):
        torch.set_num_threads(self.threads)
        times = []
        for _ in range(n_steps):
            batch = next(batches)
            begin = time.perf_counter()
            torch_train.step(self.model, self.opt, batch)
            times.append(time.perf_counter() - begin)
        return batch[0].numel() / statistics.median(times[1:])


def pregate_speed(args):
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out.gguf"
        subprocess.run([args.pregate, "train", args.model, "--data", args.data, "--gate", args.gate, "--batch", args.batch,
                        "--steps", str(args.steps), "--threads", str(args.threads), "-o", out],
                       check=True, stderr=subprocess.DEVNULL)
        with open(f"{out}.csv", encoding="utf-8") as f:
            rows = list(csv.DictReader(f))
    n_tokens = int(rows[1]["tokens"]) - int(rows[0]["tokens"])
    return n_tokens / statistics.median(float(r["seconds"]) for r in rows[1:])


def spread(speeds):
    return f"{statistics.median(speeds):.0f} ({min(speeds):.0f} to {max(speeds):.0f})"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--steps", type=int, default=6)
    p.add_argument("--threads", type=int, default=2, help="of pregate train")
    p.add_argument("--batch", default="16x256")
    p.add_argument("--gate", choices=["router", "pregate"], default="router")
    p.add_argument("--compile", action="store_true")
    p.add_argument("--model", type=pathlib.Path, default=ROOT / "models/tinystories-moe.gguf")
    p.add_argument("--data", type=pathlib.Path, default=ROOT / "tests/data/first20/stories.txt")
    p.add_argument("--pregate", type=pathlib.Path, default=ROOT / "build/pregate")
    p.add_argument("--cache", type=pathlib.Path, default=ROOT / "build/tokens")
    args = p.parse_args()
    docs = [d + [2] for d in corpus.token_documents(args.pregate, args.model, args.data, args.cache)]
    batches = torch_train.batches(docs, *map(int, args.batch.split("x")), 1)
    tried = [Torch(args, kind, threads) for kind in ("sorted", "padded") for threads in (1, 2)]
    if args.compile:
        tried += [Torch(args, kind, threads, True) for kind in ("sorted", "padded") for threads in (1, 2)]
    speeds = [[] for _ in tried]
    ours = []
    for i in range(args.rounds):
        for t, s in zip(tried, speeds):
            s.append(t.speed(batches, args.steps))
        ours.append(pregate_speed(args))
        print(f"round {i + 1}: " + ", ".join(f"{s[-1]:.0f}" for s in speeds + [ours]) + " tok/s", flush=True)
    print("\n| | tok/s, median (least to most) |\n|---|---|")
    for t, s in zip(tried, speeds):
        print(f"| {t.name} | {spread(s)} |")
    print(f"| pregate train, {args.threads} threads | {spread(ours)} |")
    best = max(range(len(tried)), key=lambda i: statistics.median(speeds[i]))
    ratios = [o / s for o, s in zip(ours, speeds[best])]
    print(f"\npregate train is {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) times as fast as {tried[best].name}")


if __name__ == "__main__":
    main()
