"""Makes tests/data/gen_moe/mixed.gguf: a tiny random Qwen3-MoE with what no other test model has, and its logits.

    mkmixed.py [OUT.gguf]

A dense block between MoE blocks, sigmoid gates with scaled weights, rotation of a part of each head, output tied to
the embedding, and sizes that no vector width divides. OUT.ref.json has float64 logits by tools/torch_model.py. Needs
torch and numpy.
"""
import json
import pathlib
import struct
import sys

import numpy as np
import torch

import regroup
from torch_model import Model

ROOT = pathlib.Path(__file__).resolve().parent.parent
VOCAB, EMBD, HEAD, HEAD_KV, DIM, FF, FF_EXP, EXPERT = 40, 28, 3, 1, 12, 20, 13, 6
DENSE, LAYERS = (1,), 4
INTS = {"vocab_size": VOCAB, "block_count": LAYERS, "context_length": 64, "embedding_length": EMBD,
        "feed_forward_length": FF, "expert_feed_forward_length": FF_EXP, "attention.head_count": HEAD,
        "attention.head_count_kv": HEAD_KV, "attention.key_length": DIM, "attention.value_length": DIM,
        "rope.dimension_count": 8, "expert_count": EXPERT, "expert_used_count": 2, "expert_gating_func": 2}
FLOATS = {"attention.layer_norm_rms_epsilon": 1e-6, "rope.freq_base": 10000.0, "expert_weights_scale": 1.5}


def key(name, kind, body):
    return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind) + body


def text(s):
    return struct.pack("<Q", len(s)) + s.encode()


def shapes():
    yield "token_embd.weight", (VOCAB, EMBD)
    yield "output_norm.weight", (EMBD,)
    for i in range(LAYERS):
        parts = {"attn_norm": (EMBD,), "attn_q": (HEAD * DIM, EMBD), "attn_k": (HEAD_KV * DIM, EMBD),
                 "attn_v": (HEAD_KV * DIM, EMBD), "attn_output": (EMBD, HEAD * DIM), "attn_q_norm": (DIM,),
                 "attn_k_norm": (DIM,), "ffn_norm": (EMBD,)}
        if i in DENSE:
            parts |= {"ffn_gate": (FF, EMBD), "ffn_up": (FF, EMBD), "ffn_down": (EMBD, FF)}
        else:
            parts |= {"ffn_gate_inp": (EXPERT, EMBD), "ffn_gate_exps": (EXPERT, FF_EXP, EMBD),
                      "ffn_up_exps": (EXPERT, FF_EXP, EMBD), "ffn_down_exps": (EXPERT, EMBD, FF_EXP)}
        for name, shape in parts.items():
            yield f"blk.{i}.{name}.weight", shape


def main():
    out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "tests/data/gen_moe/mixed.gguf")
    random, tensors = np.random.default_rng(7), []
    for name, shape in shapes():
        x = random.standard_normal(shape)
        x = 1 + 0.2 * x if "norm" in name else x * (1.5 / shape[-1] ** 0.5 if "embd" not in name else 0.5)
        tensors.append((name, list(shape[::-1]), 0, x.astype("<f4").tobytes()))
    keys = [key("general.architecture", 8, text("qwen3moe")), key("general.name", 8, text("gen-mixed"))]
    keys += [key(f"qwen3moe.{k}", 4, struct.pack("<I", v)) for k, v in INTS.items()]
    keys += [key(f"qwen3moe.{k}", 6, struct.pack("<f", v)) for k, v in FLOATS.items()]
    regroup.write(out, 3, keys, tensors)
    ids = random.integers(0, VOCAB, 12).tolist()
    with torch.no_grad():
        logits = Model(out).forward(torch.tensor([ids]))[0][0]
    out.with_suffix(".ref.json").write_text(json.dumps({"input_ids": ids, "logits_f64": [[float(f"{v:.12g}") for v in row] for row in logits.tolist()]}) + "\n")


if __name__ == "__main__":
    main()
