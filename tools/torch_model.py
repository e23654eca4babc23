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
        self.moe_layers = [i for i in range(self.n_layer) if f"blk.{i}.ffn_gate_inp.weight" in self.params]
        if gate == "pregate":
            self.add_pregates(read_gguf(sidecar)[1] if sidecar else None)
        for p in self.params.values():
            p.requires_grad_(True)
        if self.rope_factor is not None:
            self.rope_factor = torch.tensor(self.rope_factor, dtype=torch.float64)

    def add_pregates(self, tables):
        """Pre-gates: of a sidecar, or the routers `level` blocks on with the gains of the norms folded in."""
        for i in range(len(self.moe_layers) - self.level):
            a, b = self.moe_layers[i], self.moe_layers[i + self.level]
            name = f"blk.{a}.ffn_pregate_inp.weight"
            if tables:
                self.params[name] = torch.tensor(tables[name], dtype=self.dtype)
            else:
                self.params[name] = self.folded(a, b)

    def folded(self, a, b):
        gain = self.params[f"blk.{b}.ffn_norm.weight"] / self.params[f"blk.{a}.ffn_norm.weight"]
        return (self.params[f"blk.{b}.ffn_gate_inp.weight"] * gain).detach().clone()

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

    def attention(self, x, il, ctx):
        blk, (n_batch, length) = f"blk.{il}.", x.shape[:2]
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

    def ffn(self, h, blk, suffix=""):
        gate, up = self.linear(h, f"{blk}ffn_gate{suffix}"), self.linear(h, f"{blk}ffn_up{suffix}")
        return self.linear(F.silu(gate) * up, f"{blk}ffn_down{suffix}")

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
        gates, ups, downs = (self.params[f"{blk}ffn_{n}_exps.weight"].unbind() for n in ("gate", "up", "down"))
        rows = h.index_select(0, token).split(counts)
        y = torch.cat([F.linear(F.silu(F.linear(r, gates[e])) * F.linear(r, ups[e]), downs[e])
                       for e, r in enumerate(rows)])
        y = y * w.flatten().index_select(0, order)[:, None]
        return torch.zeros_like(h).index_add(0, token, y)

    def moe(self, x, il, ctx):
        blk, shape = f"blk.{il}.", x.shape
        h = self.norm(x, blk + "ffn_norm.weight").flatten(0, 1)
        at = len(ctx["gates"])
        router = None
        if at in ctx["ahead"]:
            logits = ctx["ahead"].pop(at)
        else:
            logits = router = self.linear(h, blk + "ffn_gate_inp")
        if blk + "ffn_pregate_inp.weight" in self.params:
            ctx["ahead"][at + self.level] = self.linear(h, blk + "ffn_pregate_inp")
        p, ids, w = self.decide(logits)
        ctx["gates"].append(Gate(h, router, p, ids))
        y = self.experts(h, blk, ids, w)
        if blk + "ffn_down_shexp.weight" in self.params:
            share = (h @ self.params[blk + "ffn_gate_inp_shexp.weight"].flatten()).sigmoid()
            y = y + share[:, None] * self.ffn(h, blk, "_shexp")
        return x + y.view(shape)

    # ---- all blocks

    def context(self, tokens, start):
        i = torch.arange(tokens.shape[1])
        mask = None
        if bool((start > 0).any()):  # from the first token of one's own document to oneself
            mask = ((i[None, None] <= i[None, :, None]) & (i[None, None] >= start[..., None]))[:, None]
        return {"rope": self.angles(i - start), "mask": mask, "gates": [], "ahead": {}}

    def forward(self, tokens, start=None):
        """tokens, start [B, L] -> logits [B, L, n_vocab], a Gate for each MoE block."""
        ctx = self.context(tokens, torch.zeros_like(tokens) if start is None else start)
        x = self.params["token_embd.weight"][tokens]
        for il in range(self.n_layer):
            x = self.attention(x, il, ctx)
            if il in self.moe_layers:
                x = self.moe(x, il, ctx)
            else:
                x = x + self.ffn(self.norm(x, f"blk.{il}.ffn_norm.weight"), f"blk.{il}.")
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

    def absent(self, ids, start, n_cache):
        """[T, n_expert] 1 where the expert is not among the n_cache that the document used last before t; of one
        token's, the first rank counts as the last used."""
        n_row, length = start.shape
        out = torch.zeros(n_row * length, self.n_expert, dtype=self.dtype)
        ids, begins = ids.tolist(), start.tolist()
        for row in range(n_row):
            recent = []  # latest first
            for i in range(length):
                if begins[row][i] == i:
                    recent = []
                t = row * length + i
                if len(recent) == n_cache:
                    out[t] = 1
                    out[t, recent] = 0
                for e in reversed(ids[t]):
                    recent = [e] + [r for r in recent if r != e]
                recent = recent[:n_cache]
        return out

    def sticky(self, gates, start, n_cache):
        loss = 0
        for g in gates:
            loss = loss + (g.p * self.absent(g.ids, start, n_cache)).sum(-1).mean()
        return loss / max(1, len(gates))

    def losses(self, tokens, target, start, balance_weight=0.01, sticky_weight=0.0, sticky_cache=0):
        logits, gates = self.forward(tokens, start)
        nll = F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-1)
        zero = torch.zeros((), dtype=self.dtype)
        balance = self.balance(gates) if gates else zero
        sticky = zero
        if sticky_weight and gates:
            sticky = self.sticky(gates, start, sticky_cache or 2 * self.n_used)
        total = nll + balance_weight * balance + sticky_weight * sticky
        return {"total": total, "nll": nll, "balance": balance, "sticky": sticky}


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


def compare(root):
    for path, ref_path, ids_key, logits_key in REFERENCES:
        ref = json.loads((root / f"{ref_path or path}.ref.json").read_text())
        m = Model(root / f"{path}.gguf")
        ids = torch.tensor([ref[ids_key]])
        with torch.no_grad():
            logits = m.forward(ids)[0][0]
        want = torch.tensor(ref[logits_key], dtype=torch.float64).view(-1, logits.shape[1])
        diff = (logits[:len(want)] - want).abs().max().item()
        print(f"{path:40} {len(want):4} positions, largest difference of a logit {diff:.2e}")


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    compare(p.parse_args().root)


if __name__ == "__main__":
    main()
