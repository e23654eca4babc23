#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""`pregate train` from outside: it learns, the same bits come out of any way that leads through the same
steps, and no moment is a bad one to end it.

The model is a tiny one with random weights; the text, a few stories.
"""
import contextlib
import csv
import itertools
import json
import math
import os
import random
import re
import signal
import struct
import subprocess
import threading
import time
import xml.etree.ElementTree

import tiny_model
from common import KILLS, PROGRAM, TRAINED, Case, main, stories

STEPS = 40


class Train(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = os.path.join(cls.folder, "tiny.gguf")
        tiny_model.make(cls.model, TRAINED)
        cls.single = os.path.join(cls.folder, "single.gguf")
        tiny_model.make(cls.single, TRAINED, single=True)
        cls.other = os.path.join(cls.folder, "other.gguf")
        tiny_model.make(cls.other, TRAINED, seed=2)
        cls.wide = os.path.join(cls.folder, "wide.gguf")
        tiny_model.make(cls.wide, TRAINED, n_ff=32)
        cls.data = cls.put(cls, "stories.txt", stories(16384))

    def command(self, out, *more, model=None, data=None):
        return [PROGRAM, "train", model or self.model, "--data", data or self.data, "-b", "4x32", "-t", "1",
                "--lr", "5e-3", "--steps", str(STEPS), "-o", out, *map(str, more)]

    def train(self, out, *more, code=0, **how):
        done = subprocess.run(self.command(out, *more, **how), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=120, check=False)
        return self.refused(done, code, [])

    def bad(self, code, words, *more, out=None, **how):
        out = out or self.path("bad.gguf")
        self.refused(self.train(out, *more, code=code, **how), code, words)
        if not how.get("keeps"):
            self.assertFalse(os.path.exists(self.path("bad.gguf")))

    def interrupt(self, out, *more, number=signal.SIGINT):
        """A run that gets a signal after its first words about a step; what it printed, and the steps it did."""
        code, said = self.signalled(self.command(out, *more), "^step ", number)
        self.assertEqual(code, 128 + number, said)
        step = int(re.search(r"interrupted after step (\d+) of", said).group(1))
        self.assertTrue(0 < step < STEPS, said)
        self.assertIn("--resume", said)
        return step

    # ------------------------------------------------------------ it learns

    def test_learns(self):
        out = self.path("a.gguf")
        result = self.train(out, "--json")
        j = json.loads(result.stdout)
        self.assertEqual((j["steps"], j["tokens"]), (STEPS, STEPS * 128))
        self.assertEqual(j["files"], {"model": out, "csv": out + ".csv", "svg": out + ".svg"})
        with open(out + ".csv", encoding="ascii", newline="") as f:
            rows = list(csv.DictReader(f))
        self.assertEqual([int(r["step"]) for r in rows], list(range(1, STEPS + 1)))
        losses = [float(r["loss"]) for r in rows]
        self.assertLess(sum(losses[-5:]) / 5, sum(losses[:5]) / 5 - 0.8)
        self.assertAlmostEqual(j["loss"], losses[-1], 4)
        self.assertTrue(all(float(r["lr"]) == 5e-3 and float(r["grad_norm"]) > 0 for r in rows))
        svg = xml.etree.ElementTree.parse(out + ".svg").getroot()
        self.assertEqual(svg.tag, "{http://www.w3.org/2000/svg}svg")
        self.assertIn("learning rate", "".join(svg.itertext()))
        # It says how large the work is, and that nothing is left over.
        self.assertRegex(result.stderr.decode(), r"(\d+) parameters, \1 of them trained; \d+ documents of \d+ "
                                                 r"tokens; 1 x 4 x 32 tokens a step, 40 steps; [\d.]+ MiB, 1 thread")
        self.assertEqual(sorted(os.listdir(self.dir)), ["a.gguf", "a.gguf.csv", "a.gguf.svg"])

    def test_layout(self):
        """Keys and tensors of the model, matrices of the type asked for, what is frozen untouched."""
        model = tiny_model.read(self.model)
        for name, kind, number in (("F32", tiny_model.F32, 0), ("bf16", tiny_model.BF16, 32)):
            out = self.path(name + ".gguf")
            self.train(out, "--steps", 3, "--type", name, "--freeze", "token_embd*,*.attn_*")
            got = tiny_model.read(out)
            keys = dict(model.keys)
            keys["general.file_type"] = tiny_model.u32(number)
            self.assertEqual(list(got.keys.items()), list(keys.items()))
            self.assertEqual([(n, t.ne) for n, t in got.tensors.items()],
                             [(n, t.ne) for n, t in model.tensors.items()])
            for tensor, t in got.tensors.items():
                small = len(t.ne) == 1 or "ffn_gate_inp" in tensor
                self.assertEqual(t.type, tiny_model.F32 if small else kind, tensor)
                frozen = "token_embd" in tensor or ".attn_" in tensor
                if t.type == tiny_model.F32:
                    self.assertEqual(t.data == model.tensors[tensor].data, frozen, tensor)

    def test_one_tensor_an_expert(self):
        merged, single = self.path("m.gguf"), self.path("s.gguf")
        self.train(merged, "--steps", 3)
        self.train(single, "--steps", 3, model=self.single)
        self.assertEqual(self.bytes_of(merged), self.bytes_of(single))

    # ------------------------------------------------------------ the same bits

    WAYS = [[], ["--gate", "pregate", "--sticky", "0.1", "--schedule", "cosine", "--warmup", "3", "--accumulate",
                 "2", "--freeze", "*.attn_q*", "--seed", "7", "--cache-margin", "0.1,0,0.2", "--kl", "0.5",
                 "--dropout", "0.1"]]

    def test_resume(self):
        for way, number in zip(self.WAYS, (signal.SIGINT, signal.SIGTERM)):
            straight, parts = self.path("straight.gguf"), self.path("parts.gguf")
            self.train(straight, *way)
            step = self.interrupt(parts, *way, number=number)
            with open(parts + ".csv", encoding="ascii") as f:
                self.assertEqual(len(f.readlines()), step + 1)
            os.remove(parts + ".csv")
            # Other threads, too.
            done = self.train(parts, *way, "--resume", "-t", "2")
            self.assertIn(f"going on after step {step}", done.stderr.decode())
            self.assertEqual(self.bytes_of(straight), self.bytes_of(parts))
            with open(straight + ".csv", encoding="ascii") as a, open(parts + ".csv", encoding="ascii") as b:
                self.assertEqual([line.rsplit(",", 1)[0] for line in a], [line.rsplit(",", 1)[0] for line in b])
            if way:
                self.assertEqual(self.bytes_of(self.path("straight.pregate.gguf")),
                                 self.bytes_of(self.path("parts.pregate.gguf")))
            self.assertFalse(os.path.exists(parts + ".checkpoint"))

    def test_metrics_that_cannot_be_written(self):
        for option in "--csv", "--svg":
            self.bad(1, ["pregate: /dev/full: No space left on device"], "--steps", 2, option, "/dev/full")
            # Found before the first of many steps.
            self.bad(1, ["nowhere/m", "No such file"], "--steps", 10 ** 6, option, self.path("nowhere/m"))
            self.bad(1, [f"{self.dir}: exists and is not"], "--steps", 10 ** 6, option, self.dir)
            for name in "bad.gguf.checkpoint", "bad.pregate.gguf", "bad.gguf.lock":
                self.bad(2, [name, "belongs to the result"], option, self.path(name))
            self.bad(1, ["would be written twice"], option, self.path("bad.gguf"))
        self.bad(1, ["would be written twice"], "--csv", self.path("m"), "--svg", os.path.join(self.dir, ".", "m"))
        self.bad(2, ["--lr-end would do nothing", "--schedule cosine"], "--lr-end", 0.5)
        self.bad(1, ["runners-up: 99 found"], "--runners-up", 99)

    def test_metrics_through_a_link(self):
        """The link stays, and what it leads to is replaced."""
        self.put("real", "old")
        os.symlink("real", self.path("link"))
        self.train(self.path("a.gguf"), "--steps", 2, "--csv", self.path("link"))
        self.assertEqual(os.readlink(self.path("link")), "real")
        self.assertTrue(self.bytes_of("real").startswith(b"step,"))
        os.symlink("none/such", self.path("astray"))
        self.bad(1, ["astray"], "--csv", self.path("astray"))

    def test_nobody_reads_what_it_says(self):
        """`train ... 2>&1 | head` trains to the end."""
        out, gone = self.path("a.gguf"), os.pipe()
        os.close(gone[0])
        done = subprocess.run(self.command(out, "--steps", 20, "--json"), stdout=gone[1], stderr=gone[1], check=False)
        os.close(gone[1])
        self.assertEqual(done.returncode, 1)  # the JSON
        self.assertEqual(sorted(os.listdir(self.dir)), ["a.gguf", "a.gguf.csv", "a.gguf.svg"])

    def test_resume_refuses(self):
        out = self.path("a.gguf")
        self.interrupt(out, number=signal.SIGHUP)
        saved = self.bytes_of(out + ".checkpoint")
        for change, words in ((["--lr", "1e-2"], ["pregate.train.lr", "0.005", "0.01"]),
                              (["--seed", "2"], ["pregate.train.seed", "'1'", "'2'"]),
                              (["--freeze", "token_embd*"], ["pregate.train.freeze", "token_embd*"]),
                              (["-b", "4x16"], ["pregate.train.seq_len", "32 found, 16 wanted"]),
                              (["--cache-bias", "0.2"], ["pregate.train.block_bias"]),
                              (["--cache-margin", "0.2"], ["pregate.train."]),
                              (["--kl", "0.2"], ["pregate.train.kl"]),
                              (["--from", "scratch"], ["pregate.train.start"]),
                              (["--from", self.other], ["pregate.train.start"]),
                              (["--steps", "1"], ["pregate.train.step", "at most the 1 steps"])):
            self.bad(1, [out + ".checkpoint", "found", *words], "--resume", *change, out=out)
        other = self.path("other.txt")
        with open(other, "w", encoding="ascii") as f:
            f.write("another text\n")
        self.bad(1, ["pregate.train.data"], "--resume", out=out, data=other)
        self.assertEqual(saved, self.bytes_of(out + ".checkpoint"))
        with open(out + ".checkpoint", "r+b") as f:
            f.seek(len(saved) - 5000)
            f.write(bytes([saved[-5000] ^ 1]))
        self.bad(1, ["pregate.train.sum"], "--resume", out=out)
        with open(out + ".checkpoint", "wb") as f:
            f.write(saved)
        self.train(out, "--resume", "--steps", STEPS + 2)  # more steps than were asked for before
        with open(out + ".checkpoint", "wb") as f:
            f.write(saved)
        self.assertIn("--resume would go on from it", self.train(out, "--steps", 1).stderr.decode())

    def test_nothing_to_resume(self):
        a, b = self.path("a.gguf"), self.path("b.gguf")
        self.train(a, "--steps", 2)
        said = self.train(b, "--steps", 2, "--resume").stderr.decode()
        self.assertIn("training starts from the beginning", said)
        self.assertEqual(self.bytes_of(a), self.bytes_of(b))

    def test_starts(self):
        """From scratch by a seed; pre-gates folded are those that `pregate sidecar` writes."""
        outs = [self.path(f"{i}.gguf") for i in range(7)]
        self.train(outs[0], "--steps", 1, "--from", "scratch")
        self.train(outs[1], "--steps", 1, "--from", "scratch", model=self.other)
        self.assertEqual(self.bytes_of(outs[0]), self.bytes_of(outs[1]))
        self.train(outs[2], "--steps", 1, "--from", "scratch", "--seed", 2)
        self.assertNotEqual(self.bytes_of(outs[0]), self.bytes_of(outs[2]))
        self.train(outs[3], "--steps", 1, model=self.other)
        self.train(outs[4], "--steps", 1, "--from", self.other)
        self.assertEqual(self.bytes_of(outs[3]), self.bytes_of(outs[4]))
        sidecar = self.path("folded.gguf")
        self.good("sidecar", self.model, "--level", "2", "-o", sidecar)
        gates = ["--steps", 1, "--gate", "pregate", "--level", 2]
        self.train(outs[5], *gates)
        self.train(outs[6], *gates, "--from", sidecar)
        self.assertEqual(self.bytes_of(outs[5]), self.bytes_of(outs[6]))
        self.assertEqual(self.bytes_of(self.path("5.pregate.gguf")), self.bytes_of(self.path("6.pregate.gguf")))
        self.bad(1, ["pregate.level"], "--gate", "pregate", "--from", sidecar)
        self.bad(1, ["--gate pregate"], "--from", sidecar)
        self.bad(1, ["pregate.base.hash"], *gates, "--from", sidecar, model=self.other)

    def test_pregated_runs(self):
        out = self.path("gated.gguf")
        self.train(out, "--steps", 3, "--gate", "pregate")
        npy = self.path("logits.npy")
        run = [PROGRAM, "logits", out, "--tokens", "1,5,9", "--mode", "pregate", "-o", npy]
        subprocess.run(run, check=True, stderr=subprocess.DEVNULL)
        gates = tiny_model.read(self.path("gated.pregate.gguf"))
        self.assertEqual(gates.keys["pregate.trained_for"], tiny_model.text("decide"))
        self.assertEqual(list(gates.tensors), ["blk.0.ffn_pregate_inp.weight", "blk.1.ffn_pregate_inp.weight"])
        self.assertEqual(gates.keys["pregate.weigher"], tiny_model.text("router"))
        self.assertEqual(self.routers_that_stay(out), [])

    def routers_that_stay(self, out):
        before, after = tiny_model.read(self.model).tensors, tiny_model.read(out).tensors
        names = [f"blk.{il}.ffn_gate_inp.weight" for il in range(3)]
        return [il for il, name in enumerate(names) if before[name].data == after[name].data]

    def test_weigher(self):
        """Routers that neither decide nor weigh stay as they are, and have no say where the result runs."""
        out, moved = self.path("gated.gguf"), self.path("moved.gguf")
        self.train(out, "--steps", 3, "--gate", "pregate", "--weigher", "pregate")
        gates = self.path("gated.pregate.gguf")
        keys, weights = tiny_model.read(gates)
        self.assertEqual(keys["pregate.weigher"], tiny_model.text("pregate"))
        self.assertEqual(self.routers_that_stay(out), [1, 2])
        del keys["pregate.weigher"]
        said = {}
        for who in ("pregate", "router", None):
            tiny_model.write(moved, {**keys, "pregate.weigher": tiny_model.text(who)} if who else keys, weights)
            self.good("logits", out, "--tokens", "1,5,9", "--mode", "pregate", "--pregate", moved, "-o", self.path("l.npy"))
            said[who] = self.bytes_of(self.path("l.npy"))
        self.assertNotEqual(said["pregate"], said["router"])
        self.assertEqual(said["pregate"], said[None])
        for gate in (["--gate", "router"], ["--gate", "pregate", "--weigher", "pregate"]):
            self.bad(1, ["imitation has weight 2"], *gate, "--imitate", 2)
        self.bad(1, ["routers are trained"], "--weigher", "pregate")
        keys["pregate.weigher"] = tiny_model.text("nobody")
        tiny_model.write(moved, keys, weights)
        self.bad(1, ["pregate.weigher", "'nobody' found"], "--gate", "pregate", "--from", moved, model=out)

    def test_from_wider_gates(self):
        """Pre-gates with a bias and a hidden layer go on learning in that form; half a form is refused."""
        sidecar, out = self.path("wide.gguf"), self.path("a.gguf")
        self.good("sidecar", self.model, "-o", sidecar)
        keys, tensors = tiny_model.read(sidecar)
        rng = random.Random(3)
        for il in range(2):
            for part, ne in (("inp.bias", [4]), ("down.weight", [32, 6]), ("down.bias", [6]), ("up.weight", [6, 4])):
                n = math.prod(ne)
                values = struct.pack(f"<{n}f", *(rng.gauss(0, 0.1) for _ in range(n)))
                tensors[f"blk.{il}.ffn_pregate_{part}"] = tiny_model.Tensor(tiny_model.F32, ne, values)
        tiny_model.write(sidecar, keys, tensors)
        self.train(out, "--steps", 3, "--gate", "pregate", "--from", sidecar)
        got = tiny_model.read(self.path("a.pregate.gguf")).tensors
        self.assertEqual({n: t.ne for n, t in got.items()}, {n: t.ne for n, t in tensors.items()})
        for name, t in got.items():
            self.assertNotEqual(t.data, tensors[name].data, name)
        self.good("logits", out, "--tokens", "1,5,9", "--mode", "pregate", "-o", self.path("l.npy"))
        for missing in ("blk.1.ffn_pregate_inp.bias", "blk.0.ffn_pregate_up.weight", "blk.1.ffn_pregate_inp.weight"):
            tiny_model.write(sidecar, keys, {n: t for n, t in tensors.items() if n != missing})
            self.bad(1, ["wide.gguf", missing], "--gate", "pregate", "--from", sidecar)
        tensors["blk.0.ffn_pregate_odd.weight"] = tensors["blk.0.ffn_pregate_inp.bias"]
        tiny_model.write(sidecar, keys, tensors)
        self.bad(1, ["wide.gguf", "found"], "--gate", "pregate", "--from", sidecar)

    def test_gates_of_any_type(self):
        """What `run` takes for a sidecar, training takes, and the other way round."""
        sidecar, outs = self.path("gates.gguf"), [self.path(f"{i}.gguf") for i in range(3)]
        subprocess.run([PROGRAM, "sidecar", self.model, "-o", sidecar], check=True, stderr=subprocess.DEVNULL)
        keys, tensors = tiny_model.read(sidecar)
        logits = [PROGRAM, "logits", self.model, "--tokens", "1,5,9", "--mode", "pregate", "--pregate", sidecar, "-o",
                  self.path("l.npy")]
        said = []
        for out, kind in zip(outs, (tiny_model.F32, tiny_model.F16, tiny_model.BF16)):
            typed = {}
            for name, t in tensors.items():
                values = [math.ldexp(int(v * 64), -6) for v in struct.unpack(f"<{len(t.data) // 4}f", t.data)]
                words = struct.unpack(f"<{len(values)}I", struct.pack(f"<{len(values)}f", *values))
                data = {tiny_model.F32: struct.pack(f"<{len(values)}f", *values),
                        tiny_model.F16: struct.pack(f"<{len(values)}e", *values),
                        tiny_model.BF16: struct.pack(f"<{len(values)}H", *(x >> 16 for x in words))}[kind]
                typed[name] = tiny_model.Tensor(kind, t.ne, data)
            tiny_model.write(sidecar, keys, typed)
            self.train(out, "--steps", 2, "--gate", "pregate", "--from", sidecar)
            subprocess.run(logits, check=True, stderr=subprocess.DEVNULL)
            said.append(self.bytes_of(self.path("l.npy")))
            self.assertEqual(self.bytes_of(out), self.bytes_of(outs[0]))
            self.assertEqual(said[-1], said[0])
        name = "blk.1.ffn_pregate_inp.weight"
        tensors[name] = tiny_model.Tensor(8, [32, 4], bytes(4 * 34))
        tiny_model.write(sidecar, keys, tensors)
        self.bad(1, ["gates.gguf", name, "Q8_0 found", "F32, F16 or BF16"], "--gate", "pregate", "--from", sidecar)
        done = subprocess.run(logits, stderr=subprocess.PIPE, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"Q8_0 found, F32, F16 or BF16 wanted", done.stderr)

    # ------------------------------------------------------------ trouble

    def test_not_finite(self):
        out = self.path("a.gguf")
        said = self.train(out, "--lr", "1e30", "--checkpoint-every", 1, code=1).stderr.decode()
        step = int(re.search(r"pregate: step (\d+): the .* is not finite", said).group(1))
        self.assertGreater(step, 1)
        self.assertFalse(os.path.exists(out))
        with open(out + ".csv", encoding="ascii") as f:
            self.assertEqual(len(f.readlines()), step)
        # The checkpoint is that of the step before, and whole: going on from it fails in the same step.
        keys = tiny_model.read(out + ".checkpoint").keys
        self.assertEqual(keys["pregate.train.step"], tiny_model.u32(step - 1))
        again = self.train(out, "--lr", "1e30", "--checkpoint-every", 1, "--resume", code=1)
        self.assertIn(f"pregate: step {step}: the", again.stderr.decode())

    def test_kill(self):
        """kill -9 at random moments: what is there is whole, and the way ends where it would have."""
        rng = random.Random(1)
        gates = ["--gate", "pregate", "--checkpoint-every", "2"]
        want = self.path("want.gguf")
        begin = time.monotonic()
        self.train(want, *gates)
        length = time.monotonic() - begin
        out, sidecar = self.path("out.gguf"), self.path("out.pregate.gguf")
        old = None
        for _ in range(KILLS):
            self.killed(self.command(out, *gates, "--resume"), rng.uniform(0, length))
            if os.path.exists(out):
                old = self.bytes_of(want)
                self.assertEqual(self.bytes_of(out), old)
            else:
                self.assertIsNone(old)
            if os.path.exists(sidecar):
                self.assertTrue(os.path.exists(out))
                self.assertEqual(self.bytes_of(sidecar), self.bytes_of(self.path("want.pregate.gguf")))
            if os.path.exists(out + ".checkpoint"):
                tiny_model.read(out + ".checkpoint")
        self.train(out, *gates, "--resume")
        self.assertEqual(self.bytes_of(out), self.bytes_of(want))
        self.assertEqual(self.bytes_of(sidecar), self.bytes_of(self.path("want.pregate.gguf")))
        self.assertEqual([f for f in os.listdir(self.dir) if f.endswith((".checkpoint", ".tmp", ".lock"))], [])

    def test_nowhere_to_write(self):
        """A result that cannot be written is refused before the training, not after it."""
        for out in (self.dir, "/dev/full"):
            self.refused(self.train(out, code=1), 1, [f"{out}: exists and is not a regular file"])
        self.assertEqual(os.listdir(self.dir), [])
        self.assertFalse(os.path.exists("/dev/full.csv"))

    def test_two_of_them(self):
        """The second training of one result is told so, and the first one goes on."""
        out = self.path("a.gguf")

        def second():
            self.refused(self.train(out, code=1), 1, [out, "another process is writing it"])
        code, said = self.signalled(self.command(out, "--steps", 3000), "of them trained", wait=second)
        self.assertEqual(code, 130, said)
        self.assertEqual(sorted(os.listdir(self.dir)), ["a.gguf.checkpoint", "a.gguf.csv", "a.gguf.svg"])

    def test_errors(self):
        empty = self.put("empty.txt", "")
        self.bad(1, ["empty.txt", "no text"], data=empty)
        self.bad(1, ["nowhere.txt", "No such file"], data=self.path("nowhere.txt"))
        for data, what in (("/dev/zero", "a device"), (self.dir, "a folder")):
            self.bad(1, [f"{data}: is {what}; a file or a pipe is wanted"], data=data)
        self.bad(1, ["freeze", "'blk.7.*'"], "--freeze", "token_embd*,blk.7.*")
        self.bad(1, ["freeze", "nothing is left to train"], "--freeze", "*")
        self.bad(1, ["tokens of a sequence", "128 found", "2 to 64"], "-b", "4x128")
        self.bad(2, ["--batch", "16x256"], "-b", "4by32")
        self.bad(2, ["--batch"], "-b", "0x32")
        self.bad(2, ["--batch"], "-b", "4x32x2x2")
        self.bad(1, ["sources of 32 tokens", "no encoder"], "-b", "4x32x2")
        self.bad(1, ["level 3", "1 to 2"], "--gate", "pregate", "--level", 3)
        self.bad(1, ["level 2", "--gate pregate"], "--level", 2)
        self.bad(1, ["Q4_K", "F16, BF16 or F32"], "--type", "Q4_K")
        self.bad(1, ["another shape"], "--from", self.wide)
        self.bad(1, ["nowhere.gguf", "scratch"], "--from", self.path("nowhere.gguf"))
        self.bad(2, ["--data"], "--data")
        for out, *more in ((self.model,), (self.other, "--from", self.other), (self.data,)):
            before = self.bytes_of(out)
            self.bad(1, ["is an input"], *more, out=out)
            self.assertEqual(before, self.bytes_of(out))
        self.refused(self.call("train", self.model, "-o", self.path("x")), 2, ["--data"])
        self.refused(self.call("train", self.model, "--data", self.data), 2, ["-o OUT.gguf"])

    def test_no_room(self):
        """A result that cannot be written leaves the checkpoint, out of which it can be made later."""
        out = self.path("dir/a.gguf")
        os.mkdir(self.path("dir"))
        self.train(self.path("want.gguf"), "--steps", 2)
        os.mkdir(out)
        self.bad(1, ["a.gguf", "not a regular file"], "--steps", 2, "--csv", self.path("c.csv"), "--svg",
                 self.path("s.svg"), out=out)
        os.rmdir(out)
        self.train(out, "--steps", 2, "--resume")
        self.assertEqual(self.bytes_of(out), self.bytes_of(self.path("want.gguf")))

    def fed(self, out, chunks, code=0):
        """Trained on what comes out of a pipe, as far as it is read."""
        def feed():
            with contextlib.suppress(BrokenPipeError), open(pipe, "wb") as f:
                for chunk in chunks:
                    f.write(chunk)
        pipe = self.path("pipe")
        os.mkfifo(pipe)
        feeder = threading.Thread(target=feed)
        feeder.start()
        result = self.train(out, data=pipe, code=code)
        feeder.join()
        os.remove(pipe)
        return result

    def test_pipes(self):
        a, b = self.path("a.gguf"), self.path("b.gguf")
        self.train(a)
        self.fed(b, [self.bytes_of(self.data)])
        self.assertEqual(self.bytes_of(a), self.bytes_of(b))
        endless = itertools.repeat(b"<|endoftext|>\n" * 100000)
        self.refused(self.fed(b, endless, code=1), 1, ["pipe: more than 1 GiB came out of this pipe"])

    def test_data_lists(self):
        """Files after --data up to the next option, and --data again, are one text."""
        parts = [self.path(f"{i}.txt") for i in range(3)]
        stories = [f"once there were {i} dogs who ran to the river\n" for i in range(3)]
        whole = self.path("whole.txt")
        for path, story in zip([*parts, whole], [*stories, "<|endoftext|>\n".join(stories)]):
            self.put(path, story)
        a, b = self.path("a.gguf"), self.path("b.gguf")
        self.train(a, "--steps", 2, data=whole)
        self.good("train", "--data", parts[0], parts[1], "-b", "4\u00d732", "-t", "1", "--data", parts[2], "--lr", "5e-3",
                  "--steps", "2", "-o", b, "-m", self.model)
        self.assertEqual(self.bytes_of(a), self.bytes_of(b))


if __name__ == "__main__":
    main()
