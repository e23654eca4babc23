#!/usr/bin/python3
"""Writes variants of a GGUF file that hold the same numbers, for tests of the reader.

    regroup.py single IN.gguf OUT.gguf      a tensor for each expert (blk.N.ffn_up.E.weight), as Mixtral
                                            files were before experts were stacked; version 2
    regroup.py split PARTS IN.gguf PREFIX   PREFIX-00001-of-0000N.gguf ...: keys in the first part
"""
import re
import struct
import sys

ALIGN = 32
FIXED = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
BYTES = {0: 4, 1: 2}  # F32, F16: bytes an element


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
        return self.data[self.at - n:self.at]

    def skip_value(self, kind):
        if kind == 8:
            self.text()
        elif kind == 9:
            inner, n = self.take("I"), self.take("Q")
            for _ in range(n):
                self.skip_value(inner)
        else:
            self.at += FIXED[kind]


def read(path):
    """Keys as raw bytes each, tensors as (name, dims, type, data)."""
    r = Reader(open(path, "rb").read())
    assert r.take("4s") == b"GGUF" and r.take("I") in (2, 3)
    n_tensors, n_keys = r.take("Q"), r.take("Q")
    keys, infos = [], []
    for _ in range(n_keys):
        begin = r.at
        r.text()
        r.skip_value(r.take("I"))
        keys.append(r.data[begin:r.at])
    for _ in range(n_tensors):
        name = r.text().decode()
        dims = [r.take("Q") for _ in range(r.take("I"))]
        infos.append((name, dims, r.take("I"), r.take("Q")))
    base = (r.at + ALIGN - 1) // ALIGN * ALIGN
    tensors = []
    for name, dims, kind, offset in infos:
        size = BYTES[kind]
        for d in dims:
            size *= d
        tensors.append((name, dims, kind, r.data[base + offset:base + offset + size]))
    return keys, tensors


def write(path, version, keys, tensors):
    out = bytearray(struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(keys)) + b"".join(keys))
    offset = 0
    for name, dims, kind, data in tensors:
        out += struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", len(dims))
        out += struct.pack(f"<{len(dims)}QIQ", *dims, kind, offset)
        offset += (len(data) + ALIGN - 1) // ALIGN * ALIGN
    for _, _, _, data in tensors:
        out += b"\0" * (-len(out) % ALIGN) + data
    open(path, "wb").write(bytes(out))


def single(source, target):
    keys, tensors = read(source)
    out = []
    for name, dims, kind, data in tensors:
        found = re.fullmatch(r"(blk\.\d+\.ffn_(?:gate|up|down))_exps\.weight", name)
        if not found:
            out.append((name, dims, kind, data))
            continue
        n = len(data) // dims[2]
        for e in range(dims[2]):
            out.append((f"{found[1]}.{e}.weight", dims[:2], kind, data[e * n:(e + 1) * n]))
    write(target, 2, keys, out)


def split(parts, source, prefix):
    keys, tensors = read(source)

    def key(name, kind, form, value):
        return struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I" + form, kind, value)

    for i in range(parts):
        own = [key("split.no", 2, "H", i), key("split.count", 2, "H", parts),
               key("split.tensors.count", 5, "i", len(tensors))]
        chunk = tensors[i * len(tensors) // parts:(i + 1) * len(tensors) // parts]
        write(f"{prefix}-{i + 1:05}-of-{parts:05}.gguf", 3, (keys if i == 0 else []) + own, chunk)


def main():
    if sys.argv[1:2] == ["single"] and len(sys.argv) == 4:
        single(sys.argv[2], sys.argv[3])
    elif sys.argv[1:2] == ["split"] and len(sys.argv) == 5:
        split(int(sys.argv[2]), sys.argv[3], sys.argv[4])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
