"""A Switch that has learned nothing: a GGUF file with the keys, a vocabulary, and new weights.

T5's cross attention sees no positions, so what is copied from a source has to be found by its content. From weights of one
size for all, which `pregate train --from scratch` draws, a model as small as this had not begun to copy after 3.2 million
tokens; from these it does after half a million. They begin as trained attention ends (Trockman and Kolter, "Mimetic
initialization of self-attention layers", 2023): keys are the queries' matrix, so that alike finds alike; outputs are the
values' the other way round, so that what was found is handed on; and the output is the table, so that it is said. Of the
heads one begins with the neighbour before, one with the neighbour after (in a decoder: the one before that), and one prefers
what is near.
"""
import random
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
    T5 1.1: where the table is the output its states are so small that little is learned in as few steps."""
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


MATCH = {"cross_attn": 7.0, "attn": 1.6}  # what a piece's query says to its own key, at first
NEIGHBOUR, FADE = 6.0, 0.3  # added to q · k at a head's favourite distance; taken from it for each step away


class New:
    """Weights one after another, in the order of `tensors`."""

    def __init__(self, shape, seed):
        self.shape, self.random, self.made = shape, random.Random(seed), {}

    def normal(self, n, deviation):
        return [self.random.gauss(0, deviation) for _ in range(n)]

    def positions(self, stack):
        """A row of heads for each range of distances: those before first, in an encoder then those after."""
        n_heads, n = self.shape["heads"], self.shape["buckets"]
        rows = [self.normal(n_heads, 0.02) for _ in range(n)]
        behind = n // 2 if stack == "enc" else n
        favourites = [1, behind + 1] if stack == "enc" else [1, 2]
        for head, bucket in zip(range(n_heads), favourites):
            rows[bucket][head] += NEIGHBOUR
        for bucket in range(n if n_heads > 2 else 0):
            rows[bucket][2] -= FADE * (bucket % behind)
        return [v for row in rows for v in row]

    def attention(self, at, part, dims):
        """Of `part` one of q, k, v, o."""
        if part == "k":
            return self.made[f"{at}_q.weight"]
        if part == "o":
            values, (wide, embd) = self.made[f"{at}_v.weight"], dims
            return [0.5 * values[j * embd + i] for i in range(embd) for j in range(wide)]
        match = MATCH[at.rsplit(".", 1)[1]]
        return self.normal(n_values(dims), (match / self.shape["head"] if part == "q" else 1.0) ** 0.5 * dims[0] ** -0.5)

    def values(self, name, dims):
        n, (at, _, part) = n_values(dims), name.removesuffix(".weight").rpartition("_")
        if name.endswith("norm.weight"):
            return [1.0] * n
        if name.endswith("rel_b.weight"):
            return self.positions(name[:3])
        if name == "token_embd.weight":
            return self.normal(n, 1.0)
        if name == "output.weight":
            return [0.03 * v for v in self.made["token_embd.weight"]]
        if part in ("q", "k", "v", "o"):
            return self.attention(at, part, dims)
        return self.normal(n, (0.5 if "up" in name else 0.3) * dims[0] ** -0.5)

    def data(self, name, kind, dims):
        values = self.made[name] = self.values(name, dims)
        data = struct.pack(f"<{len(values)}{'f' if kind == F32 else 'e'}", *values)
        return data + bytes(-len(data) % ALIGN)


def gguf(shape, vocab, seed):
    """The bytes of the file."""
    infos, data, new = b"", bytearray(), New(shape, seed)
    all_tensors = list(tensors(shape, len(vocab["tokens"])))
    for name, kind, dims in all_tensors:
        infos += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, len(data))
        data += new.data(name, kind, dims)
    all_keys = {**keys(shape), **{f"tokenizer.ggml.{k}": v for k, v in vocab.items()}}
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(all_tensors), len(all_keys))
    head += b"".join(text(name) + value(v) for name, v in all_keys.items()) + infos
    return head + bytes(-len(head) % ALIGN) + bytes(data)
