"""Reads GGUF files into numpy arrays: F32, F16, BF16 and Q8_0 tensors, keys of all types. For the tools here."""
import struct

import numpy as np

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, form):
        value = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return value[0]

    def text(self):
        n = self.take("Q")
        self.at += n
        return self.data[self.at - n:self.at].decode("utf-8", "surrogateescape")

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            inner, n = self.take("I"), self.take("Q")
            return [self.value(inner) for _ in range(n)]
        return self.take(SCALARS[kind])


def q8_0(raw):
    blocks = raw.reshape(-1, 34)
    scale = np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32)
    return (blocks[:, 2:].view(np.int8).astype(np.float32) * scale).reshape(-1)


def bf16(raw):
    return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


# type: (values a block, bytes a block, bytes to float32)
TYPES = {0: (1, 4, lambda raw: raw.view(np.float32)),
         1: (1, 2, lambda raw: raw.view(np.float16).astype(np.float32)),
         8: (32, 34, q8_0),
         30: (1, 2, bf16)}


def read_gguf(path):
    """(keys, tensors); a tensor [n_out, n_in] or [n_expert, n_out, n_in], float32, as the file orders values."""
    with open(path, "rb") as f:
        r = Reader(f.read())
    if r.take("4s") != b"GGUF" or r.take("I") not in (2, 3):
        raise ValueError(f"{path}: not a GGUF file of version 2 or 3")
    n_tensors, n_keys = r.take("Q"), r.take("Q")
    keys = {}
    for _ in range(n_keys):
        name = r.text()
        keys[name] = r.value(r.take("I"))
    infos = []
    for _ in range(n_tensors):
        name = r.text()
        dims = [r.take("Q") for _ in range(r.take("I"))]
        infos.append((name, dims, r.take("I"), r.take("Q")))
    align = keys.get("general.alignment", 32)
    base = (r.at + align - 1) // align * align
    whole = np.frombuffer(r.data, dtype=np.uint8)
    tensors = {}
    for name, dims, kind, offset in infos:
        if kind not in TYPES:
            raise ValueError(f"{path}: {name}: type {kind}; only F32, F16, BF16 and Q8_0 are read here")
        values, size, to_float = TYPES[kind]
        n = int(np.prod(dims))
        raw = whole[base + offset:base + offset + n // values * size].copy()
        tensors[name] = to_float(raw).reshape(dims[::-1])
    return keys, tensors
