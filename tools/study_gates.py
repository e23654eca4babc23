"""Which form of pre-gate names the next router's choice best: fits them all to one model and compares.

    study_gates.py [--level 1] [--seeds 1,2,3] [--forms a,b,...] [--out DIR]

Needs torch and numpy, and a built `pregate` for the tokens. Each result is kept in DIR (one JSON a form, level and
seed) and not computed again. Prints a Markdown table. See docs/decisions/007-gate-forms.md.
"""
import argparse
import json
import pathlib
import time

import torch
import torch.nn.functional as F

import corpus
from torch_model import Model

N_TRAIN, N_STOP, N_HELD, N_CTX = 150_000, 15_000, 25_000, 256
EPOCHS, BATCH, LR, DECAY = 12, 1024, 2e-3, 0.01
ROOT = pathlib.Path(__file__).resolve().parent.parent


# ---------------------------------------------------------------- states


def take(docs, order, n):
    """Documents in this order until n tokens, each cut to the context."""
    out, count = [], 0
    while count < n:
        out.append(docs[order.pop(0)][:N_CTX])
        count += len(out[-1])
    return out


@torch.no_grad()
def collect(model, docs):
    """h, p [block, n, ...], ids [block, n, k] of every token, and what the token and the one before it are."""
    h, p, ids, token, first = [], [], [], [], []
    for i in range(0, len(docs), 16):
        part = docs[i:i + 16]
        length = max(map(len, part))
        rows = torch.tensor([d + [0] * (length - len(d)) for d in part])
        real = torch.tensor([[j < len(d) for j in range(length)] for d in part]).flatten()
        gates = model.forward(rows)[1]
        h.append(torch.stack([g.h[real] for g in gates]))
        p.append(torch.stack([g.p[real] for g in gates]))
        ids.append(torch.stack([g.ids[real] for g in gates]))
        token.append(rows.flatten()[real])
        first.append(torch.tensor([[j == 0 for j in range(length)] for _ in part]).flatten()[real])
    return {"h": torch.cat(h, 1), "p": torch.cat(p, 1), "ids": torch.cat(ids, 1), "token": torch.cat(token),
            "first": torch.cat(first)}


def states(args, model):
    kept = args.out / "states.pt"
    if kept.exists():
        return torch.load(kept)
    read = lambda name, n: corpus.token_documents(args.pregate, args.model, ROOT / "models/data" / name, args.out, n)
    train, held = read("stories.train.txt.xz", 1200), read("tinystories.heldout.txt", None)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0)).tolist()
    data = {"stop": collect(model, take(train, order, N_STOP)), "train": collect(model, take(train, order, N_TRAIN)),
            "held": collect(model, take(held, list(range(len(held))), N_HELD))}
    torch.save(data, kept)
    return data


# ---------------------------------------------------------------- forms


class Inputs:
    """The inputs of the pre-gates of blocks 0 ... n - 1 and what they are to name."""

    def __init__(self, s, model, level):
        n = s["h"].shape[0] - level
        self.level, self.s, self.n = level, s, n
        self.target, self.target_ids = s["p"][level:], s["ids"][level:]
        emb = model.params["token_embd.weight"].detach()
        self.emb = emb * torch.rsqrt(emb.square().mean(-1, keepdim=True) + model.eps)

    def get(self, name, i):
        s, n = self.s, self.n
        if name == "h":
            return s["h"][:n, i]
        if name == "emb":  # the token's own embedding, normalised
            return self.emb[s["token"][i]].expand(n, -1, -1)
        if name == "p":  # the probabilities of this block's router
            return s["p"][:n, i]
        if name == "route":  # what this block chose, with its weights
            p = s["p"][:n, i]
            w = p.gather(-1, s["ids"][:n, i])
            return torch.zeros_like(p).scatter(-1, s["ids"][:n, i], w / w.sum(-1, keepdim=True))
        if name == "before":  # the state of the block before (block 0: its own)
            at = torch.tensor([max(0, b - 1) for b in range(n)])
            return s["h"][at[:, None], i]
        if name == "last":  # what the target block's router said of the token before
            at = (i - 1).clamp(min=0)
            return s["p"][self.level:, at] * (~s["first"][i]).to(s["p"].dtype)[None, :, None]
        raise KeyError(name)


