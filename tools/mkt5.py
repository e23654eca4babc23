"""Makes tests/data/gen_moe/t5gated.gguf: a tiny random T5 of the second kind (v1.1), and its logits.

    mkt5.py [OUT.gguf]

GELU with a gate, an output of its own, stacks of unlike depth, heads wider than the state, buckets that are not 32,
and sizes that no vector width divides. OUT.ref.json has float64 logits by tools/torch_model.py. Needs torch and numpy.
"""
import json
import pathlib
import struct
import sys

import numpy as np
import torch

import regroup
from mkmixed import key, text
from torch_model import Pairs, one_pair

ROOT = pathlib.Path(__file__).resolve().parent.parent
VOCAB, EMBD, HEAD, DIM, FF, BUCKETS = 44, 28, 3, 12, 20, 20
LAYERS = {"enc": 2, "dec": 3}
INTS = {"vocab_size": VOCAB, "context_length": 128, "embedding_length": EMBD, "feed_forward_length": FF,
        "block_count": LAYERS["enc"], "decoder_block_count": LAYERS["dec"], "attention.head_count": HEAD,
        "attention.key_length": DIM, "attention.value_length": DIM, "attention.relative_buckets_count": BUCKETS,
        "decoder_start_token_id": 0}
EPS = 1e-6
SOURCE, TOKENS = 45, 12


def shapes():
    yield "token_embd.weight", (VOCAB, EMBD)
    yield "output.weight", (VOCAB, EMBD)
    for stack, n in LAYERS.items():
        yield f"{stack}.output_norm.weight", (EMBD,)
        for i in range(n):
            parts = {}
            for attn in ("attn", "cross_attn") if stack == "dec" else ("attn",):
                parts |= {f"{attn}_norm": (EMBD,), f"{attn}_o": (EMBD, HEAD * DIM)}
                parts |= {f"{attn}_{c}": (HEAD * DIM, EMBD) for c in "qkv"}
            if i == 0:
                parts["attn_rel_b"] = (BUCKETS, HEAD)
            parts |= {"ffn_norm": (EMBD,), "ffn_gate": (FF, EMBD), "ffn_up": (FF, EMBD), "ffn_down": (EMBD, FF)}
            for name, shape in parts.items():
                yield f"{stack}.blk.{i}.{name}.weight", shape


def values(random, name, shape):
    x = random.standard_normal(shape)
    if "norm" in name:
        return 1 + 0.2 * x
    if "embd" in name or "rel_b" in name:
        return x
    return x * (0.7 if "attn_q" in name else 1.2) / shape[-1] ** 0.5  # q · k is not scaled


def main():
    out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "tests/data/gen_moe/t5gated.gguf")
    random = np.random.default_rng(11)
    tensors = [(name, list(shape[::-1]), 0, values(random, name, shape).astype("<f4").tobytes())
               for name, shape in shapes()]
    keys = [key("general.architecture", 8, text("t5")), key("general.name", 8, text("gen-t5-gated"))]
    keys += [key(f"t5.{k}", 4, struct.pack("<I", v)) for k, v in INTS.items()]
    keys += [key("t5.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", EPS))]
    regroup.write(out, 3, keys, tensors)
    source = random.integers(1, VOCAB, SOURCE).tolist()
    tokens = [0] + random.integers(1, VOCAB, TOKENS - 1).tolist()
    with torch.no_grad():
        logits = Pairs(out).forward(*one_pair(source, tokens))[0].flatten()
    result = {"input_ids": source, "decoder_input_ids": tokens, "vocab_size": VOCAB,
              "logits_f64": [float(f"{v:.12g}") for v in logits.tolist()]}
    out.with_suffix(".ref.json").write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
