"""A Switch without its weights: a GGUF file with the keys, a vocabulary, and tensors of zeros.

`pregate train FILE --from scratch` takes shape and vocabulary from it.
"""
import struct

F32, F16, ALIGN = 0, 1, 32


def text(s):
    data = s.encode()
    return struct.pack("<Q", len(data)) + data


def value(v):
    if isinstance(v, bool):
        return struct.pack("<I?", 7, v)
    if isinstance(v, int):
        return struct.pack("<II", 4, v)
    if isinstance(v, float):
        return struct.pack("<If", 6, v)
    if isinstance(v, str):
        return struct.pack("<I", 8) + text(v)
    if isinstance(v[0], int):
        return struct.pack(f"<IIQ{len(v)}i", 9, 5, len(v), *v)
    return struct.pack("<IIQ", 9, 8, len(v)) + b"".join(map(text, v))


def keys(shape):
    return {"general.architecture": "switch", "general.name": "switch small", "switch.context_length": shape["context"],
            "switch.embedding_length": shape["embd"], "switch.feed_forward_length": shape["ff"],
            "switch.block_count": shape["blocks"], "switch.decoder_block_count": shape["blocks"],
            "switch.attention.head_count": shape["heads"], "switch.attention.key_length": shape["head"],
            "switch.attention.value_length": shape["head"], "switch.attention.layer_norm_rms_epsilon": 1e-6,
            "switch.attention.relative_buckets_count": shape["buckets"], "switch.decoder_start_token_id": 0,
            "switch.expert_count": shape["experts"], "switch.expert_used_count": 1}


def attention(stack, il, name, shape):
    embd, wide = shape["embd"], shape["heads"] * shape["head"]
    at = f"{stack}.blk.{il}.{name}"
    yield f"{at}_norm.weight", F32, (embd,)
    for part in "qkv":
        yield f"{at}_{part}.weight", F16, (embd, wide)
    yield f"{at}_o.weight", F16, (wide, embd)


def tensors(shape, n_vocab):
    """(name, type, dimensions as GGUF orders them); experts in every second block. The output is a matrix of its own, as in
    T5 1.1: where the table is the output its states are so small that learning takes long to get off."""
    embd, ff, experts = shape["embd"], shape["ff"], shape["experts"]
    yield "token_embd.weight", F16, (embd, n_vocab)
    yield "output.weight", F16, (embd, n_vocab)
    for stack in ("enc", "dec"):
        yield f"{stack}.output_norm.weight", F32, (embd,)
        yield f"{stack}.blk.0.attn_rel_b.weight", F32, (shape["heads"], shape["buckets"])
        for il in range(shape["blocks"]):
            at = f"{stack}.blk.{il}"
            yield from attention(stack, il, "attn", shape)
            yield from attention(stack, il, "cross_attn", shape) if stack == "dec" else ()
            yield f"{at}.ffn_norm.weight", F32, (embd,)
            if il % 2:
                yield f"{at}.ffn_gate_inp.weight", F32, (embd, experts)
                yield f"{at}.ffn_up_exps.weight", F16, (embd, ff, experts)
                yield f"{at}.ffn_down_exps.weight", F16, (ff, embd, experts)
            else:
                yield f"{at}.ffn_up.weight", F16, (embd, ff)
                yield f"{at}.ffn_down.weight", F16, (ff, embd)


def n_values(dims):
    n = 1
    for d in dims:
        n *= d
    return n


def n_parameters(shape, n_vocab):
    return sum(n_values(dims) for _, _, dims in tensors(shape, n_vocab))


def gguf(shape, vocab):
    """The bytes of the file."""
    infos, at, n = b"", 0, 0
    for name, kind, dims in tensors(shape, len(vocab["tokens"])):
        infos += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, at)
        at += (n_values(dims) * (4 if kind == F32 else 2) + ALIGN - 1) // ALIGN * ALIGN
        n += 1
    all_keys = {**keys(shape), **{f"tokenizer.ggml.{k}": v for k, v in vocab.items()}}
    head = struct.pack("<4sIQQ", b"GGUF", 3, n, len(all_keys))
    head += b"".join(text(name) + value(v) for name, v in all_keys.items()) + infos
    return head + bytes(-len(head) % ALIGN) + bytes(at)