class PreGate(torch.nn.Module):
    """logits = W h + sum of V_x x over further inputs + U silu(D [h, x...]) + bias, scaled; blocks side by side."""

    def __init__(self, form, routers, inputs):
        super().__init__()
        self.form = form
        n, n_expert, n_embd = routers.shape
        probe = torch.zeros(1, dtype=torch.long)
        sizes = {x: inputs.get(x, probe).shape[-1] for x in form["inputs"]}
        make = lambda *shape: torch.nn.Parameter(torch.zeros(n, *shape))
        self.w = torch.nn.Parameter(routers.clone(), requires_grad=form.get("linear", True))
        self.v = torch.nn.ParameterDict({x: make(m, n_expert) for x, m in sizes.items()})
        self.bias = make(1, n_expert) if form.get("bias") else None
        self.scale = torch.nn.Parameter(torch.zeros(n, 1, 1)) if form.get("scale") else None
        self.hidden = form.get("hidden", 0)
        if self.hidden:
            wide = n_embd + sum(sizes.values())
            self.down = torch.nn.Parameter(torch.randn(n, wide, self.hidden) / wide ** 0.5)
            self.down_bias = make(1, self.hidden)
            self.up = make(self.hidden, n_expert)

    def forward(self, inputs, i):
        h = inputs.get("h", i)
        xs = [inputs.get(x, i) for x in self.form["inputs"]]
        y = torch.bmm(h, self.w.transpose(1, 2))
        for x, v in zip(xs, self.v.values()):
            y = y + torch.bmm(x, v)
        if self.hidden:
            y = y + torch.bmm(F.silu(torch.bmm(torch.cat([h] + xs, -1), self.down) + self.down_bias), self.up)
        if self.bias is not None:
            y = y + self.bias
        return y * self.scale.exp() if self.scale is not None else y

    def cost(self):
        """Parameters and multiply-adds of one block; biases are no multiply-adds."""
        parts = [p for p in self.parameters() if p is self.w or p.requires_grad]
        n = self.w.shape[0]
        return sum(p.numel() for p in parts) // n, sum(p.numel() for p in parts if p.shape[1] > 1) // n


def form(*inputs, **more):
    return {"inputs": list(inputs), **more}


FORMS = {
    "router folded": form(linear=False),
    "temperature": form(linear=False, scale=True),
    "linear": form(),
    "linear, bias": form(bias=True),
    "linear, set": form(loss="set"),
    "linear, multi-label": form(loss="labels", bias=True),
    "hidden 16": form(hidden=16),
    "hidden 32": form(hidden=32),
    "hidden 64": form(hidden=64),
    "hidden 128": form(hidden=128),
    "linear + token": form("emb"),
    "linear + probabilities": form("p"),
    "linear + route": form("route"),
    "linear + state before": form("before"),
    "linear + last token's": form("last"),
    "linear + token + probabilities": form("emb", "p"),
    "hidden 32 + token": form("emb", hidden=32),
    "hidden 64 + token": form("emb", hidden=64),
    "hidden 32 + probabilities": form("p", hidden=32),
    "hidden 32 + token + probabilities": form("emb", "p", hidden=32),
    "hidden 64 + token + probabilities": form("emb", "p", hidden=64),
    "hidden 64 + last token's": form("last", hidden=64),
    "hidden 128 + token + probabilities": form("emb", "p", hidden=128),
    "hidden 128 + token + before + last": form("emb", "before", "last", hidden=128),
    "hidden 64, set": form(hidden=64, loss="set"),
    "linear, KL and set": form(loss="both"),
    "hidden 16, KL and set": form(hidden=16, loss="both"),
    "hidden 32, KL and set": form(hidden=32, loss="both"),
    "hidden 64, KL and set": form(hidden=64, loss="both"),
    "hidden 128, KL and set": form(hidden=128, loss="both"),
}


# ---------------------------------------------------------------- fitting and measuring


def loss_of(kind, logits, p, ids):
    """[block] mean loss."""
    if kind == "set":  # cross-entropy with all weight on the chosen, equally
        return -logits.log_softmax(-1).gather(-1, ids).mean((1, 2))
    if kind == "labels":
        return F.binary_cross_entropy_with_logits(logits, torch.zeros_like(p).scatter(-1, ids, 1.0), reduction="none").mean((1, 2))
    kl = (p * (p.clamp(min=1e-12).log() - logits.log_softmax(-1))).sum(-1).mean(1)
    return kl + loss_of("set", logits, p, ids) if kind == "both" else kl


def chunks(n, size=8192):
    return (torch.arange(i, min(n, i + size)) for i in range(0, n, size))


@torch.no_grad()
def loss_on(gate, inputs):
    n = inputs.target.shape[1]
    return sum(loss_of(gate.form.get("loss"), gate(inputs, i), inputs.target[:, i], inputs.target_ids[:, i]) * len(i)
               for i in chunks(n)) / n


