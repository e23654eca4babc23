"""The engine's families in plain PyTorch, with the losses of src/net/net.h: what the trainer is checked against.

    torch_model.py [--root DIR]     compares logits with the stored references of every tiny model

Parameters carry their names in the GGUF file. Nothing of the engine is used, and nothing of this is used by it.
"""
import argparse
import json
import pathlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from gguf_read import read_gguf


@dataclass
class Gate:
    """What decides one MoE block, for all tokens of the batch."""
    h: torch.Tensor       # [T, n_embd] normalised input of this block's MoE layer
    router: torch.Tensor  # [T, n_expert] logits of this block's router (None where a pre-gate decides)
    p: torch.Tensor       # [T, n_expert] probabilities of what decides
    ids: torch.Tensor     # [T, n_used] by falling weight
    begins: torch.Tensor  # [T] whether a document begins here


class Model:
    def __init__(self, path, dtype=torch.float64, gate="router", level=1, sidecar=None):
        keys, tensors = read_gguf(path)
        self.arch = keys["general.architecture"]
        self.dtype, self.gate, self.level = dtype, gate, level
        get = lambda name, default=None: keys.get(f"{self.arch}.{name}", default)
        self.n_layer, self.n_embd = get("block_count"), get("embedding_length")
        self.n_head = get("attention.head_count")
        self.n_head_kv = get("attention.head_count_kv", self.n_head)
        self.head_dim = get("attention.key_length", self.n_embd // self.n_head)
        self.n_rot = get("rope.dimension_count", self.head_dim)
        self.eps = get("attention.layer_norm_rms_epsilon", 1e-5)
        self.rope_base = get("rope.freq_base", 10000.0)
        self.rope_scale = 1.0
        if get("rope.scaling.type") == "linear":
            self.rope_scale = 1.0 / get("rope.scaling.factor", 1.0)
        self.n_expert, self.n_used = get("expert_count", 0), get("expert_used_count", 0)
        self.sigmoid = get("expert_gating_func", 1) == 2
        self.weights_scale = get("expert_weights_scale", 1.0)
        self.renormalise = get("expert_weights_norm", self.arch in ("llama", "qwen3moe"))
        self.rope_pairs = self.arch == "llama"
        self.qk_norm = {"qwen3moe": "head", "olmoe": "row"}.get(self.arch)
        self.rope_factor = tensors.pop("rope_freqs.weight", None)
        self.params = {name: torch.tensor(t, dtype=dtype) for name, t in tensors.items()}
        self.stacks = self.blocks(get)
        if gate == "pregate":
            self.add_pregates(read_gguf(sidecar)[1] if sidecar else None)
        for p in self.params.values():
            p.requires_grad_(True)
        if self.rope_factor is not None:
            self.rope_factor = torch.tensor(self.rope_factor, dtype=torch.float64)

    def blocks(self, get):
        """What the names of each block's tensors begin with, a list for each stack. get(key, default) of the file."""
        return [[f"blk.{i}." for i in range(self.n_layer)]]

    def add_pregates(self, tables):
        """Pre-gates: of a sidecar, or the routers `level` blocks on with the gains of the norms folded in."""
        for stack in self.stacks:
            moe = [blk for blk in stack if self.is_moe(blk)]
            for a, b in zip(moe, moe[self.level:]):
                name = a + "ffn_pregate_inp.weight"
                if tables:
                    self.params[name] = torch.tensor(tables[name], dtype=self.dtype)
                else:
                    self.params[name] = self.folded(a, b)

    def is_moe(self, blk):
        return blk + "ffn_gate_inp.weight" in self.params

    def folded(self, a, b):
        gain = self.params[b + "ffn_norm.weight"] / self.params[a + "ffn_norm.weight"]
        return (self.params[b + "ffn_gate_inp.weight"] * gain).detach().clone()

    # ---- one block

    def norm(self, x, name):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.params[name]

    def linear(self, x, name):
        y = x @ self.params[name + ".weight"].T
        bias = self.params.get(name + ".bias")
        return y if bias is None else y + bias

    def angles(self, pos):
        i = torch.arange(self.n_rot // 2, dtype=torch.float64)
        freq = self.rope_base ** (-2.0 * i / self.n_rot) * self.rope_scale
        if self.rope_factor is not None:
            freq = freq / self.rope_factor
        a = pos.to(torch.float64)[..., None] * freq
        return a.cos().to(self.dtype)[:, None], a.sin().to(self.dtype)[:, None]  # [B, 1, L, n_rot / 2]

    def rope(self, x, cos, sin):
        """x [B, head, L, dim]"""
        turn, rest = x[..., :self.n_rot], x[..., self.n_rot:]
        if self.rope_pairs:
            a, b = turn[..., 0::2], turn[..., 1::2]
            turn = torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)
        else:
            a, b = turn.chunk(2, -1)
            turn = torch.cat((a * cos - b * sin, a * sin + b * cos), -1)
        return torch.cat((turn, rest), -1) if self.n_rot < self.head_dim else turn

    def attention(self, x, blk, ctx):
        n_batch, length = x.shape[:2]
        h = self.norm(x, blk + "attn_norm.weight")
        q, k, v = (self.linear(h, blk + "attn_" + c) for c in "qkv")
        if self.qk_norm == "row":
            q, k = self.norm(q, blk + "attn_q_norm.weight"), self.norm(k, blk + "attn_k_norm.weight")
        q, k, v = (t.view(n_batch, length, -1, self.head_dim).transpose(1, 2) for t in (q, k, v))
        if self.qk_norm == "head":
            q, k = self.norm(q, blk + "attn_q_norm.weight"), self.norm(k, blk + "attn_k_norm.weight")
        q, k = self.rope(q, *ctx["rope"]), self.rope(k, *ctx["rope"])
        group = self.n_head // self.n_head_kv
        if group > 1:
            k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=ctx["mask"], is_causal=ctx["mask"] is None)
        return x + self.linear(y.transpose(1, 2).reshape(n_batch, length, -1), blk + "attn_output")

    def activation(self, gate, up):
        return F.silu(gate) * up

    def ffn(self, h, blk, suffix=""):
        gate = self.linear(h, f"{blk}ffn_gate{suffix}") if f"{blk}ffn_gate{suffix}.weight" in self.params else None
        return self.linear(self.activation(gate, self.linear(h, f"{blk}ffn_up{suffix}")), f"{blk}ffn_down{suffix}")

    def decide(self, logits):
        """The family's rule: probabilities, chosen ids by falling weight, their weights."""
        p = logits.sigmoid() if self.sigmoid else logits.softmax(-1)
        w, ids = p.topk(self.n_used, -1)
        if self.renormalise:
            w = w / w.sum(-1, keepdim=True)
        return p, ids, w * self.weights_scale

    def experts(self, h, blk, ids, w):
        """Each expert over the rows that chose it, pairs sorted by expert."""
        order = ids.flatten().argsort(stable=True)
        token = order // self.n_used
        counts = torch.bincount(ids.flatten(), minlength=self.n_expert).tolist()
        gates, ups, downs = (self.params.get(f"{blk}ffn_{n}_exps.weight") for n in ("gate", "up", "down"))
        y = []
        for e, r in enumerate(h.index_select(0, token).split(counts)):
            gate = None if gates is None else F.linear(r, gates[e])
            y.append(F.linear(self.activation(gate, F.linear(r, ups[e])), downs[e]))
        y = torch.cat(y)
        y = y * w.flatten().index_select(0, order)[:, None]
        return torch.zeros_like(h).index_add(0, token, y)

    def moe(self, h, blk, ctx):
        """h [T, n_embd] normalised -> what the experts make of it"""
        at = len(ctx["gates"])
        router = None
        if at in ctx["ahead"]:
            logits = ctx["ahead"].pop(at)
        else:
            logits = router = self.linear(h, blk + "ffn_gate_inp")
        if blk + "ffn_pregate_inp.weight" in self.params:
            ctx["ahead"][at + self.level] = self.linear(h, blk + "ffn_pregate_inp")
        p, ids, w = self.decide(logits)
        ctx["gates"].append(Gate(h, router, p, ids, ctx["begins"]))
        y = self.experts(h, blk, ids, w)
        if blk + "ffn_down_shexp.weight" in self.params:
            share = (h @ self.params[blk + "ffn_gate_inp_shexp.weight"].flatten()).sigmoid()
            y = y + share[:, None] * self.ffn(h, blk, "_shexp")
        return y

    def feed_forward(self, x, blk, ctx):
        h = self.norm(x, blk + "ffn_norm.weight")
        return x + (self.moe(h.flatten(0, 1), blk, ctx).view(x.shape) if self.is_moe(blk) else self.ffn(h, blk))

    # ---- all blocks

    def context(self, tokens, start):
        i = torch.arange(tokens.shape[1])
        mask = None
        if bool((start > 0).any()):  # from the first token of one's own document to oneself
            mask = ((i[None, None] <= i[None, :, None]) & (i[None, None] >= start[..., None]))[:, None]
        begins = (start == i).flatten()
        return {"rope": self.angles(i - start), "mask": mask, "gates": [], "ahead": {}, "begins": begins}

    def forward(self, tokens, start=None):
        """tokens, start [B, L] -> logits [B, L, n_vocab], a Gate for each MoE block."""
        ctx = self.context(tokens, torch.zeros_like(tokens) if start is None else start)
        x = self.params["token_embd.weight"][tokens]
        for blk in self.stacks[0]:
            x = self.feed_forward(self.attention(x, blk, ctx), blk, ctx)
        x = self.norm(x, "output_norm.weight")
        head = self.params.get("output.weight", self.params["token_embd.weight"])
        return x @ head.T, ctx["gates"]

    # ---- losses

    def balance(self, gates):
        """Switch Transformer, eq. 4 to 6, mean over blocks."""
        loss = 0
        for g in gates:
            f = torch.bincount(g.ids.flatten(), minlength=self.n_expert).to(self.dtype) / g.ids.numel()
            loss = loss + self.n_expert * (f * g.p.mean(0)).sum()
        return loss / max(1, len(gates))

    def absent(self, gate, n_cache):
        """[T, n_expert] 1 where the expert is not among the n_cache that the document used last before t; of one
        token's, the first rank counts as the last used."""
        out = torch.zeros(len(gate.ids), self.n_expert, dtype=self.dtype)
        recent = []  # latest first
        for t, (ids, begins) in enumerate(zip(gate.ids.tolist(), gate.begins.tolist())):
            if begins:
                recent = []
            if len(recent) == n_cache:
                out[t] = 1
                out[t, recent] = 0
            for e in reversed(ids):
                recent = [e] + [r for r in recent if r != e]
            recent = recent[:n_cache]
        return out

    def sticky(self, gates, n_cache):
        loss = 0
        for g in gates:
            loss = loss + (g.p * self.absent(g, n_cache)).sum(-1).mean()
        return loss / max(1, len(gates))

    def losses(self, batch, balance_weight=0.01, sticky_weight=0.0, sticky_cache=0):
        """batch: tokens, target, start, and what else forward takes"""
        tokens, target, *more = batch
        logits, gates = self.forward(tokens, *more)
        nll = F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-1)
        zero = torch.zeros((), dtype=self.dtype)
        balance = self.balance(gates) if gates else zero
        sticky = zero
        if sticky_weight and gates:
            sticky = self.sticky(gates, sticky_cache or 2 * self.n_used)
        total = nll + balance_weight * balance + sticky_weight * sticky
        return {"total": total, "nll": nll, "balance": balance, "sticky": sticky}


