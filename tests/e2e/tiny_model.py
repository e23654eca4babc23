"""Tiny models with a vocabulary, for tests that need to run in a moment; and GGUF files read back by the
format's description alone.

    read(path) -> File(keys, tensors): keys {name: (type, raw bytes of the value)} in the file's order,
                  tensors {name: Tensor(type, ne, data)}
    write(path, keys, tensors)
    make(path, vocab_of, **shape)  a qwen3moe model with random weights, F32
    lettered(path, source)         the T5 or Switch `source`, of 64 tokens without a text, with one letter each
"""
import collections
import random
import struct

Tensor = collections.namedtuple("Tensor", "type ne data")
File = collections.namedtuple("File", "keys tensors")
U32, STRING, ARRAY = 4, 8, 9
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
F32, F16, BF16 = 0, 1, 30
BYTES = {F32: 4, F16: 2, BF16: 2}


def read(path):
    with open(path, "rb") as f:
        data = f.read()
    at = 24

    def take(form):
        nonlocal at
        value = struct.unpack_from("<" + form, data, at)[0]
        at += struct.calcsize("<" + form)
        return value

    def skip(kind):
        nonlocal at
        if kind == STRING:
            n = take("Q")
            at += n
        elif kind == ARRAY:
            elem, n = take("I"), take("Q")
            for _ in range(n):
                skip(elem)
        else:
            at += SIZES[kind]

    def name():
        nonlocal at
        n = take("Q")
        at += n
        return data[at - n:at].decode()

    magic, version, n_tensors, n_keys = struct.unpack_from("<4sIQQ", data)
    assert magic == b"GGUF" and version == 3
    keys, infos = {}, {}
    for _ in range(n_keys):
        key, kind = name(), take("I")
        begin = at
        skip(kind)
        keys[key] = (kind, data[begin:at])
    for _ in range(n_tensors):
        tensor = name()
        ne = [take("Q") for _ in range(take("I"))]
        infos[tensor] = (take("I"), ne, take("Q"))
    begin = (at + 31) // 32 * 32
    tensors = {}
    for tensor, (kind, ne, offset) in infos.items():
        n = BYTES[kind]
        for k in ne:
            n *= k
        tensors[tensor] = Tensor(kind, ne, data[begin + offset:begin + offset + n])
        assert len(tensors[tensor].data) == n, tensor
    return File(keys, tensors)


def text(value):
    raw = value.encode()
    return STRING, struct.pack("<Q", len(raw)) + raw


def u32(value):
    return U32, struct.pack("<I", value)


def write(path, keys, tensors):
    def string(value):
        return struct.pack("<Q", len(value)) + value.encode()

    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    for key, (kind, raw) in keys.items():
        head += string(key) + struct.pack("<I", kind) + raw
    body = b""
    for name, t in tensors.items():
        head += string(name) + struct.pack("<I", len(t.ne)) + struct.pack(f"<{len(t.ne)}Q", *t.ne)
        head += struct.pack("<IQ", t.type, len(body))
        body += t.data + bytes(-len(t.data) % 32)
    with open(path, "wb") as f:
        f.write(head + bytes(-len(head) % 32) + body)


def make(path, vocab_of, seed=1, n_layer=3, n_embd=32, n_ff=16, n_expert=4, single=False):
    """`single`: a tensor for each expert. The keys of the vocabulary are those of `vocab_of`."""
    rng = random.Random(seed)
    dim, n_ctx = 16, 64
    keys = {k: v for k, v in read(vocab_of).keys.items() if k.startswith("tokenizer.")}
    keys["general.architecture"] = text("qwen3moe")
    keys["general.name"] = text("tiny")
    keys["general.file_type"] = u32(0)
    for key, value in (("block_count", n_layer), ("context_length", n_ctx), ("embedding_length", n_embd),
                       ("feed_forward_length", n_ff), ("expert_feed_forward_length", n_ff),
                       ("attention.head_count", 2), ("attention.head_count_kv", 1),
                       ("attention.key_length", dim), ("attention.value_length", dim),
                       ("expert_count", n_expert), ("expert_used_count", 2)):
        keys["qwen3moe." + key] = u32(value)
    tensors = {}

    def put(name, *ne, norm=False):
        n = 1
        for k in ne:
            n *= k
        values = [1 + rng.gauss(0, 0.05) if norm else rng.gauss(0, 0.1) for _ in range(n)]
        tensors[name] = Tensor(F32, list(ne), struct.pack(f"<{n}f", *values))

    def put_experts(prefix, *ne):
        put(prefix + "_exps.weight", *ne, n_expert)
        if single:
            merged = tensors.pop(prefix + "_exps.weight").data
            size = len(merged) // n_expert
            for e in range(n_expert):
                tensors[f"{prefix}.{e}.weight"] = Tensor(F32, list(ne), merged[e * size:(e + 1) * size])

    put("token_embd.weight", n_embd, 512)
    for il in range(n_layer):
        blk = f"blk.{il}."
        put(blk + "attn_norm.weight", n_embd, norm=True)
        put(blk + "attn_q.weight", n_embd, 2 * dim)
        put(blk + "attn_k.weight", n_embd, dim)
        put(blk + "attn_v.weight", n_embd, dim)
        put(blk + "attn_output.weight", 2 * dim, n_embd)
        put(blk + "attn_q_norm.weight", dim, norm=True)
        put(blk + "attn_k_norm.weight", dim, norm=True)
        put(blk + "ffn_norm.weight", n_embd, norm=True)
        put(blk + "ffn_gate_inp.weight", n_embd, n_expert)
        put_experts(blk + "ffn_gate", n_embd, n_ff)
        put_experts(blk + "ffn_up", n_embd, n_ff)
        put_experts(blk + "ffn_down", n_ff, n_embd)
    put("output_norm.weight", n_embd, norm=True)
    write(path, keys, tensors)


LETTERS = "\u2581abcdefghijklmnopqrstuvwxyz0123456789.,-():;'\"?!/ACDGILMNRSTW"


def array(kind, form, values):
    raw = b"".join(values) if kind == STRING else struct.pack(f"<{len(values)}{form}", *values)
    return ARRAY, struct.pack("<IQ", kind, len(values)) + raw


def lettered(path, source):
    keys, tensors = read(source)
    pieces = ["<pad>", "</s>", "<unk>", *LETTERS]
    assert len(pieces) == tensors["token_embd.weight"].ne[1]
    keys = {k: v for k, v in keys.items() if not k.startswith("tokenizer.")}
    keys["tokenizer.ggml.model"] = text("t5")
    keys["tokenizer.ggml.tokens"] = array(STRING, "", [text(p)[1] for p in pieces])
    keys["tokenizer.ggml.scores"] = array(6, "f", [0.0 if i < 3 else -1.0 for i in range(len(pieces))])
    keys["tokenizer.ggml.token_type"] = array(5, "i", [3, 3, 2] + [1] * len(LETTERS))
    for i, name in enumerate(("padding", "eos", "unknown")):
        keys[f"tokenizer.ggml.{name}_token_id"] = u32(i)
    keys["tokenizer.ggml.add_bos_token"] = (7, b"\0")
    keys["tokenizer.ggml.add_eos_token"] = (7, b"\1")
    write(path, keys, tensors)
    return path
