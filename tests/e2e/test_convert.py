#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Hugging Face folders to GGUFs, and GGUFs to other types.

The folders are made here, of the tensors of the small GGUFs in tests/data, by the other direction of the same mapping:
what comes out must have the same tensors, byte for byte.
"""
import json
import os
import random
import shlex
import struct
import subprocess

from common import PROGRAM, SANITIZED, SOURCE, TRAINED, Case, main

DATA = os.path.join(SOURCE, "tests", "data")
VOCAB = os.path.join(DATA, "vocab")
VALUE = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def read_gguf(path):
    """Keys, and tensors as {name: (ne, type, bytes)}; sizes of F32, F16, Q8_0 and Q4_K alone."""
    with open(path, "rb") as f:
        data = f.read()
    at = 24
    n_tensors, n_keys = struct.unpack("<qq", data[8:24])

    def take(form):
        nonlocal at
        value = struct.unpack_from("<" + form, data, at)
        at += struct.calcsize("<" + form)
        return value[0]

    def text():
        nonlocal at
        n = take("Q")
        at += n
        return data[at - n:at].decode()

    def value(kind):
        if kind == 8:
            return text()
        if kind == 9:
            kind, n = take("I"), take("Q")
            return [value(kind) for _ in range(n)]
        return take(VALUE[kind])

    keys, infos, tensors = {}, [], {}
    for _ in range(n_keys):
        name = text()
        keys[name] = value(take("I"))
    for _ in range(n_tensors):
        name, n_dims = text(), take("I")
        infos.append((name, [take("q") for _ in range(n_dims)], take("I"), take("Q")))
    align = keys.get("general.alignment", 32)
    base = (at + align - 1) // align * align
    for name, ne, kind, offset in infos:
        n = 1
        for d in ne:
            n *= d
        size = {0: 4 * n, 1: 2 * n, 8: n // 32 * 34, 12: n // 256 * 144}[kind]
        tensors[name] = (ne, kind, data[base + offset:base + offset + size])
    return keys, tensors


def safetensors(path, tensors, **header_changes):
    """tensors: {name: (shape, bytes of F32)}"""
    header, body = {}, b""
    for name, (shape, data) in tensors.items():
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    header.update(header_changes)
    text = json.dumps(header).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + body)


def to_halves(data, n_head, n_rows, row):
    """Rows of pairs that are rotated, (0,1), (2,3), …, as halves: the inverse of what a converter does."""
    rows = [data[i * row:(i + 1) * row] for i in range(n_rows)]
    dim = n_rows // n_head
    out = [None] * n_rows
    for r in range(n_rows):
        head, at = divmod(r, dim)
        out[head * dim + at % 2 * (dim // 2) + at // 2] = rows[r]
    return b"".join(out)


COMMON = {"attn_norm.weight": "input_layernorm.weight", "attn_output.weight": "self_attn.o_proj.weight",
          "ffn_norm.weight": "post_attention_layernorm.weight", "attn_q_norm.weight": "self_attn.q_norm.weight",
          "attn_k_norm.weight": "self_attn.k_norm.weight", "ffn_gate_inp_shexp.weight": "mlp.shared_expert_gate.weight",
          "ffn_gate.weight": "mlp.gate_proj.weight", "ffn_up.weight": "mlp.up_proj.weight", "ffn_down.weight": "mlp.down_proj.weight",
          **{f"ffn_{k}_shexp.weight": f"mlp.shared_expert.{k}_proj.weight" for k in ("gate", "up", "down")},
          **{f"attn_{k}.{w}": f"self_attn.{k}_proj.{w}" for k in "qkv" for w in ("weight", "bias")}}


def decoder_folder(keys, tensors, layout):
    """What transformers would have; layout: experts by their "classic" names, "single" ones, or "fused"."""
    arch = keys["general.architecture"]
    n_head, n_kv = keys[f"{arch}.attention.head_count"], keys[f"{arch}.attention.head_count_kv"]
    out, exps = {}, {}
    for name, (ne, _, data) in tensors.items():
        shape = ne[::-1]
        if not name.startswith("blk."):
            out[{"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
                 "output.weight": "lm_head.weight"}[name]] = (shape, data)
            continue
        _, il, part = name.split(".", 2)
        prefix = f"model.layers.{il}."
        if part.endswith("_exps.weight"):
            exps.setdefault(prefix, {})[part[4:-12]] = (shape, data)
            continue
        if part == "ffn_gate_inp.weight":
            to = "block_sparse_moe.gate.weight" if layout == "classic" else "mlp.gate.weight"
        else:
            to = COMMON[part]
        if arch == "llama" and part in ("attn_q.weight", "attn_k.weight"):
            data = to_halves(data, n_head if part[5] == "q" else n_kv, shape[0], 4 * shape[1])
        if part == "ffn_gate_inp_shexp.weight":
            shape = [1] + shape
        out[prefix + to] = (shape, data)
    for prefix, kinds in exps.items():
        (n, ff, d), _ = kinds["gate"]
        each = 4 * ff * d
        if layout == "fused":
            both = b"".join(kinds[k][1][e * each:(e + 1) * each] for e in range(n) for k in ("gate", "up"))
            out[prefix + "mlp.experts.gate_up_proj"] = ([n, 2 * ff, d], both)
            out[prefix + "mlp.experts.down_proj"] = ([n, d, ff], kinds["down"][1])
            continue
        for kind, w in (("gate", "w1"), ("up", "w3"), ("down", "w2")):
            for e in range(n):
                to = f"block_sparse_moe.experts.{e}.{w}.weight" if layout == "classic" else f"mlp.experts.{e}.{kind}_proj.weight"
                shape = [d, ff] if kind == "down" else [ff, d]
                out[prefix + to] = (shape, kinds[kind][1][e * each:(e + 1) * each])
    return out


def t5_folder(tensors):
    out, names = {}, {"q": "q", "k": "k", "v": "v", "o": "o"}
    for name, (ne, _, data) in tensors.items():
        shape = ne[::-1]
        if name == "token_embd.weight":
            out["shared.weight"] = (shape, data)
            continue
        side, rest = name.split(".", 1)
        stack = {"enc": "encoder", "dec": "decoder"}[side]
        if rest == "output_norm.weight":
            out[f"{stack}.final_layer_norm.weight"] = (shape, data)
            continue
        _, il, part = rest.split(".", 2)
        last = 2 if side == "dec" else 1
        prefix = f"{stack}.block.{il}.layer."
        if part.endswith("_exps.weight"):
            n, rows, row = shape
            each = 4 * rows * row
            for e in range(n):
                w = "wi" if "up" in part else "wo"
                out[f"{prefix}{last}.mlp.experts.expert_{e}.{w}.weight"] = ([rows, row], data[e * each:(e + 1) * each])
        elif part.startswith("cross_attn"):
            kind = part[11:-7]
            out[f"{prefix}1." + ("layer_norm.weight" if kind == "norm" else f"EncDecAttention.{names[kind]}.weight")] = (shape, data)
        elif part == "attn_rel_b.weight":
            out[f"{prefix}0.SelfAttention.relative_attention_bias.weight"] = (shape, data)
        elif part.startswith("attn"):
            kind = part[5:-7]
            out[f"{prefix}0." + ("layer_norm.weight" if kind == "norm" else f"SelfAttention.{names[kind]}.weight")] = (shape, data)
        else:
            out[f"{prefix}{last}." + {"ffn_norm.weight": "layer_norm.weight", "ffn_gate_inp.weight": "mlp.router.classifier.weight",
                                      "ffn_up.weight": "mlp.wi.weight", "ffn_down.weight": "mlp.wo.weight"}[part]] = (shape, data)
    return out


def decoder_config(keys):
    arch = keys["general.architecture"]
    def key(name):
        return keys.get(f"{arch}.{name}")
    return {"model_type": {"llama": "mixtral", "qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe", "olmoe": "olmoe"}[arch],
            "hidden_size": key("embedding_length"), "num_hidden_layers": key("block_count"), "intermediate_size": key("feed_forward_length"),
            "num_attention_heads": key("attention.head_count"), "num_key_value_heads": key("attention.head_count_kv"),
            "head_dim": key("attention.key_length"), "rms_norm_eps": key("attention.layer_norm_rms_epsilon"),
            "rope_theta": key("rope.freq_base") or 10000, "max_position_embeddings": key("context_length"),
            "num_local_experts": key("expert_count"), "num_experts": key("expert_count"), "num_experts_per_tok": key("expert_used_count"),
            "moe_intermediate_size": key("expert_feed_forward_length"),
            "shared_expert_intermediate_size": key("expert_shared_feed_forward_length")}


class Convert(Case):
    def hub(self, name, tensors, config, **changes):
        path = self.path(name)
        os.makedirs(path, exist_ok=True)
        safetensors(os.path.join(path, "model.safetensors"), tensors, **changes)
        with open(os.path.join(path, "config.json"), "w", encoding="utf-8") as f:
            json.dump(config, f)
        return path

    def tiny(self, name="olmoe", layout="single"):
        keys, tensors = read_gguf(os.path.join(DATA, "gen_moe", f"{name}.gguf"))
        config = decoder_config(keys)
        config["vocab_size"] = tensors["token_embd.weight"][0][1]
        return keys, tensors, decoder_folder(keys, tensors, layout), config

    def same_tensors(self, folder, tensors, *more):
        out = self.path("out.gguf")
        self.good("convert", folder, "-o", out, *more)
        keys, found = read_gguf(out)
        self.assertEqual(sorted(found), sorted(tensors))
        for name, (ne, kind, data) in tensors.items():
            self.assertEqual((found[name][0], found[name][1]), (ne, kind), name)
            self.assertTrue(found[name][2] == data, name)
        return keys, out

    # ------------------------------------------------------------ all families

    def test_decoders(self):
        for where, name, layouts in (("gen_moe", "olmoe", ("single", "fused")), ("gen_moe", "qwen3moe", ("single", "fused")),
                                     ("gguf_moe", "gqa_mixtral", ("classic", "fused")), ("gguf_moe", "qwen_moe_tiny", ("single", "fused"))):
            keys, tensors = read_gguf(os.path.join(DATA, where, f"{name}.gguf"))
            config = decoder_config(keys)
            config["vocab_size"] = tensors["token_embd.weight"][0][1]
            for layout in layouts:
                folder = self.hub(f"{name}-{layout}", decoder_folder(keys, tensors, layout), config)
                found, _ = self.same_tensors(folder, tensors)
                arch = keys["general.architecture"]
                for key, value in keys.items():
                    if key.startswith(arch + "."):
                        self.assertEqual(found.get(key), value, key)

    def test_encoders(self):
        for name, kind in (("switch", "switch_transformers"), ("t5dense", "t5")):
            keys, tensors = read_gguf(os.path.join(DATA, "gen_moe", f"{name}.gguf"))
            arch = keys["general.architecture"]
            config = {"model_type": kind, "vocab_size": 64, "d_model": 32, "d_ff": 48, "d_kv": 8, "num_heads": 4, "num_layers": 4,
                      "num_decoder_layers": 4, "num_experts": 8, "decoder_start_token_id": 0, "layer_norm_epsilon": 1e-6}
            found, _ = self.same_tensors(self.hub(name, t5_folder(tensors), config), tensors)
            self.assertEqual(found["general.architecture"], arch)
            self.assertEqual(found[f"{arch}.decoder_block_count"], 4)

    def test_shards(self):
        _, tensors, parts, config = self.tiny()
        folder = self.hub("shards", {}, config)
        os.remove(os.path.join(folder, "model.safetensors"))
        names = sorted(parts)
        files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
        for file, of in files.items():
            safetensors(os.path.join(folder, file), {n: parts[n] for n in of})
        index = {"weight_map": {n: file for file, of in files.items() for n in of}}

        def write(changed):
            with open(os.path.join(folder, "model.safetensors.index.json"), "w", encoding="utf-8") as f:
                json.dump(changed, f)
        write(index)
        self.same_tensors(folder, tensors)
        for said, change in ((["../x", "this folder"], {names[0]: "../x"}), (["none.safetensors"], {names[0]: "none.safetensors"}),
                             ([names[0], "says it is in"], {names[0]: "b.safetensors"})):
            write({"weight_map": {**index["weight_map"], **change}})
            self.refused(self.call("convert", folder, "-o", self.path("x.gguf")), 1, said)

    # ------------------------------------------------------------ vocabularies

    # ------------------------------------------------------------ docs/switch.md

    def test_five_commands(self):
        """From a hub folder to a pre-gated model, word for word as docs/switch.md says it, on a tiny one; training has
        fewer steps and rows."""
        with open(os.path.join(SOURCE, "docs", "switch.md"), encoding="utf-8") as f:
            commands = f.read().split("```")[1].strip().splitlines()
        self.assertEqual([line.split()[:2] for line in commands],
                         [["pregate", name] for name in ("convert", "tune", "train", "eval", "run")])
        _, tensors = read_gguf(os.path.join(DATA, "gen_moe", "switch.gguf"))
        parts, draw = t5_folder(tensors), random.Random(1)
        table = struct.pack(f"<{32 * 2048}f", *(draw.gauss(0, 1) for _ in range(32 * 2048)))
        parts["shared.weight"] = ([32128, 32], (table * 16)[:4 * 32 * 32128])
        folder = self.hub("switch-base-8", parts, {
            "model_type": "switch_transformers", "vocab_size": 32128, "d_model": 32, "d_ff": 48, "d_kv": 8, "num_heads": 4,
            "num_layers": 4, "num_decoder_layers": 4, "num_experts": 8, "decoder_start_token_id": 0, "eos_token_id": 1})
        with open(os.path.join(VOCAB, "t5.model"), "rb") as f:
            self.put("switch-base-8/spiece.model", f.read())
        pairs = [{"source": f"summarize: story {i} of a house", "target": f"house {i}"} for i in range(40)]
        for name in ("train", "test"):
            self.put(f"{name}.jsonl", "".join(json.dumps(pair) + "\n" for pair in pairs))
        more = {"tune": ["--tokens", "500"], "train": ["--steps", "2", "-b", "2x32x16"], "run": ["-n", "4"]}
        for line in commands:
            words = shlex.split(line)
            done = subprocess.run([PROGRAM, *words[1:], *more.get(words[1], [])], cwd=os.path.dirname(folder), timeout=200,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
            self.assertEqual(done.returncode, 0, (line, done.stderr.decode()))
        self.assertIn(b"pregate", done.stderr)

    def cuts_text_as(self, folder, name, texts):
        """The texts of tests/data/vocab, cut by the converted vocabulary."""
        out = self.path("v.gguf")
        self.good("convert", folder, "-o", out)
        with open(os.path.join(VOCAB, texts), "rb") as f:
            inputs = f.read().split(b"\n__ggml_vocab_test__\n")
        with open(os.path.join(VOCAB, f"{name}.out"), encoding="utf-8") as f:
            wanted = [line.split() for line in f.read().split("\n")]
        self.assertGreater(len(wanted), 20)
        for text, ids in list(zip(inputs, wanted))[::15 if SANITIZED else 5]:
            self.assertEqual(self.good("tokenize", out, "-f", "-", stdin=text).stdout.decode().split(), ids, text)
        return read_gguf(out)[0]

    def vocab_hub(self, name, n_vocab, files, **config):
        """A folder of a tiny model with a real vocabulary."""
        keys, tensors, parts, olmoe = self.tiny()
        for of in ("model.embed_tokens.weight", "lm_head.weight"):
            parts[of] = ([n_vocab, 32], b"\0" * (4 * 32 * n_vocab))
        folder = self.hub(name, parts, {**olmoe, "vocab_size": n_vocab, **config})
        for of, to in files.items():
            with open(os.path.join(VOCAB, of), "rb") as f:
                self.put(f"{name}/{to}", f.read())
        return folder

    def test_sentencepiece(self):
        folder = self.vocab_hub("t5", 32128, {"t5.model": "spiece.model"}, eos_token_id=1, pad_token_id=0)
        keys = self.cuts_text_as(folder, "t5", "spm.inp")
        self.assertEqual((keys["tokenizer.ggml.model"], keys["tokenizer.ggml.eos_token_id"]), ("t5", 1))
        self.assertEqual(keys["tokenizer.ggml.tokens"][32100], "[PAD32100]")
        folder = self.vocab_hub("mixtral", 32000, {"mixtral.model": "tokenizer.model"})
        keys = self.cuts_text_as(folder, "mixtral", "spm.inp")
        self.assertEqual((keys["tokenizer.ggml.model"], keys["tokenizer.ggml.add_bos_token"]), ("llama", True))
        self.put("mixtral/tokenizer_config.json", json.dumps({"add_bos_token": False, "added_tokens_decoder": {"5": {
            "content": "<five>", "special": True}}}))
        self.good("convert", folder, "-o", self.path("m.gguf"))
        keys = read_gguf(self.path("m.gguf"))[0]
        self.assertEqual((keys["tokenizer.ggml.add_bos_token"], keys["tokenizer.ggml.tokens"][5], keys["tokenizer.ggml.token_type"][5]),
                         (False, "<five>", 3))
        for n in (0, 1, 100, 5000):  # cut off in the middle
            with open(os.path.join(VOCAB, "mixtral.model"), "rb") as f:
                self.put("mixtral/tokenizer.model", f.read()[:n] + b"\xff")
            self.bad(["tokenizer.model"], folder)

    def test_byte_level_bpe(self):
        folder = self.vocab_hub("olmoe", 50304, {"olmoe.tokenizer.json": "tokenizer.json"})
        keys = self.cuts_text_as(folder, "olmoe", "common.inp")
        self.assertEqual((keys["tokenizer.ggml.model"], keys["tokenizer.ggml.pre"]), ("gpt2", "olmo"))
        path = os.path.join(folder, "tokenizer.json")
        with open(path, encoding="utf-8") as f:
            good = json.load(f)
        split = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|%s| ?[^\\s]+"
        for rule, digits in (("qwen2", "\\p{N}"), ("llama-bpe", "\\p{N}{1,3}")):
            changed = {**good, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": split % digits}}, {"type": "ByteLevel", "use_regex": False}]}}
            self.put("olmoe/tokenizer.json", json.dumps(changed))
            self.good("convert", folder, "-o", self.path("r.gguf"))
            self.assertEqual(read_gguf(self.path("r.gguf"))[0]["tokenizer.ggml.pre"], rule)
        for said, change in ((["byte-level"], {"pre_tokenizer": {"type": "Metaspace"}}), (["pre_tokenizer"], {"pre_tokenizer": {
                "type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "x"}}, {"type": "ByteLevel"}]}}),
                             (["byte-level"], {"model": {**good["model"], "byte_fallback": True}}),
                             (["merge"], {"model": {**good["model"], "merges": [5]}}), (["token"], {"added_tokens": [{"id": 10**9, "content": "x"}]})):
            self.put("olmoe/tokenizer.json", json.dumps({**good, **change}))
            self.bad(said, folder)

    def plain_bpe(self, name, merges, added, n_vocab, **config):
        """A folder with vocab.json, merges.txt and added_tokens.json, and no tokenizer.json."""
        folder = self.vocab_hub(name, n_vocab, {merges: "merges.txt", added: "added_tokens.json"}, **config)
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        texts = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
        for line in self.bytes_of(f"{name}/merges.txt").decode().splitlines():
            if line and not line.startswith("#version"):
                texts.append(line.replace(" ", ""))
        self.put(f"{name}/vocab.json", json.dumps({t: i for i, t in enumerate(texts)}))
        return folder

    def test_vocab_and_merges(self):
        # A model of a family whose rule is known, and of another whose tokenizer says it.
        folder = self.plain_bpe("plain", "qwen3.merges.txt", "qwen3.added.json", 151936)
        self.bad(["merges.txt", "olmoe"], folder)
        self.put("plain/tokenizer_config.json", json.dumps({"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": {
            "151657": {"content": "<tool_call>", "special": True}}}))
        keys = self.cuts_text_as(folder, "qwen2", "common.inp")
        self.assertEqual((keys["tokenizer.ggml.model"], keys["tokenizer.ggml.pre"]), ("gpt2", "qwen2"))
        types = dict(zip(keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]))
        self.assertEqual([types[t] for t in ("<|im_end|>", "<tool_call>", "</tool_call>", "the", "[PAD151900]")], [3, 3, 4, 1, 5])
        self.put("plain/tokenizer_config.json", json.dumps({"tokenizer_class": "LlamaTokenizer"}))
        self.bad(["tokenizer_class", "LlamaTokenizer"], folder)
        os.remove(os.path.join(folder, "tokenizer_config.json"))
        keys, tensors = read_gguf(os.path.join(DATA, "gguf_moe", "qwen_moe_tiny.gguf"))
        config = {**decoder_config(keys), "vocab_size": tensors["token_embd.weight"][0][1]}
        qwen = self.hub("qwen", decoder_folder(keys, tensors, "single"), config)
        self.put("qwen/vocab.json", json.dumps({"a": 0, "b": 1, "ab": 2}))
        for said, text in ((["merges.txt", "missing"], None), (["no merges"], "#version: 0.2\n"), (["merge 0", "'ab'"], "ab\n"),
                           (["merge 1", "a b c"], "a b\na b c\n"), (["merge 0"], "a \n"), (["merge 0"], " b\n"), (["merge 0"], "a \0b\n")):
            if text is not None:
                self.put("qwen/merges.txt", text)
            self.bad(said, qwen)
        self.put("qwen/merges.txt", "#version: 0.2\r\na b\r\n")
        self.good("convert", qwen, "-o", self.path("q.gguf"))
        keys = read_gguf(self.path("q.gguf"))[0]
        self.assertEqual((keys["tokenizer.ggml.pre"], keys["tokenizer.ggml.merges"], keys["tokenizer.ggml.tokens"][:3]),
                         ("qwen2", ["a b"], ["a", "b", "ab"]))
        for said, vocab in ((["the id of 'a'"], {"a": "0"}), (["'b' has the id 0"], {"a": 0, "b": 0}), (["token 99999"], {"a": 99999}), (["no tokens"], {}), (["vocab.json"], ["a"])):
            self.put("qwen/vocab.json", json.dumps(vocab))
            self.bad(said, qwen)
        os.remove(os.path.join(qwen, "vocab.json"))
        self.bad(["vocab.json", "missing"], qwen)
        self.refused(self.call("convert", qwen, "-o", os.path.join(qwen, "merges.txt")), 1, ["vocab.json"])
        folder = self.plain_bpe("gpt2", "gpt-2.merges.txt", "gpt-2.added.json", 50257)
        self.put("gpt2/tokenizer_config.json", json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
        self.assertEqual(self.cuts_text_as(folder, "gpt-2", "common.inp")["tokenizer.ggml.pre"], "gpt-2")

    # ------------------------------------------------------------ refusals

    def bad(self, said, folder, *more):
        out = self.path("bad.gguf")
        self.refused(self.call("convert", folder, "-o", out, *more), 1, said)
        self.assertFalse(os.path.exists(out))

    def test_bad_folders(self):
        _, _, parts, config = self.tiny()
        for n, (said, change) in enumerate(((["model_type", "gpt_neo"], {"model_type": "gpt_neo"}), (["hidden_size", "missing"], {"hidden_size": None}),
                                            (["hidden_act", "relu"], {"hidden_act": "relu"}), (["clip_qkv"], {"clip_qkv": 8}),
                                            (["rope_type", "yarn"], {"rope_scaling": {"rope_type": "yarn", "factor": 4}}),
                                            (["num_experts"], {"num_experts": -3}), (["shape"], {"num_experts": 5}),
                                            (["embed_tokens", "shape"], {"vocab_size": 65}), (["hidden_act"], {"hidden_act": ["silu"]}),
                                            (["rope_scaling"], {"rope_scaling": 4.0}), (["rope_type"], {"rope_parameters": {"rope_type": 7}}),
                                            (["partial_rotary_factor", "0.5"], {"partial_rotary_factor": 0.5}),
                                            (["max_position_embeddings"], {"max_position_embeddings": 0}),
                                            (["num_experts_per_tok", "99"], {"num_experts_per_tok": 99}), (["head_dim", "5"], {"head_dim": 5}),
                                            (["num_attention_heads", "multiple"], {"num_attention_heads": 4, "num_key_value_heads": 3}),
                                            (["rms_norm_eps", "missing"], {"rms_norm_eps": None}))):
            self.bad(said, self.hub(f"c{n}", parts, {**config, **change}))
        fewer = dict(parts)
        gone = fewer.pop("model.layers.1.mlp.experts.3.up_proj.weight")
        self.bad(["experts.3.up_proj", "missing"], self.hub("fewer", fewer, config))
        self.bad(["no use", "other.weight"], self.hub("more", {**parts, "other.weight": gone}, config))
        empty = self.path("empty")
        os.makedirs(empty)
        self.bad(["config.json"], empty)
        self.put("empty/config.json", json.dumps(config))
        self.bad(["no model.safetensors"], empty)
        self.put("empty/pytorch_model.bin", b"x")
        self.bad(["pytorch_model.bin", "save_pretrained"], empty)
        self.refused(self.call("convert", empty), 2, ["-o"])
        self.bad(["type", "Q9"], self.hub("type", parts, config), "--type", "Q9")

    def test_bad_encoders(self):
        _, tensors = read_gguf(os.path.join(DATA, "gen_moe", "switch.gguf"))
        config = {"model_type": "switch_transformers", "vocab_size": 64, "d_model": 32, "d_ff": 48, "d_kv": 8, "num_heads": 4, "num_layers": 4,
                  "num_experts": 8}
        for n, (said, change) in enumerate(((["dense_act_fn", "gelu"], {"dense_act_fn": "gelu"}), (["num_selected_experts"], {"num_selected_experts": 2}),
                                            (["wi_0"], {"feed_forward_proj": "gated-gelu"}), (["silu"], {"feed_forward_proj": "gated-silu"}),
                                            (["max_distance"], {"relative_attention_max_distance": 64}), (["router_bias"], {"router_bias": True}),
                                            (["decoder_start_token_id"], {"decoder_start_token_id": 64}), (["n_positions"], {"n_positions": 0}))):
            self.bad(said, self.hub(f"e{n}", t5_folder(tensors), {**config, **change}))
        # As many buckets as distances.
        _, dense = read_gguf(os.path.join(DATA, "gen_moe", "t5dense.gguf"))
        for n in (4, 255, 256):
            parts = {k: ([n, 4], b"\0" * 16 * n) if "relative_attention_bias" in k else v for k, v in t5_folder(dense).items()}
            folder = self.hub(f"b{n}", parts, {**config, "model_type": "t5", "relative_attention_num_buckets": n})
            self.good("convert", folder, "-o", self.path("b.gguf"))
            self.good("logits", self.path("b.gguf"), "--tokens", "1,2,3", "--decoder-tokens", "0,5", "-o", self.path("b.npy"))

    def test_what_is_read_is_not_written(self):
        _, _, parts, config = self.tiny()
        folder = self.hub("self", parts, config)
        before = self.bytes_of("self/model.safetensors")
        for name in ("model.safetensors", "config.json"):
            self.refused(self.call("convert", folder, "-o", os.path.join(folder, name)), 1, [name, "the model itself"])
        self.assertEqual(self.bytes_of("self/model.safetensors"), before)
        os.remove(os.path.join(folder, "config.json"))
        os.mkfifo(os.path.join(folder, "config.json"))
        self.bad(["config.json", "a file is wanted"], folder)

    def test_too_large_for_the_type(self):
        _, _, parts, config = self.tiny()
        shape, data = parts["lm_head.weight"]
        parts["lm_head.weight"] = (shape, struct.pack("<f", 1e6) + data[4:])
        folder = self.hub("large", parts, config)
        self.bad(["lm_head.weight", "1e+06", "65504"], folder, "--type", "F16")
        self.good("convert", folder, "-o", self.path("keep.gguf"))
        self.refused(self.call("quantize", self.path("keep.gguf"), "--type", "F16", "-o", self.path("x.gguf")), 1, ["output.weight", "65504"])

    def test_bad_safetensors(self):
        """Each breach of the format by itself."""
        _, _, parts, config = self.tiny()
        name = "model.norm.weight"
        folder = self.hub("f", parts, config)
        path = os.path.join(folder, "model.safetensors")
        with open(path, "rb") as f:
            good = f.read()
        n = struct.unpack("<Q", good[:8])[0]
        header, body = json.loads(good[8:8 + n]), good[8 + n:]

        def write(text, rest=body, length=None):
            text = text if isinstance(text, bytes) else json.dumps(text).encode()
            with open(path, "wb") as f:
                f.write(struct.pack("<Q", len(text) if length is None else length) + text + rest)

        def changed(**what):
            return {**header, name: {**header[name], **what}}
        begin, end = header[name]["data_offsets"]
        for said, args in (
                (["dtype"], (changed(dtype="F31"),)), (["shape"], (changed(shape=[0]),)), (["shape"], (changed(shape=[2**62, 8]),)),
                (["shape"], (changed(shape="x"),)), (["data_offsets"], (changed(data_offsets=[end, begin]),)),
                (["data_offsets"], (changed(data_offsets=[begin, end + 4]),)), (["data_offsets"], (changed(data_offsets=[begin]),)),
                (["begins at"], (changed(data_offsets=[begin + 4, end + 4]),)), (["cut off"], (header, body[:-4])),
                (["something else"], (header, body + b"1234")), (["header"], (header, body, 2**63)), (["header"], (header, body, 0)),
                (["header", "'['"], (b"[1]",)), (["header"], (b'{"a": 1e999}',)), (["header"], (b'{"a":' * 5000,)),
                (["header"], (b'{"a": 1, "a": 2}',)), (["dtype"], ({"a": 5},)), (["10 at least"], (b"", b"", 0))):
            write(*args)
            self.bad(said, folder)
        write(changed(dtype="I32"))
        self.bad([name, "I32"], folder)
        at = header["lm_head.weight"]["data_offsets"][0]
        write(header, body[:at] + struct.pack("<f", float("nan")) + body[at + 4:])
        self.bad(["lm_head.weight", "is nan"], folder)
        write(header)
        self.good("convert", folder, "-o", self.path("good.gguf"))

    # ------------------------------------------------------------ types

    def test_types_run(self):
        """The trained model loses little in eight bits, more in four; experts alone are smaller, too."""
        def ppl(model):
            return json.loads(self.good("eval", model, "--data", os.path.join(SOURCE, "models/data/stories.valid.txt"), "--max", "4",
                                        "--json").stdout)["ppl"]
        before, found, size = ppl(TRAINED), {}, {}
        for kind, more in (("F32", []), ("Q8_0", []), ("Q4_0", []), ("Q2_K", ["--experts-only"])):
            out = self.path(f"{kind}.gguf")
            self.good("quantize", TRAINED, "--type", kind, "-o", out, *more)
            found[kind], size[kind] = ppl(out), os.path.getsize(out)
        self.assertEqual(found["F32"], before)
        self.assertLess(abs(found["Q8_0"] / before - 1), 0.003)
        self.assertLess(found["Q4_0"] / before - 1, 0.05)
        self.assertLess(size["Q4_0"], size["Q8_0"])
        self.assertLess(size["Q2_K"], os.path.getsize(TRAINED))
        # Converted at once, or first as it is and then quantised: the same bytes of weights.
        _, _, parts, config = self.tiny()
        folder = self.hub("t", parts, config)
        self.good("convert", folder, "-o", self.path("keep.gguf"))
        self.good("convert", folder, "--type", "Q8_0", "-o", self.path("at-once.gguf"))
        self.good("quantize", self.path("keep.gguf"), "--type", "Q8_0", "-o", self.path("later.gguf"))
        self.assertEqual(read_gguf(self.path("at-once.gguf"))[1], read_gguf(self.path("later.gguf"))[1])

    def test_quantize_refused(self):
        self.refused(self.call("quantize", TRAINED, "-o", self.path("x")), 2, ["--type"])
        self.refused(self.call("quantize", TRAINED, "--type", "Q8_0"), 2, ["-o"])
        self.refused(self.call("quantize", TRAINED, "--type", "Q9", "-o", self.path("x")), 1, ["Q9"])
        for model in (os.path.join(DATA, "gen_moe", "t5dense.gguf"), os.path.join(DATA, "stories260K", "stories260K.gguf")):
            self.refused(self.call("quantize", model, "--type", "Q8_0", "--experts-only", "-o", self.path("x")), 1, ["none of its"])
        single = os.path.join(DATA, "gguf_moe", "single_mixtral.gguf")  # a tensor for each expert
        self.good("quantize", single, "--type", "Q8_0", "--experts-only", "-o", self.path("single.gguf"))
        self.assertEqual({t for n, (_, t, _) in read_gguf(self.path("single.gguf"))[1].items() if ".ffn_up." in n}, {8})
        with open(TRAINED, "rb") as f:
            copy = self.put("m.gguf", f.read())
        self.refused(self.call("quantize", copy, "--type", "Q8_0", "-o", copy), 1, ["is an input"])


if __name__ == "__main__":
    main()