def fit(gate, train, stop, seed):
    """AdamW, learning rate falling to nothing; of each block, the epoch that was best on the text set aside."""
    params = [p for p in gate.parameters() if p.requires_grad]
    best, kept = loss_on(gate, stop), [p.detach().clone() for p in params]
    if not params:
        return
    n, random = train.target.shape[1], torch.Generator().manual_seed(seed)
    opt = torch.optim.AdamW(params, lr=LR, weight_decay=DECAY, foreach=True)
    n_steps = EPOCHS * (n // BATCH)
    fall = torch.optim.lr_scheduler.LambdaLR(opt, lambda step: 1 - step / n_steps)
    for _ in range(EPOCHS):
        order = torch.randperm(n, generator=random)
        for b in range(n // BATCH):
            i = order[b * BATCH:(b + 1) * BATCH]
            loss = loss_of(gate.form.get("loss"), gate(train, i), train.target[:, i], train.target_ids[:, i])
            opt.zero_grad(set_to_none=True)
            loss.sum().backward()
            opt.step()
            fall.step()
        now = loss_on(gate, stop)
        better = now < best
        best = torch.where(better, now, best)
        for p, k in zip(params, kept):
            k[better] = p.detach()[better]
    with torch.no_grad():
        for p, k in zip(params, kept):
            p.copy_(k)


@torch.no_grad()
def measure(gate, inputs):
    """Per block: recall of the k chosen by the k (k + 1, k + 2) named, mass, precision of the first, KL."""
    k, n = inputs.target_ids.shape[-1], inputs.target.shape[1]
    total = {}
    for i in chunks(n):
        logits, p, ids = gate(inputs, i), inputs.target[:, i], inputs.target_ids[:, i]
        named = logits.topk(k + 2, -1).indices
        hit = (named[..., None] == ids[..., None, :]).any(-1).float()  # [block, n, k + 2]
        part = {"recall": hit[..., :k].sum(-1) / k, "recall+1": hit[..., :k + 1].sum(-1) / k,
                "recall+2": hit.sum(-1) / k, "precision1": hit[..., 0],
                "mass": p.gather(-1, named[..., :k]).sum(-1) / p.gather(-1, ids).sum(-1),
                "kl": (p * (p.clamp(min=1e-12).log() - logits.log_softmax(-1))).sum(-1)}
        for name, v in part.items():
            total[name] = total.get(name, 0) + v.sum(1)
    return {name: (v / n).tolist() for name, v in total.items()}


def run(args, name, seed, data, model):
    slug = "".join(c if c.isalnum() else "-" for c in name)
    path = args.out / f"level{args.level}-{slug}-{seed}.json"
    if path.exists():
        return json.loads(path.read_text())
    torch.manual_seed(seed)
    blocks = model.stacks[0]
    routers = torch.stack([model.folded(a, b) for a, b in zip(blocks, blocks[args.level:])])
    parts = {part: Inputs(s, model, args.level) for part, s in data.items()}
    gate = PreGate(FORMS[name], routers, parts["train"])
    begin = time.time()
    fit(gate, parts["train"], parts["stop"], seed)
    n_params, macs = gate.cost()
    result = {"form": name, "level": args.level, "seed": seed, "parameters": n_params, "macs": macs,
              "seconds": round(time.time() - begin, 1), **measure(gate, parts["held"])}
    path.write_text(json.dumps(result))
    return result


def mean(xs):
    return sum(xs) / len(xs)


def row(results):
    """Seeds averaged; the spread is largest minus smallest of the mean recall."""
    over = lambda key: [mean(r[key]) for r in results]
    blocks = " | ".join(f"{mean(b):.3f}" for b in zip(*(r["recall"] for r in results)))
    recall, first = over("recall"), results[0]
    spread = f" ± {(max(recall) - min(recall)) / 2:.4f}" if len(results) > 1 else ""
    return (f"| {first['form']} | {first['parameters']} | {first['macs']} | {blocks} | {mean(recall):.4f}{spread} | "
            f"{mean(over('recall+1')):.3f} | {mean(over('recall+2')):.3f} | {mean(over('precision1')):.3f} | "
            f"{mean(over('mass')):.3f} | {mean(over('kl')):.3f} |")


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--level", type=int, default=1)
    p.add_argument("--seeds", default="1")
    p.add_argument("--forms", default="")
    p.add_argument("--model", type=pathlib.Path, default=ROOT / "models/tinystories-moe.gguf")
    p.add_argument("--pregate", type=pathlib.Path, default=ROOT / "build/pregate")
    p.add_argument("--out", type=pathlib.Path, default=ROOT / "build/study")
    p.add_argument("--threads", type=int, default=1)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    model = Model(args.model, torch.float32)
    data = states(args, model)
    n = model.n_layer - args.level
    print("| form | parameters | MACs | " + " | ".join(f"block {b + args.level}" for b in range(n)) +
          " | mean recall | +1 | +2 | precision 1 | mass | KL |")
    print("|---" * (9 + n) + "|")
    for name in args.forms.split(";") if args.forms else FORMS:
        print(row([run(args, name, int(seed), data, model) for seed in args.seeds.split(",")]), flush=True)


if __name__ == "__main__":
    main()
