"""The shape of a model, without its weights: a GGUF file of the same family, vocabulary and keys, in another size.

`pregate train FILE --from scratch` takes shape and vocabulary from it; its tensors are zeros.
"""
import struct

SIZES = {4: "I", 5: "i", 6: "f", 7: "?", 8: None, 9: None, 0: "B", 1: "b", 2: "H", 3: "h", 10: "Q", 11: "q", 12: "d"}
F32, F16 = 0, 1
ALIGN = 32


class Keys:
    """The keys of a GGUF file as they lie in it, those of one number ready to be changed."""

    def __init__(self, data):
        self.data, self.at = data, 24
        magic, version, self.n_tensors, n_keys = struct.unpack_from("<4sIQQ", data)
        if magic != b"GGUF" or version != 3:
            raise ValueError("not a GGUF file of version 3")
        self.raw = {}
        for _ in range(n_keys):
            begin = self.at
            name = self.text()
            kind = self.take("I")
            value_at = self.at
            self.skip(kind)
            self.raw[name] = (kind, data[begin:value_at], data[value_at:self.at])

    def take(self, form):
        value, = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return value

    def text(self):
        n = self.take("Q")
        self.at += n
        return self.data[self.at - n:self.at].decode()

    def skip(self, kind):
        if kind == 8:
            self.text()
        elif kind == 9:
            inner, n = self.take("I"), self.take("Q")
            for _ in range(n):
                self.skip(inner)
        else:
            self.take(SIZES[kind])

    def tensor_infos(self):
        """The directory of tensors as it lies in the file; `at` is behind it then."""
        begin = self.at
        for _ in range(self.n_tensors):
            self.text()
            n_dims = self.take("I")
            self.at += 8 * n_dims + 4 + 8
        return self.data[begin:self.at]

    def number(self, name):
        kind, _, value = self.raw[name]
        return struct.unpack("<" + SIZES[kind], value)[0]

    def change(self, name, number):
        kind, head, _ = self.raw[name]
        self.raw[name] = (kind, head, struct.pack("<" + SIZES[kind], number))

    def change_text(self, name, text):
        kind, head, _ = self.raw[name]
        self.raw[name] = (kind, head, struct.pack("<Q", len(text)) + text.encode())

    def written(self, infos, n_tensors):
        """The file up to its data."""
        head = struct.pack("<4sIQQ", b"GGUF", 3, n_tensors, len(self.raw))
        head += b"".join(h + value for _, h, value in self.raw.values()) + infos
        return head + bytes(-len(head) % ALIGN)


def tensors(n):
    """(name, type, dimensions as GGUF orders them) of family qwen3moe; n(key) is a number of the shape."""
    embd, ff, experts, head = (n(k) for k in ("embedding_length", "expert_feed_forward_length", "expert_count",
                                              "attention.key_length"))
    q, kv = n("attention.head_count") * head, n("attention.head_count_kv") * head
    yield "token_embd.weight", F16, (embd, n("vocab_size"))
    yield "output_norm.weight", F32, (embd,)
    for il in range(n("block_count")):
        for name, kind, dims in (("attn_norm", F32, (embd,)), ("attn_q", F16, (embd, q)), ("attn_k", F16, (embd, kv)),
                                 ("attn_v", F16, (embd, kv)), ("attn_output", F16, (q, embd)),
                                 ("attn_q_norm", F32, (head,)), ("attn_k_norm", F32, (head,)),
                                 ("ffn_norm", F32, (embd,)), ("ffn_gate_inp", F32, (embd, experts)),
                                 ("ffn_gate_exps", F16, (embd, ff, experts)), ("ffn_up_exps", F16, (embd, ff, experts)),
                                 ("ffn_down_exps", F16, (ff, embd, experts))):
            yield f"blk.{il}.{name}.weight", kind, dims


def n_bytes(kind, dims):
    n = 4 if kind == F32 else 2
    for d in dims:
        n *= d
    return n


def write_shape(like, out, sizes):
    """OUT: as LIKE, with the numbers of `sizes`, a dictionary of keys without the family's name."""
    keys = Keys(like.read_bytes())
    for name, number in sizes.items():
        keys.change(f"qwen3moe.{name}", number)
    infos, at = b"", 0
    all_tensors = list(tensors(lambda name: keys.number(f"qwen3moe.{name}")))
    for name, kind, dims in all_tensors:
        infos += struct.pack("<Q", len(name)) + name.encode() + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, at)
        at += (n_bytes(kind, dims) + ALIGN - 1) // ALIGN * ALIGN
    replace(out, keys.written(infos, len(all_tensors)) + bytes(at))


def write_with_text(like, out, name, text):
    """OUT: as LIKE, but for its key `name`, which holds a text."""
    keys = Keys(like.read_bytes())
    infos = keys.tensor_infos()
    keys.change_text(name, text)
    begin = (keys.at + ALIGN - 1) // ALIGN * ALIGN
    replace(out, keys.written(infos, keys.n_tensors) + keys.data[begin:])


def replace(path, data):
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)