class Pairs(Model):
    """T5 and Switch Transformers. A row of the batch has sources in one list of tokens, and in another the timelines
    that answer to them, each several one after another; -1 is padding, which nothing sees and nothing counts."""

    def blocks(self, get):
        self.n_bucket = get("attention.relative_buckets_count", 32)
        self.start_token = get("decoder_start_token_id", 0)
        self.params.pop("dec.blk.0.cross_attn_rel_b.weight", None)
        stacks = {"enc": self.n_layer, "dec": get("decoder_block_count", self.n_layer)}
        return [[f"{name}.blk.{i}." for i in range(n)] for name, n in stacks.items()]

    def activation(self, gate, up):
        return F.relu(up) if gate is None else F.gelu(gate, approximate="tanh") * up

    # ---- attention

    def bucket(self, distance, n):
        """Of n ranges: one for each distance below n / 2, then ever wider ones, up to 128. In whole numbers, so that
        no rounding moves a bound: distance >= exact * (128 / exact)^(k / rest), raised to the power of rest."""
        exact = n // 2
        if distance < exact:
            return distance
        rest = n - exact
        return exact + max(k for k in range(rest) if distance ** rest >= exact ** (rest - k) * 128 ** k)

    def bias(self, length, stack):
        """[n_head, L, L] what is added to q · k; of a key that comes later in the upper half of the buckets where
        such are seen."""
        half = self.n_bucket // 2
        if stack == "enc":
            of = {d: self.bucket(abs(d), half) + (half if d > 0 else 0) for d in range(-length, length)}
        else:
            of = {d: self.bucket(max(-d, 0), self.n_bucket) for d in range(-length, length)}
        at = torch.tensor([[of[key - query] for key in range(length)] for query in range(length)])
        return self.params[f"{stack}.blk.0.attn_rel_b.weight"][at].permute(2, 0, 1)

    def attend(self, x, blk, seen, bias, other=None):
        """One attention of a block, with its norm; to `other` states, or to its own. seen [B, 1, L, of the other]"""
        h = self.norm(x, blk + "norm.weight")
        other = h if other is None else other
        q, k, v = (self.linear(s, blk + c) for s, c in ((h, "q"), (other, "k"), (other, "v")))
        q, k, v = (t.view(*t.shape[:2], self.n_head, self.head_dim).transpose(1, 2) for t in (q, k, v))
        scores = (q @ k.transpose(2, 3) + bias).masked_fill(~seen, float("-inf"))
        y = scores.softmax(-1) @ v
        return x + self.linear(y.transpose(1, 2).flatten(2), blk + "o")

    def feed_forward(self, x, blk, ctx):
        if not self.is_moe(blk):
            return super().feed_forward(x, blk, ctx)
        h = self.norm(x, blk + "ffn_norm.weight").flatten(0, 1)
        y = self.moe(h.index_select(0, ctx["live"]), blk, ctx)
        return x + torch.zeros_like(h).index_add(0, ctx["live"], y).view(x.shape)

    # ---- all blocks

    def context(self, tokens, start):
        live = (tokens >= 0).flatten().nonzero().flatten()
        begins = (start == torch.arange(tokens.shape[1])).flatten()
        return {"gates": [], "ahead": {}, "live": live, "begins": begins[live]}

    def embedding(self, tokens):
        return self.params["token_embd.weight"][tokens.clamp(min=0)] * (tokens >= 0)[..., None]

    def encode(self, source, source_start):
        """-> states [B, L, n_embd], gates. Padding sees padding, so that every row has something to see."""
        ctx, x = self.context(source, source_start), self.embedding(source)
        seen = (source_start[:, None] == source_start[..., None])[:, None]
        bias = self.bias(source.shape[1], "enc")
        for blk in self.stacks[0]:
            x = self.feed_forward(self.attend(x, blk + "attn_", seen, bias), blk, ctx)
        return self.norm(x, "enc.output_norm.weight"), ctx["gates"]

    def forward(self, tokens, start, source, source_start, source_of):
        """tokens, start, source_of [B, L], source, source_start [B, L of sources] -> logits, gates of both stacks."""
        memory, encoder_gates = self.encode(source, source_start)
        ctx, x = self.context(tokens, start), self.embedding(tokens)
        i = torch.arange(tokens.shape[1])
        seen = ((start[:, None] == start[..., None]) & (i <= i[:, None]))[:, None]
        across = (source_start[:, None] == source_of[..., None]) & (source >= 0)[:, None]
        across = (across | (tokens < 0)[..., None])[:, None]
        bias = self.bias(tokens.shape[1], "dec")
        for blk in self.stacks[1]:
            x = self.attend(x, blk + "attn_", seen, bias)
            x = self.attend(x, blk + "cross_attn_", across, 0.0, memory)
            x = self.feed_forward(x, blk, ctx)
        x = self.norm(x, "dec.output_norm.weight")
        head = self.params.get("output.weight")
        if head is None:
            head, x = self.params["token_embd.weight"], x * self.n_embd ** -0.5
        return x @ head.T, encoder_gates + ctx["gates"]


