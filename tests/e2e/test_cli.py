#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The program from outside: exit codes, messages, and what it prints in every format.

When built with a sanitizer the measured memory is not held against the budget, since the sanitizer's own memory counts in it.
"""
import csv
import fcntl
import io
import json
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
from html.parser import HTMLParser

import tiny_model
from common import MIB, PROGRAM, SANITIZED, SOURCE, STORIES, TRAINED, Case, main

ROW_KEYS = """mode memory_bytes prefill_tps decode_tps decode_tps_sd peak_rss_bytes expert_bytes_read
    expert_requests hits hinted_in_time hinted_late missed stall_seconds compute_seconds
    floor_seconds overlap_efficiency""".split()
COMMANDS = "run bench inspect plan tokenize logits synth convert quantize sidecar tune eval replay train load".split()


def text_of(result):
    return result.stdout.decode()


def npy(data):
    """Shape and values of a float32 .npy file, read by the format's description alone."""
    assert data[:8] == b"\x93NUMPY\x01\x00", data[:10]
    n = struct.unpack("<H", data[8:10])[0]
    assert (10 + n) % 64 == 0 and data[9 + n:10 + n] == b"\n"
    header = eval(data[10:10 + n].decode("ascii"), {"__builtins__": {}})
    assert header["descr"] == "<f4" and header["fortran_order"] is False
    rows, columns = header["shape"]
    assert len(data) == 10 + n + 4 * rows * columns
    return (rows, columns), data[10 + n:]


