#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Packed models: each expert is one record that begins at a page, and nothing that is computed changes.

Every family's small model is packed; llama.cpp's own rules for a GGUF (tensors one behind the other, each padded to the
alignment, no gap) are checked of what is written.
"""
import json
import os
import re
import struct
import sys

sys.dont_write_bytecode = True
from common import SANITIZED, SOURCE, TRAINED, Case, main  # noqa: E402
from test_convert import DATA, VALUE  # noqa: E402

PAGE = 4096
MODELS = {"olmoe": "gen_moe", "qwen3moe": "gen_moe", "switch": "gen_moe", "mixed": "gen_moe", "gqa_mixtral": "gguf_moe",
          "qwen_moe_tiny": "gguf_moe", "single_mixtral": "gguf_moe", "split_qwen-00001-of-00003": "gguf_moe"}
BLOCK = {0: (1, 4), 1: (1, 2), 2: (32, 18), 8: (32, 34), 10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210),
         30: (1, 2)}
EXPERT = re.compile(r"(.*)blk\.(\d+)\.ffn_(gate|up|down)\.(\d+)\.weight$")


def directory(path):
    """Keys, and tensors in their order as (name, ne, type, offset in the file, bytes)."""
    with open(path, "rb") as f:
        data = f.read()
    at = 24
    n_tensors, n_keys = struct.unpack("<qq", data[8:24])

    def take(form):
        nonlocal at
        at += struct.calcsize("<" + form)
        return struct.unpack_from("<" + form, data, at - struct.calcsize("<" + form))[0]

    def text():
        nonlocal at
        n = take("Q")
        at += n
        return data[at - n:at].decode("utf-8", "replace")

    def value(kind):
        if kind == 9:
            kind, n = take("I"), take("Q")
            return [value(kind) for _ in range(n)]
        return text() if kind == 8 else take(VALUE[kind])
    keys, infos = {}, []
    for _ in range(n_keys):
        name = text()
        keys[name] = value(take("I"))
    for _ in range(n_tensors):
        name, n_dims = text(), take("I")
        ne, kind, offset = [take("q") for _ in range(n_dims)], take("I"), take("Q")
        size = BLOCK[kind][1]
        for d in ne:
            size *= d
        infos.append((name, ne, kind, offset, size // BLOCK[kind][0]))
    align = keys.get("general.alignment", 32)
    base = -(-at // align) * align
    return keys, [(n, ne, k, base + o, size) for n, ne, k, o, size in infos], data


def merged(tensors, data):
    """Tensors as {name: (ne, type, bytes)}, those of single experts put together."""
    out = {}
    for name, ne, kind, at, size in tensors:
        m = EXPERT.match(name)
        if not m:
            out[name] = (ne, kind, data[at:at + size])
            continue
        to = f"{m[1]}blk.{m[2]}.ffn_{m[3]}_exps.weight"
        before = out.get(to, (ne + [0], kind, b""))
        assert before[0][2] == int(m[4]) and before[0][:2] == ne and before[1] == kind, name
        out[to] = (ne + [before[0][2] + 1], kind, before[2] + data[at:at + size])
    return out


class Pack(Case):
    def model(self, name):
        return os.path.join(DATA, MODELS[name], f"{name}.gguf")

    def check_layout(self, path):
        """A GGUF that llama.cpp opens, with records of gate, up and down, each from a page on."""
        keys, tensors, data = directory(path)
        self.assertEqual(keys["general.alignment"], PAGE)
        self.assertFalse([k for k in keys if k.startswith("split.")])
        at, n_experts, before = tensors[0][3], 0, None
        for name, _, _, offset, size in tensors:
            self.assertEqual(offset, at, name)
            self.assertEqual(offset % PAGE, 0, name)
            at = -(-(offset + size) // PAGE) * PAGE
            m = EXPERT.match(name)
            kinds = ["gate", "up", "down"]
            if m and before and m[4] == before[4] and m[2] == before[2] and m[1] == before[1]:
                self.assertEqual(kinds.index(m[3]), kinds.index(before[3]) + 1, name)
            elif m:
                self.assertIn(m[3], ("gate", "up"))
                n_experts += 1
            before = m
        self.assertEqual(len(data), at)
        return n_experts, merged(tensors, data)

    def logits(self, model, *more):
        out = self.path("l.npy")
        tokens = ["--tokens", "1,2,3,5,8,13"]
        if "switch" in model:
            tokens += ["--decoder-tokens", "0,4,9,7"]
        self.good("logits", model, *tokens, "-o", out, *more)
        return self.bytes_of("l.npy")

    def test_families(self):
        for name in MODELS:
            model, packed = self.model(name), self.path(f"packed-{name.split('-')[0]}.gguf")
            self.good("pack", model, "-o", packed)
            n, found = self.check_layout(packed)
            self.assertGreater(n, 3)
            if not name.startswith("split"):
                keys, tensors, data = directory(model)
                self.assertEqual(found, merged(tensors, data))
                left = {k: v for k, v in directory(packed)[0].items() if k != "general.alignment"}
                self.assertEqual(left, {k: v for k, v in keys.items() if k != "general.alignment"})
            want = self.logits(model)
            for more in ([], ["--mode", "ondemand", "--slots", "3"], ["--mode", "lookahead", "--slots", "4"],
                         ["--mode", "prefetch-all", "--slots", "6"], ["--mode", "ondemand", "--slots", "3", "--io", "pread"]):
                if not (name == "switch" and "lookahead" in more):
                    self.assertEqual(self.logits(packed, *more), want, (name, more))
            # And back.
            back = self.path(f"back-{name}.gguf")
            self.good("pack", packed, "--undo", "-o", back)
            keys, tensors, data = directory(back)
            self.assertNotIn("general.alignment", keys)
            self.assertEqual({n: (ne, k, data[at:at + size]) for n, ne, k, at, size in tensors}, found)
            self.assertEqual(self.logits(back), want)

    def test_pregates(self):
        """A sidecar of the model is one of the packed model, and decides the same."""
        packed, gates = self.path("p.gguf"), self.path("g.gguf")
        self.good("pack", TRAINED, "-o", packed)
        self.good("sidecar", TRAINED, "-o", gates)
        for mode in ("pregate", "hint"):
            more = ("--mode", mode, "--pregate", gates, "--slots", "40")
            self.assertEqual(self.logits(packed, *more), self.logits(TRAINED, *more))

    def test_slots(self):
        """A record has no page around each matrix, so more of them fit, and the same text comes out."""
        memory = f"{400 if SANITIZED else 12}M"
        packed, slot, text = self.path("p.gguf"), {}, {}
        self.good("pack", TRAINED, "-o", packed)
        for model in (TRAINED, packed):
            plan = json.loads(self.good("plan", model, "--memory", memory, "--no-measure", "--json").stdout)
            slot[model] = plan["slot_bytes"]
            text[model] = json.loads(self.good("run", model, "-p", "Once", "-n", "8", "--temp", "0", "--mode", "ondemand", "--memory",
                                               memory, "--json").stdout)["text"]
        self.assertEqual(slot[packed], 3 * 32768)
        self.assertEqual(slot[TRAINED], 3 * (32768 + PAGE))
        self.assertEqual(text[TRAINED], text[packed])

    def test_with_another_type(self):
        """--pack, and packing later, are the same bytes; a packed file stays packed. So for any number of threads."""
        once, later, keep = self.path("once.gguf"), self.path("later.gguf"), self.path("keep.gguf")
        self.good("quantize", TRAINED, "--type", "Q8_0", "--pack", "-t", "1", "-o", once)
        self.check_layout(once)
        self.good("quantize", TRAINED, "--type", "Q8_0", "-t", "3", "-o", keep)
        self.good("pack", keep, "-t", "2", "-o", later)
        self.assertEqual(self.bytes_of("once.gguf"), self.bytes_of("later.gguf"))
        self.good("pack", TRAINED, "-o", keep)
        self.good("quantize", keep, "--type", "Q8_0", "-t", "7", "-o", later)
        self.assertEqual(self.bytes_of("once.gguf"), self.bytes_of("later.gguf"))
        for kind in ("Q4_K", "BF16"):
            found = set()
            for threads in ("1", "2", "5"):
                self.good("quantize", TRAINED, "--type", kind, "-t", threads, "-o", later)
                found.add(self.bytes_of("later.gguf"))
            self.assertEqual(len(found), 1)

    def test_refused(self):
        packed = self.path("p.gguf")
        self.good("pack", TRAINED, "-o", packed)
        before = self.bytes_of("p.gguf")
        dense = os.path.join(DATA, "stories260K", "stories260K.gguf")
        for said, model, more in ((["packed already"], packed, []), (["nothing is packed"], TRAINED, ["--undo"]),
                                  (["no experts"], dense, []), (["no experts"], os.path.join(DATA, "gen_moe", "t5dense.gguf"), [])):
            self.refused(self.call("pack", model, "-o", self.path("x.gguf"), *more), 1, said)
        self.refused(self.call("pack", packed, "-o", packed), 1, ["is an input"])
        self.refused(self.call("pack", packed), 2, ["-o"])
        self.refused(self.call("quantize", dense, "--type", "Q8_0", "--pack", "-o", self.path("x.gguf")), 1, ["no experts"])
        self.assertEqual(self.bytes_of("p.gguf"), before)
        self.assertEqual(sorted(os.listdir(self.dir)), ["p.gguf"])
        # Expert 5 of one matrix has another number.
        broken = before.replace(b"blk.0.ffn_up.5.weight", b"blk.0.ffn_up.77weight")
        self.refused(self.call("pack", self.put("b.gguf", broken), "--undo", "-o", self.path("x.gguf")), 1, ["is not expert 5"])
        broken = before.replace(b"blk.0.ffn_up.10.weight", b"blk.0.ffn_up.99.weight")
        self.refused(self.call("pack", self.put("b.gguf", broken), "--undo", "-o", self.path("x.gguf")), 1, ["is not expert"])


if __name__ == "__main__":
    main()