def pairs_row(pairs, lengths, start_token):
    """One row of a batch, its lists in the order of Pairs.forward, targets second: pairs (source, target) one after
    another, then padding. lengths: of a row of sources, of a row of timelines."""
    row = {name: [] for name in ("token", "target", "start", "source", "source_start", "source_of")}
    for source, target in pairs:
        row["source_of"] += len(target) * [len(row["source"])]
        row["start"] += len(target) * [len(row["token"])]
        row["source_start"] += len(source) * [len(row["source"])]
        row["source"] += source
        row["token"] += [start_token] + target[:-1]
        row["target"] += target
    n_source, n_token = len(row["source"]), len(row["token"])
    padding = {"token": -1, "target": -1, "start": n_token, "source": -1, "source_start": n_source, "source_of": 0}
    for name, value in padding.items():
        row[name] += ((lengths[0] - n_source) if name in ("source", "source_start") else (lengths[1] - n_token)) * [value]
    return row


def open_model(path, *args, **more):
    """The model of a file, of whichever family."""
    is_pairs = read_gguf(path)[0]["general.architecture"] in ("t5", "switch")
    return (Pairs if is_pairs else Model)(path, *args, **more)


REFERENCES = [  # model, reference, its key of the ids, its key of the logits
    ("tests/data/gguf_moe/full_mixtral", None, "input_ids", "hf_logits"),
    ("tests/data/gguf_moe/gqa_mixtral", None, "input_ids", "hf_logits"),
    ("tests/data/gguf_moe/mixtral_scale", None, "input_ids", "hf_logits"),
    ("tests/data/gguf_moe/qwen_moe_tiny", None, "input_ids", "hf_logits"),
    ("tests/data/gguf_moe/qwen_scale", None, "input_ids", "hf_logits"),
    ("tests/data/gen_moe/qwen3moe", None, "input_ids", "logits_f64"),
    ("tests/data/gen_moe/olmoe", None, "input_ids", "logits_f64"),
    ("tests/data/stories260K/stories260K", None, "prompt_ids", "logits_per_prompt_position"),
    ("models/tinystories-moe", "tests/data/tinystories/tinystories-moe", "ids", "logits_f64"),
]