class Cli(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = TRAINED
        cls.sidecar = os.path.join(cls.folder, "tiny.pregate.gguf")
        cls.good("sidecar", cls.model, "-o", cls.sidecar)
        plan = cls.good("plan", cls.model, "--mode", "ondemand", "-c", "64", "--memory",
                        "200M", "--no-measure", "--json")
        cls.plan = json.loads(plan.stdout)
        # Room for some experts, not for all: the plan of one process fits the next one within a MiB.
        cls.small = cls.plan["minimum"] + 2 * MIB
        # A process that opens one engine after the other; a sanitizer keeps what they freed.
        cls.several = cls.small + (SANITIZED and 256 * MIB)

    def bad(self, code, words, *args, **more):
        result = self.refused(self.call(*args, **more), code, words)
        self.assertEqual(result.stderr[:9], b"pregate: ", args)
        return result

    def beside(self, start):
        return [name for name in os.listdir(self.dir) if name.startswith(start)]

    # ------------------------------------------------------------ usage

    def test_version_and_help(self):
        self.assertRegex(text_of(self.good("--version")), r"^pregate \d+\.\d+\.\d+\n$")
        overview = text_of(self.good("--help"))
        for name in COMMANDS:
            self.assertIn(f"  {name} ", overview)
            page = text_of(self.good(name, "--help"))
            self.assertIn(f"Usage: pregate {name} ", page)
            self.assertIn("Examples:\n  pregate " + name, page)
            self.assertEqual(page, text_of(self.good("help", name)))
        self.assertEqual(self.call().returncode, 2)

    def test_unknown_words(self):
        self.bad(2, ["bnech", "did you mean bench?"], "bnech")
        self.bad(2, ["xyzzy", "--help"], "xyzzy")
        self.bad(2, ["--memroy", "did you mean --memory?"], "run", self.model, "--memroy", "1G")
        self.bad(2, ["--qqqqqqqq"], "run", self.model, "--qqqqqqqq")
        self.bad(2, ["-Z"], "run", self.model, "-Z")
        self.bad(2, ["lokahead", "did you mean lookahead?"], "run", self.model, "--mode", "lokahead")
        self.bad(2, ["--tensors"], "run", self.model, "--tensors")  # inspect's, not run's
        self.bad(2, ["mru"], "bench", self.model, "--evict", "lru,mru")
        self.bad(2, ["wrong"], "bench", self.model, "--modes", "wrong")
        self.bad(2, ["xml"], "bench", self.model, "-o", "xml")

    def test_bad_values(self):
        for size in ["", "0", "-1", "1Q", "G", "101%", "1e3", "0x10", "nan", "1..5M", "1M2", "9999999T"]:
            self.bad(2, ["--memory"], "run", self.model, "-p", "x", f"--memory={size}")
        for number in ["", "x", "1.5", "-2", "99999999999999999999", "3x"]:
            self.bad(2, ["--n-predict"], "run", self.model, "-p", "x", f"--n-predict={number}")
        for real in ["", "x", "nan", "inf", "-0.1"]:
            self.bad(2, ["--temp"], "run", self.model, "-p", "x", f"--temp={real}")
        self.bad(2, ["--seed"], "run", self.model, "-p", "x", "--seed", "-1")
        self.bad(2, ["--json", "no value"], "run", self.model, "-p", "x", "--json=1")
        self.bad(2, ["needs a value"], "run", self.model, "-p")
        for tokens in ["", "1,,2", "1,x", "1,2,", "-1", "99999999999"]:
            self.bad(2, ["--tokens"], "logits", self.model, f"--tokens={tokens}")
        self.bad(2, ["-o"], "synth", "qwen3-tiny")
        self.bad(2, ["did you mean qwen3-tiny?"], "synth", "qwen3-tny", "-o", self.path("x"))
        self.bad(2, ["--slots"], "replay", self.trace(), "--slots", "0")
        self.bad(2, ["not both"], "replay", self.trace(), "--slots", "8", "--ratio", "1")

    def test_model_by_position_or_flag(self):
        a = text_of(self.good("tokenize", self.model, "-p", "once upon"))
        self.assertEqual(a, text_of(self.good("tokenize", "-m", self.model, "-p", "once upon")))
        self.assertEqual(a, text_of(self.good("tokenize", "-p", "once upon", "--", self.model)))
        self.bad(2, ["MODEL", "missing"], "tokenize", "-p", "once")
        self.bad(2, ["twice"], "tokenize", "-m", self.model, self.model, "-p", "once")
        self.bad(2, ["unexpected"], "tokenize", self.model, "another", "-p", "once")

    def test_files_that_are_not_there(self):
        missing = self.path("missing.gguf")
        for args in [("run", missing, "-p", "x"), ("inspect", missing), ("plan", missing),
                     ("tokenize", missing, "-p", "x"), ("logits", missing, "--tokens", "1"),
                     ("sidecar", missing, "-o", self.path("y")), ("replay", missing)]:
            self.bad(1, ["missing.gguf"], *args)
        self.bad(1, ["nothing.txt"], "run", self.model, "-f", self.path("nothing.txt"))
        self.bad(1, ["nowhere"], "logits", self.model, "--tokens", "1", "-o",
                 self.path("nowhere/x.npy"))

    def test_damaged_model(self):
        with open(self.model, "rb") as f:
            head = f.read(100000)
        for n in [0, 3, 24, 1000, 100000]:
            with open(self.path("cut.gguf"), "wb") as f:
                f.write(head[:n])
            self.bad(1, ["cut.gguf"], "inspect", self.path("cut.gguf"))
            self.bad(1, ["cut.gguf"], "run", self.path("cut.gguf"), "-p", "x")

    def test_full_disk(self):
        commands = [("tokenize", self.model, "-p", "once"), ("inspect", self.model, "--json"),
                    ("run", self.model, "-p", "once", "-n", "2"), ("synth", "--list"), ("--help",),
                    ("run", self.model, "-p", "once", "-n", "2", "--json"),
                    ("run", self.model, "-p", "once", "-n", "2", "--echo"),
                    ("logits", self.model, "--tokens", "1,2"), ("logits", self.model, "--tokens", "1"),
                    ("plan", self.model, "--no-measure"), ("replay", self.trace()),
                    ("bench", self.model, "-n", "1", "-p", "1", "-r", "1", "--modes", "resident")]
        for args in commands:
            with open("/dev/full", "wb") as full:
                message = self.bad(1, [], *args, stdout=full).stderr.decode()
            last = message.splitlines()[-1]
            self.assertEqual(last, "pregate: standard output: No space left on device", args)
            self.assertEqual(message.count("No space"), 1, args)
        self.bad(1, ["/dev/full: No space left"], "logits", self.model, "--tokens", "1", "-o", "/dev/full")
        traced = self.call("run", self.model, "-p", "x", "-n", "1", "--trace", "/dev/full")
        self.assertEqual(traced.returncode, 1)
        self.assertIn("pregate: /dev/full: ", traced.stderr.decode())

    def test_two_writers(self):
        """A second one is told; what a killed one has left is in nobody's way."""
        out = self.path("mine")
        trace = ("run", self.model, "-p", "x", "-n", "1", "--trace", out)
        commands = [("synth", "olmoe-tiny", "-o", out), ("sidecar", self.model, "-o", out), trace,
                    ("logits", self.model, "--tokens", "1,2", "-o", out)]
        for args in commands:
            with open(out + ".tmp", "wb") as f:
                f.write(b"left" * 1000)
                f.flush()
                fcntl.flock(f, fcntl.LOCK_EX)
                said = self.refused(self.call(*args), 1, [f"pregate: {out}: another process is writing it"])
                self.assertEqual(self.beside("mine"), ["mine.tmp"], said)
            self.good(*args)
            self.assertEqual(self.beside("mine"), ["mine"])
            os.remove(out)

    def test_in_the_way(self):
        """What is no file that a killed process has left is named, and stays."""
        out = self.path("mine")
        for make in [os.mkdir, os.mkfifo, lambda path: os.symlink(self.model, path),
                     lambda path: os.link(self.model, path)]:
            make(out + ".tmp")
            for args in [("synth", "olmoe-tiny", "-o", out), ("logits", self.model, "--tokens", "1", "-o", out)]:
                self.refused(self.call(*args), 1, [f"pregate: {out}.tmp: "])
            self.assertEqual(self.beside("mine"), ["mine.tmp"])
            (os.rmdir if make is os.mkdir else os.remove)(out + ".tmp")

    def test_files_may_not_grow(self):
        """The limit of a file's size is an error like a full disk, not the end of the process."""
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
        out = self.path("large")
        for args in [("synth", "olmoe-tiny", "-o", out), ("sidecar", self.model, "-o", out),
                     ("logits", self.model, "--tokens", "1,2", "-o", out),
                     ("run", self.model, "-p", "x", "-n", "9", "--trace", out)]:
            self.refused(self.call(*args, preexec_fn=limit), 1, [f"{out}: ", "File too large"])
            self.assertEqual(self.beside("large"), [])

    def test_trace_that_cannot_be_written(self):
        """Is found before the run, which says nothing then."""
        for name, what in (("nowhere/x", "No such file"), ("", "is not a regular file")):
            path = self.path(name)
            said = self.bad(1, [f"{path}", what], "run", self.model, "-p", "x", "--trace", path)
            self.assertEqual(said.stdout, b"")

    def test_inputs_are_not_written_over(self):
        model = self.path("mine.gguf")
        shutil.copyfile(self.model, model)
        text = self.path("text.txt")
        with open(text, "w", encoding="utf-8") as f:
            f.write("Once upon a time.\n")
        before = [open(path, "rb").read() for path in (model, text)]
        for args in [("logits", model, "--tokens", "1,2", "-o", model),
                     ("run", model, "-p", "x", "-n", "1", "--trace", model),
                     ("run", model, "-f", text, "-n", "1", "--trace", text),
                     ("train", model, "--data", text, "--steps", "1", "-o", self.path("o.gguf"), "--csv", text)]:
            self.bad(1, ["is an input"], *args)
        self.assertEqual(before, [open(path, "rb").read() for path in (model, text)])

    def test_reader_that_has_gone(self):
        ends = os.pipe()
        os.close(ends[0])
        for args in [("run", self.model, "-p", "x", "-n", "9"), ("inspect", self.model, "--tensors")]:
            self.bad(1, ["standard output: Broken pipe"], *args, stdout=ends[1])
        os.close(ends[1])

    def test_bad_vocabulary(self):
        """Each command says which file has it."""
        tiny, text = self.path("tiny.gguf"), self.put("text", "once upon a time\n" * 99)
        tiny_model.make(tiny, self.model)
        whole = tiny_model.read(tiny)
        commands = [("run", "-p", "x"), ("tokenize", "-p", "x"), ("plan", "--no-measure"), ("eval", "--data", text),
                    ("tune", "--data", text, "-o", self.path("o")), ("sidecar", "-o", self.path("o")),
                    ("logits", "--tokens", "1"), ("train", "--data", text, "-o", self.path("o"))]
        spoils = ({"tokenizer.ggml.eos_token_id": tiny_model.u32(512)}, "tokenizer.ggml.eos_token_id is 512"), \
                 ({"tokenizer.ggml.model": tiny_model.text("bert")}, "tokenizer.ggml.model is 'bert'"), \
                 ({"tokenizer.ggml.model": tiny_model.text("none")}, "has no vocabulary")
        for spoil, words in spoils:
            bad = self.path("bad.gguf")
            tiny_model.write(bad, {**whole.keys, **spoil}, whole.tensors)
            for name, *more in commands:
                if words == "has no vocabulary" and name in ("plan", "sidecar", "logits"):
                    self.good(name, bad, *more)
                else:
                    said = self.bad(1, [bad + ": ", words], name, bad, *more).stderr.decode()
                    self.assertEqual(said.count(bad + ": "), 1, said)

    # ------------------------------------------------------------ tokenize, inspect, plan

    def test_tokenize(self):
        text = "once upon a time </s>\n"
        with open(self.path("text"), "w", encoding="utf-8") as f:
            f.write(text)
        from_file = text_of(self.good("tokenize", self.model, "-f", self.path("text")))
        self.assertRegex(from_file, r"^\d+( \d+)*\n$")
        self.assertEqual(from_file, text_of(self.good("tokenize", self.model, "-p", text)))
        self.assertEqual(from_file, text_of(self.good("tokenize", self.model, stdin=text.encode())))
        self.assertNotIn("2", from_file.split())
        special = text_of(self.good("tokenize", self.model, "-p", text, "--special"))
        self.assertIn("2", special.split())
        self.assertEqual(text_of(self.good("tokenize", self.model, "-p", "")), "\n")

    def test_inspect(self):
        listing = text_of(self.good("inspect", self.model))
        self.assertIn("general.architecture", listing)
        whole = json.loads(self.good("inspect", self.model, "--json").stdout)
        self.assertEqual(whole["bytes"], os.path.getsize(self.model))
        keys = {k["name"]: k["value"] for k in whole["keys"]}
        self.assertEqual(keys["qwen3moe.expert_count"], "16")
        names = [t["name"] for t in whole["tensors"]]
        self.assertEqual(len(names), len(set(names)))
        self.assertEqual(sum(t["n_tensors"] for t in whole["types"]), len(names))
        tensors = text_of(self.good("inspect", self.model, "--tensors"))
        for name in names:
            self.assertIn(f"  {name} ", tensors)

    def test_plan(self):
        p = self.plan
        parts = sum(p[k] for k in ["dense", "kv", "scratch", "overhead", "slots"])
        self.assertLessEqual(parts, p["budget"])
        self.assertEqual(p["budget"], 200 * MIB)
        self.assertEqual(p["n_expert_total"], 96)
        self.assertEqual([m["mode"] for m in p["modes"]],
                         ["resident", "ondemand", "prefetch-all", "lookahead", "hint", "pregate"])
        too_small = p["minimum"] // 2
        r = self.bad(1, ["minimum"], "plan", self.model, "--mode", "ondemand", "-c", "64",
                     "--memory", too_small)
        self.assertIn("minimum", text_of(r))
        self.bad(1, ["minimum"], "run", self.model, "--mode", "ondemand", "-c", "64", "--memory",
                 too_small, "-p", "x")
        measured = json.loads(self.good("plan", self.model, "--memory", "200M", "--json").stdout)
        self.assertEqual(measured["mode"], "resident")
        self.assertLess(measured["minimum"], measured["modes"][0]["minimum"])
        self.assertGreater(measured["roof_dram_bytes_per_s"], 1e8)
        self.assertGreater(measured["roof_disk_bytes_per_s"], 1e6)
        self.assertGreater(measured["modes"][0]["expected_tps"], 0)

    def test_simulate(self):
        machine = os.path.join(SOURCE, "bench", "machines", "rtx4090d.json")
        run = ("plan", "switch-base-8", "--simulate", machine)
        page = json.loads(self.good(*run, "--json", "--batches", "1,4", "--steps", "8").stdout)
        self.assertEqual((page["n_blocks"], page["n_expert"], page["expert_bytes"]), (6, 8, 18874368))
        self.assertEqual(len(page["rows"]), 12)
        rows = {(r["n_batch"], r["mode"]): r for r in page["rows"]}
        for batch in (1, 4):
            order = [rows[batch, m]["block_seconds"] for m in ("resident", "pregate", "ondemand", "prefetch-all")]
            self.assertEqual(order, sorted(order))
            for row in page["rows"]:
                self.assertGreaterEqual(row["step_seconds"], row["step_floor_seconds"])
        self.assertAlmostEqual(rows[1, "pregate"]["block_seconds"], 0.000802, delta=0.00008)
        table = text_of(self.good(*run, "--modes", "pregate,resident", "--cache", "0.5", "--evict", "lfu"))
        self.assertIn("| pregate      |     1 |", table)
        self.assertIn("RTX 4090 D", table)
        self.good("plan", self.model, "--simulate", machine, "--modes", "hint", "--right", "0.9", "--steps", "4")
        self.bad(2, ["--cache would do nothing", "--simulate"], "plan", self.model, "--cache", "0.5")
        self.bad(2, ["--threads would do nothing"], *run, "--threads", "1")
        self.bad(2, ["--modes", "auto"], *run, "--modes", "auto")
        self.bad(2, ["--batches", "0"], *run, "--batches", "1,0")
        self.bad(1, ["switch-base-9", "no such file", "switch-base-8"], "plan", "switch-base-9", "--simulate", machine)
        self.bad(1, ["own"], "plan", self.model, "--simulate", machine, "--type", "F16")
        self.bad(1, ["--simulate MACHINE.json"], "plan", "switch-base-8")
        self.bad(1, ["missing.json"], "plan", "switch-base-8", "--simulate", self.path("missing.json"))

    def test_sizes(self):
        def budget(size):
            r = self.good("plan", self.model, "--memory", size, "--no-measure", "--json")
            return json.loads(r.stdout)["budget"]
        for size in ["64M", "64m", "64MB", "64MiB", "65536K", "65536KiB", "0.0625G", str(64 * MIB)]:
            self.assertEqual(budget(size), 64 * MIB, size)
        half, quarter = budget("50%"), budget("25%")
        self.assertLessEqual(abs(half - 2 * quarter), 2)

    # ------------------------------------------------------------ logits

    def test_logits(self):
        tokens = "1,353,331,407,261,378,400,17,5"
        expected = self.good("logits", self.model, "--tokens", tokens).stdout
        shape, values = npy(expected)
        self.assertEqual(shape, (9, 512))
        self.assertTrue(any(struct.unpack("<9f", values[:36])))
        out = self.path("a.npy")
        for more in [("--batch", "1"), ("--batch", "4"), ("-t", "1"), ("-c", "100"),
                     ("--mode", "ondemand", "--memory", self.small),
                     ("--mode", "lookahead", "--memory", self.small, "--evict", "lru"),
                     ("--mode", "hint", "--pregate", self.sidecar, "--memory", self.small)]:
            self.good("logits", self.model, "--tokens", tokens, "-o", out, *more)
            with open(out, "rb") as f:
                self.assertEqual(f.read(), expected, more)
        f16 = self.good("logits", self.model, "--tokens", tokens, "--kv", "f16").stdout
        self.assertEqual(npy(f16)[0], shape)
        self.assertNotEqual(f16, expected)

    def test_logits_fails_without_a_trace(self):
        before = sorted(os.listdir(self.dir))
        self.bad(1, ["512"], "logits", self.model, "--tokens", "1,512", "-o", self.path("b.npy"))
        self.bad(1, ["context"], "logits", self.model, "--tokens", "1,2,3", "-c", "2", "-o",
                 self.path("b.npy"))
        self.assertEqual(sorted(os.listdir(self.dir)), before)

    def test_logits_that_are_not_finite(self):
        """One bad number in the weights is an error wherever it shows, and no file is left."""
        tiny = self.path("tiny.gguf")
        tiny_model.make(tiny, self.model)
        whole = tiny_model.read(tiny)
        whole.tensors["output.weight"] = whole.tensors["token_embd.weight"]
        for name, value in [("blk.1.ffn_down_exps.weight", "nan"), ("output.weight", "inf"), ("output.weight", "-inf"),
                            ("output_norm.weight", "nan"), ("token_embd.weight", "inf")]:
            old = whole.tensors[name]
            n = len(old.data) // 4 if name == "token_embd.weight" else 1
            n = 16 * 32 if "exps" in name else n  # one expert, which some token needs
            data = struct.pack("<f", float(value)) * n + old.data[4 * n:]
            tiny_model.write(tiny, whole.keys, {**whole.tensors, name: old._replace(data=data)})
            out = self.path("x.npy")
            for mode in "resident", "ondemand":
                self.bad(1, ["not finite"], "logits", tiny, "--tokens", "0,1,2", "-o", out, "--mode", mode)
                self.assertEqual(self.beside("x.npy"), [])
                self.bad(1, ["not finite"], "run", tiny, "-p", "once", "--mode", mode)
                self.bad(1, ["not finite"], "eval", tiny, "--data", self.put("text", "once upon"), "--mode", mode)

    # ------------------------------------------------------------ run

    def test_run(self):
        args = ("run", self.model, "-p", "once upon a time", "-n", "24", "--temp", "0")
        plain = self.good(*args)
        self.assertGreater(len(plain.stdout), 24)
        summary = plain.stderr.decode().strip().split("\n")
        self.assertEqual(len(summary), 1, summary)
        for word in ["prompt 6 tokens", "decode 24 tokens", "tok/s", "hits", "read/token",
                     "stalled", "peak", "resident"]:
            self.assertIn(word, summary[0])
        echoed = text_of(self.good(*args, "--echo"))
        self.assertEqual(echoed, "once upon a time" + text_of(plain))
        whole = json.loads(self.good(*args, "--json").stdout)
        self.assertEqual(whole["text"] + "\n", text_of(plain))
        self.assertEqual(len(whole["tokens"]), 24)
        self.assertEqual((whole["n_prompt"], whole["n_decode"], whole["stop"]), (6, 24, "length"))
        small = self.good(*args, "--memory", self.small, "-c", "64", "--mode", "ondemand", "--json")
        small = json.loads(small.stdout)
        self.assertEqual(small["tokens"], whole["tokens"])
        self.assertGreater(small["decode_stats"]["missed"], 0)
        if self.measures():
            self.assertLessEqual(small["peak_rss_bytes"], self.small)

    def test_run_with_a_grammar(self):
        """What is written keeps to it, whole, also where an end would come earlier; bad ones cost no opening."""
        run = ("run", self.model, "-p", "once", "-n", "400")
        schema = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 12},
                                                   "age": {"type": "integer", "minimum": 3, "maximum": 12}},
                  "required": ["name", "age"]}
        for given in (json.dumps(schema), self.put("schema.json", json.dumps(schema))):
            for more in (("--temp", "0"), ("--seed", "5"), ("--temp", "3", "--seed", "6", "--ignore-eos")):
                r = json.loads(self.good(*run, "-j", given, "--json", *more).stdout)
                self.assertEqual(r["stop"], "end")
                value = json.loads(r["text"])
                self.assertEqual(list(value), ["name", "age"])
                self.assertTrue(len(value["name"]) <= 12 and 3 <= value["age"] <= 12, value)
        for given in ('root ::= "cat" | "dog"', self.put("pet.gbnf", 'root ::= "cat" | "dog"\n')):
            self.assertIn(text_of(self.good(*run, "--grammar", given)).strip(), ("cat", "dog"))
        self.assertEqual(text_of(self.good(*run, "--grammar", 'root ::= ""')), "\n")
        self.bad(1, ["line 1, column 10: rule 'a' is not defined"], "run", "none.gguf", "-p", "x", "--grammar", "root ::= a")
        self.bad(1, ["'not' is not supported"], "run", "none.gguf", "-p", "x", "--json-schema", '{"not": {}}')
        self.bad(1, ["none.json"], *run, "--json-schema", "none.json")
        self.bad(1, ["the schema is empty"], *run, "--json-schema", self.put("empty.json", ""))
        self.bad(2, ["--grammar"], *run, "--grammar", 'root ::= "a"', "--beams", "2")
        self.bad(2, ["not both"], *run, "--grammar", 'root ::= "a"', "-j", "{}")
        if not SANITIZED:
            r = json.loads(self.good(*run, "-j", json.dumps(schema), "-c", "512", "--json", "--mode", "ondemand",
                                     "--memory", "24M").stdout)
            self.assertLessEqual(r["peak_rss_bytes"], r["memory_bytes"])

    def test_run_seed(self):
        args = ("run", self.model, "-p", "one day", "-n", "32", "--temp", "1.2", "--json")
        a, b = (json.loads(self.good(*args, "--seed", "5").stdout) for _ in range(2))
        self.assertEqual(a["tokens"], b["tokens"])
        c = json.loads(self.good(*args, "--seed", "6").stdout)
        self.assertNotEqual(a["tokens"], c["tokens"])
        free = json.loads(self.good(*args).stdout)
        again = json.loads(self.good(*args, "--seed", free["seed"]).stdout)
        self.assertEqual(free["tokens"], again["tokens"])

    def test_run_prompts(self):
        with open(self.path("prompt"), "w", encoding="utf-8") as f:
            f.write("one day")
        args = ("run", self.model, "-n", "8", "--temp", "0")
        expected = self.good(*args, "-p", "one day").stdout
        self.assertEqual(self.good(*args, "-f", self.path("prompt")).stdout, expected)
        self.assertEqual(self.good(*args, "-f", "-", stdin=b"one day").stdout, expected)
        self.assertEqual(self.good(*args, stdin=b"one day").stdout, expected)
        self.good(*args, "-p", "")
        self.assertEqual(text_of(self.good(*args, "-p", "one day", "-n", "0")), "\n")

    def test_run_fills_the_context(self):
        r = self.good("run", self.model, "-p", "one day", "-n", "-1", "-c", "16", "--temp", "0",
                      "--ignore-eos", "--json")
        whole = json.loads(r.stdout)
        self.assertEqual(whole["stop"], "context")
        # The token that no longer fits is sampled and shown, but not evaluated.
        self.assertEqual(whole["n_prompt"] + whole["n_decode"], 17)
        self.bad(1, ["-c N"], "run", self.model, "-p", "one day " * 20, "-c", "16")

    def test_run_trace(self):
        path = self.path("trace.json")
        self.good("run", self.model, "-p", "one day", "-n", "4", "--trace", path, "--memory",
                  self.small + MIB, "-c", "64", "--mode", "ondemand")
        with open(path, encoding="utf-8") as f:
            events = json.load(f)["traceEvents"]
        tracks = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
        self.assertTrue(any(name.startswith("reads") for name in tracks.values()))
        self.assertIn("stalls", tracks.values())
        spans = [e for e in events if e["ph"] == "X"]
        self.assertTrue({e["tid"] for e in spans} <= set(tracks))
        self.assertGreater(len({e["tid"] for e in spans}), 2)

    def test_interrupt(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with subprocess.Popen([PROGRAM, "run", self.model, "-p", "one day", "-n", "-1", "-c",
                                   "250", "--ignore-eos", "--mode", "ondemand", "--memory",
                                   str(self.small + MIB), "--cpu", "ref"],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE) as p:
                p.stdout.read(8)  # it writes: the handler is installed
                p.send_signal(number)
                _, err = p.communicate(timeout=60)
            self.assertEqual(p.returncode, 128 + number, err)
            self.assertIn(b"tok/s", err)

    def test_ended_while_it_waits_or_writes(self):
        """Nothing is left beside the result; a hang-up that is ignored (nohup) stays ignored."""
        pipe = self.path("prompt")
        os.mkfifo(pipe)
        with subprocess.Popen([PROGRAM, "run", self.model, "-f", pipe], stderr=subprocess.PIPE) as p:
            fd = -1
            while fd < 0 and p.poll() is None:  # until it has opened the prompt
                try:
                    fd = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
                except OSError:
                    pass
            state = ""
            while state != "S" and p.poll() is None:  # until it sleeps, because nothing comes
                with open(f"/proc/{p.pid}/stat", encoding="ascii") as f:
                    state = f.read().rsplit(")", 1)[1].split()[0]
            p.send_signal(signal.SIGTERM)
            os.close(fd)
            err = p.stderr.read()
            self.assertEqual(p.wait(60), 128 + signal.SIGTERM, err)
        out = self.path("ended.gguf")
        with subprocess.Popen([PROGRAM, "synth", "olmoe-7b", "-o", out], stderr=subprocess.PIPE) as p:
            while p.poll() is None and not self.beside("ended"):
                pass
            p.send_signal(signal.SIGTERM)
            err = p.stderr.read()
            self.assertEqual(p.wait(60), 128 + signal.SIGTERM, err)
        self.assertEqual(self.beside("ended"), [])
        ignored = subprocess.run(["nohup", sys.executable, "-c", "import os, signal, subprocess, sys\n"
                                  "p = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)\n"
                                  "p.stdout.read(1)\np.send_signal(signal.SIGHUP)\np.stdout.read()\n"
                                  "sys.exit(p.wait())", PROGRAM, "run", self.model, "-p", "x", "-n", "40",
                                  "--ignore-eos"], stdin=subprocess.DEVNULL, capture_output=True,
                                 timeout=60, check=False)
        self.assertEqual(ignored.returncode, 0, ignored.stderr)

    # ------------------------------------------------------------ bench

    def bench(self, form, *more):
        return self.good("bench", self.model, "-p", "16", "-n", "8", "-r", "1", "-o", form, *more)

    def test_bench_json(self):
        r = self.bench("json", "--memory", f"{self.several},1G", "--pregate", self.sidecar,
                       "-c", "64")
        whole = json.loads(r.stdout)
        self.assertGreater(whole["machine"]["roof_dram_bytes_per_s"], 1e8)
        self.assertGreater(whole["machine"]["roof_disk_bytes_per_s"], 1e6)
        rows = whole["rows"]
        self.assertEqual(len(rows), 12)
        failed = [r for r in rows if "error" in r]
        measures = self.measures()
        if measures:
            self.assertEqual([(r["mode"], r["memory_bytes"]) for r in failed],
                             [("resident", self.small)])
        for row in rows:
            if row in failed:
                continue
            for key in ROW_KEYS:
                self.assertIn(key, row)
            for key in ["in_time", "late", "unused"]:  # the old names, for one more release
                self.assertEqual(row[f"warned_{key}"], row[f"hinted_{key}"])
            found = sum(row[k] for k in ["hits", "hinted_in_time", "hinted_late", "missed"])
            self.assertEqual(found, row["expert_requests"], row)
            self.assertGreaterEqual(row["floor_seconds"], row["compute_seconds"] * 0.999999)
            self.assertGreater(row["decode_tps"], 0)
            if measures:
                self.assertLessEqual(row["peak_rss_bytes"], row["memory_bytes"], row)

    def test_bench_csv_and_policies(self):
        r = self.bench("csv", "--modes", "resident,ondemand", "--evict", "cycle,lru", "--memory",
                       self.several, "-c", "64")
        rows = list(csv.DictReader(io.StringIO(text_of(r))))
        self.assertEqual([(r["mode"], r["evict"]) for r in rows],
                         [("resident", "cycle"), ("ondemand", "cycle"), ("ondemand", "lru")])
        self.assertEqual(bool(rows[0]["error"]), not rows[0]["decode_tps"])
        self.assertTrue(rows[0]["error"] or SANITIZED)
        self.assertTrue(float(rows[2]["decode_tps"]) > 0 and not rows[2]["error"])
        for key in ROW_KEYS:
            self.assertIn(key, rows[0])

    def test_bench_md(self):
        text = text_of(self.bench("md", "--modes", "ondemand"))
        self.assertRegex(text, r"\| ondemand +\| cycle +\|.*± ")
        self.assertRegex(text, r"Roofs: memory \d")

    def test_bench_html(self):
        name = self.path("a<b>&c.gguf")
        os.symlink(self.model, name)
        r = self.good("bench", name, "-p", "8", "-n", "4", "-r", "1", "-o", "html", "--modes",
                      "resident,ondemand,lookahead,hint", "--memory", f"{self.several},1G", "-c",
                      "64")
        page = text_of(r)
        os.unlink(name)

        class Reader(HTMLParser):
            seen, links = [], []

            def handle_starttag(self, tag, attrs):
                self.seen.append(tag)
                self.links += [v for k, v in attrs if k in ("src", "href")]
        reader = Reader()
        reader.feed(page)
        self.assertEqual(reader.seen.count("svg"), 4)
        self.assertEqual(reader.seen.count("table"), 1)
        self.assertNotIn("script", reader.seen)
        self.assertEqual(reader.links, [])
        self.assertNotIn("http", page)
        self.assertNotIn("<b>&", page)
        self.assertIn("a&lt;b&gt;&amp;c.gguf", page)
        self.assertFalse(re.search(r"\b(nan|inf)\b", page))

    def test_bench_where_nothing_fits(self):
        r = self.bad(1, ["each says why"], "bench", self.model, "--memory", "1M", "-p", "4", "-n",
                     "2", "-r", "1", "-o", "json")
        rows = json.loads(r.stdout)["rows"]
        self.assertTrue(all("error" in row for row in rows) and len(rows) == 6)

    # ------------------------------------------------------------ synth, sidecar, replay

    def test_synth_and_run(self):
        shapes = text_of(self.good("synth", "--list")).split()
        for shape in ["olmoe-7b", "qwen3-24l", "qwen3-30b", "mixtral-8x7b"]:
            self.assertIn(shape, shapes)
        tiny = [s for s in shapes if s.endswith("tiny")]
        self.assertGreaterEqual(len(tiny), 3)
        for shape in tiny:
            out = self.path(shape + ".gguf")
            self.good("synth", shape, "-o", out, "--type", "Q8_0")
            r = json.loads(self.good("run", out, "-p", "x", "-n", "4", "--temp", "0", "--json",
                                     "--ignore-eos").stdout)
            self.assertEqual(r["n_decode"], 4)

    def test_synth_is_repeatable(self):
        def made(*more):
            self.good("synth", "qwen3-tiny", "-o", self.path("s.gguf"), *more)
            with open(self.path("s.gguf"), "rb") as f:
                return f.read()
        first = made()
        self.assertEqual(first, made("--seed", "1"))
        self.assertNotEqual(first, made("--seed", "2"))

    def test_synth_layers(self):
        out = self.path("few.gguf")
        for shape, n, layers, moe in (("qwen3-tiny", 3, 3, 3), ("switch-tiny", 2, 4, 2), ("switch-tiny", 6, 12, 6)):
            self.good("synth", shape, "--layers", n, "-o", out)
            found = json.loads(self.good("run", out, "-p", "x", "-n", "2", "--json", "--ignore-eos").stdout)
            self.assertEqual((found["model"]["n_layer"], found["model"]["n_moe_layer"]), (layers, moe))
        self.bad(1, ["1 found", "2 at least"], "synth", "switch-tiny", "--layers", "1", "-o", out)

    def test_hint_equals_lookahead(self):
        def stats(mode, *more):
            r = self.good("run", self.model, "-p", "one day", "-n", "24", "--temp", "0", "--memory",
                          self.small, "-c", "64", "--hints", "on", "--mode", mode, "--json", *more)
            return json.loads(r.stdout)
        a, b = stats("lookahead"), stats("hint", "--pregate", self.sidecar)
        self.assertEqual(a["tokens"], b["tokens"])
        self.assertGreater(b["decode_stats"]["hinted_in_time"] + b["decode_stats"]["hinted_late"], 0)
        self.bad(1, ["sidecar"], "run", self.model, "-p", "x", "--mode", "hint")

    def test_named_sidecar(self):
        """A sidecar that is named is looked at in every mode and command, used or not."""
        nowhere, npy, text = self.path("nowhere.gguf"), self.path("x.npy"), self.path("x.txt")
        with open(text, "w", encoding="ascii") as f:
            f.write("one day there was a day\n")
        commands = [("run", self.model, "-p", "x", "-n", "1"), ("plan", self.model), ("bench", self.model, "-n", "1"),
                    ("logits", self.model, "--tokens", "1,2", "-o", npy), ("eval", self.model, "--data", text),
                    ("eval", self.model, "--task", "agree", "--data", text)]
        for command in commands:
            self.bad(1, ["nowhere.gguf", "No such file"], *command, "--pregate", nowhere)
            self.bad(1, [os.path.basename(self.model), "general.type"], *command, "--pregate", self.model)
        for mode in ("resident", "ondemand", "lookahead"):
            self.bad(1, ["nowhere.gguf"], *commands[0], "--mode", mode, "--pregate", nowhere)
            self.good(*commands[0], "--mode", mode, "--pregate", self.sidecar)
        self.assertFalse(os.path.exists(npy))

    def trace(self):
        """Sixty tokens over four blocks that want two of eight experts, in a repeating pattern."""
        path = self.path("routes.jsonl")
        with open(path, "w", encoding="utf-8") as f:
            for t in range(60):
                layers = [sorted({(t // 7 + l) % 8, (t // 3 * 5 + l + 1) % 8 or 7}) for l in range(4)]
                layers = [x if len(x) == 2 else [x[0], (x[0] + 1) % 8] for x in layers]
                f.write(json.dumps({"tok": t, "layers": layers}) + "\n")
        return path

    def test_replay(self):
        whole = json.loads(self.good("replay", self.trace(), "--ratio", "0.5,1,2", "-o",
                                     "json").stdout)
        self.assertEqual((whole["n_tokens"], whole["working_set"]), (60, 8))
        self.assertEqual((whole["n_blocks"], whole["n_layers"]), (4, 4))
        self.assertEqual(len(whole["rows"]), 18)
        for size in [4, 8, 16]:
            hits = {r["policy"]: r["hits"] for r in whole["rows"] if r["n_slots"] == size}
            self.assertEqual(set(hits), {"cycle", "lru", "lfu", "lifo", "random", "belady"})
            self.assertEqual(max(hits.values()), hits["belady"])
        table = text_of(self.good("replay", self.trace(), "--slots", "4", "--split"))
        self.assertIn("Second half", table)
        self.assertIn("never evicts its own", table)

    def test_routes_out(self):
        """What was run is written, is forced on another run, and comes out the same; and replay reads it."""
        out, again = self.path("a.jsonl"), self.path("b.jsonl")
        self.story(self.small, "--mode", "ondemand", "--cache-bias", "0.5", "--routes-out", out)
        forced = self.story(self.small, "--mode", "lookahead", "--routes", out, "--routes-out", again)
        self.assertEqual(self.bytes_of("a.jsonl"), self.bytes_of("b.jsonl"))
        lines = [json.loads(x) for x in self.bytes_of("a.jsonl").splitlines()]
        self.assertEqual([x["tok"] for x in lines], list(range(forced["n_prompt"] + 95)))
        plain = self.path("c.jsonl")
        self.story(self.small, "--mode", "ondemand", "--routes-out", plain)
        self.assertNotEqual(self.bytes_of("a.jsonl"), self.bytes_of("c.jsonl"))
        replayed = json.loads(self.good("replay", out, "--slots", "24", "-o", "json").stdout)
        self.assertEqual(replayed["n_tokens"], len(lines))
        self.bad(1, [out, "is an input"], "run", self.model, "-p", "a", "--routes", out, "--routes-out", out)
        self.bad(1, ["nowhere"], "run", self.model, "-p", "a", "--routes-out", self.path("nowhere/x"))

    def test_slots(self):
        plan = json.loads(self.good("plan", self.model, "--slots", "30", "--no-measure", "--json").stdout)
        self.assertEqual((plan["n_slots"], plan["mode"], plan["fits"]), (30, "lookahead", True))
        if not SANITIZED:
            self.assertEqual(plan["budget"], plan["minimum"])
        total = plan["n_expert_total"]
        run = ("run", self.model, "-p", "once", "-n", "2")
        for n, memory in ((2, ()), (total, ()), (30, ("--memory", "200M"))):
            self.good(*run, "--slots", n, *memory)
        self.bad(1, ["1 found", f"2 to {total} wanted"], *run, "--slots", 1)
        self.bad(1, [f"{total + 1} found", f"2 to {total} wanted"], *run, "--slots", total + 1)
        self.bad(1, ["30 found", f"{total} to {total} wanted", "resident"], *run, "--slots", 30, "--mode", "resident")
        self.good(*run, "--slots", total, "--mode", "resident")
        if not SANITIZED:
            self.bad(1, ["too little", "30 experts"], *run, "--slots", 30, "--memory", plan["minimum"] - MIB)
        rows = list(csv.DictReader(io.StringIO(text_of(self.bench("csv", "--slots", "30", "--modes", "ondemand")))))
        self.assertEqual(rows[0]["n_slots"], "30")
        self.assertIn("| slots |", text_of(self.bench("md", "--slots", "30", "--modes", "ondemand")))

    def story(self, memory, *more):
        out = self.good("run", self.model, "--memory", memory, "-c", "128", "-n", "96", "--temp", "0",
                        "--json", "-p", "once upon a time", "--ignore-eos", *more)
        return json.loads(out.stdout)

    def test_cache_bias_trades_the_answer_for_bytes(self):
        plain, biased = (self.story(self.small, "--mode", "ondemand", "--cache-bias", x)
                         for x in ("0", "0.5"))
        self.assertLess(biased["bytes_read_per_token"], 0.7 * plain["bytes_read_per_token"])
        self.assertNotEqual(plain["text"], biased["text"])
        # With everything in memory there is nothing to prefer.
        whole = [self.story("200M", "--mode", "resident", "--cache-bias", x)["text"]
                 for x in ("0", "0.5")]
        self.assertEqual(whole[0], whole[1])
        self.assertEqual(plain["text"], whole[0])
        self.bad(2, "--cache-bias", "run", self.model, "--cache-bias", "1.5", "-p", "x")

    def test_cache_margin_and_one_a_block(self):
        def at(*more):
            return self.story(self.small, "--mode", "ondemand", *more)["bytes_read_per_token"]
        inspected = json.loads(self.good("inspect", self.model, "--tensors", "--json").stdout)
        n_blocks = sum(t["name"].endswith(".ffn_gate_inp.weight") for t in inspected["tensors"])
        plain, biased = at(), at("--cache-margin", "0.3")
        self.assertLess(biased, 0.8 * plain)
        self.assertEqual(biased, at("--cache-margin", ",".join(["0.3"] * n_blocks)))
        self.assertEqual(plain, at("--cache-margin", ",".join(["0"] * n_blocks)))
        self.assertLess(biased, at("--cache-margin", ",".join(["0.3"] + ["0"] * (n_blocks - 1))))
        for option in "--cache-bias", "--cache-margin":
            for value in "1.5", "0.1,", ",", "0.1,x":
                self.bad(2, option, "run", self.model, option, value, "-p", "x")
            self.bad(1, f"{n_blocks + 1} values found, {n_blocks} wanted", "run", self.model, option,
                     ",".join(["0.1"] * (n_blocks + 1)), "-p", "x")
        self.bad(2, "one is wanted", "run", self.model, "--cache-bias", "0.1", "--cache-margin", "0.1", "-p", "x")

    def test_inference_does_not_load_openblas(self):
        out = self.good("--version", env={**os.environ, "LD_TRACE_LOADED_OBJECTS": "1"})
        self.assertIn("libc.so", text_of(out))
        self.assertNotIn("blas", text_of(out))

    def test_little_address_space(self):
        """Ends, whatever is refused: OpenBLAS tries for ever to get its buffer."""
        if SANITIZED:
            self.skipTest("a sanitizer takes terabytes of address space")
        def within(mib):
            return {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_AS, (mib * MIB, mib * MIB))}
        self.good("run", self.model, "-p", "once", "-n", "2", "-t", "2", **within(100))
        out = self.path("no.gguf")
        for mib, words in ((60, "libopenblas"), (320, "OpenBLAS takes 256 MiB")):
            self.bad(1, words, "train", self.model, "--data", STORIES, "-b", "4x64", "--steps", "1", "-t", "2", "-o", out,
                     **within(mib))


if __name__ == "__main__":
    main()