PAIRS = ["switch", "t5dense", "t5gated"]  # in tests/data/gen_moe


def one_pair(source, tokens):
    """A batch of one pair, without targets, as Pairs.forward takes it."""
    source, tokens = torch.tensor([source]), torch.tensor([tokens])
    zero = torch.zeros_like
    return tokens, zero(tokens), source, zero(source), zero(tokens)


def difference(got, want):
    want = torch.tensor(want, dtype=torch.float64).view(-1, got.shape[1])
    return len(want), (got[:len(want)] - want).abs().max().item()


@torch.no_grad()
def compare(root):
    say = "{:40} {:4} positions, largest difference of a {} {:.2e}"
    for path, ref_path, ids_key, logits_key in REFERENCES:
        ref = json.loads((root / f"{ref_path or path}.ref.json").read_text())
        n, diff = difference(Model(root / f"{path}.gguf").forward(torch.tensor([ref[ids_key]]))[0][0], ref[logits_key])
        print(say.format(path, n, "logit", diff))
    for name in PAIRS:
        path = f"tests/data/gen_moe/{name}"
        ref, m = json.loads((root / f"{path}.ref.json").read_text()), Pairs(root / f"{path}.gguf")
        pair = one_pair(ref["input_ids"], ref["decoder_input_ids"])
        n, diff = difference(m.forward(*pair)[0][0], ref["logits_f64"])
        print(say.format(path, n, "logit", diff))
        if "encoder_last_hidden_f64" in ref:
            n, diff = difference(m.encode(*pair[2:4])[0][0], ref["encoder_last_hidden_f64"])
            print(say.format(path, n, "state", diff))


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    compare(p.parse_args().root)


if __name__ == "__main__":
    main()
