#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Training and tuning of models with an encoder, from outside: they learn from pairs, what the trainer says of a model
is what `eval` says of it, threads change no bit, and a pre-gated one answers the same under any budget.
"""
import json
import math
import os
import subprocess

from common import PROGRAM, TRAINED, Case, main, stories

STEPS = 8


class TrainPairs(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = os.path.join(cls.folder, "tiny.gguf")
        cls.call(["synth", "switch-tiny", "--type", "F32", "-o", cls.model])
        words = stories(30000).split()
        cls.lines = [{"source": " ".join(words[i:i + 12]), "target": " ".join(words[i + 6:i + 12])}
                     for i in range(0, 1200, 12)]
        cls.pairs = cls.put(cls, "pairs.jsonl", "".join(json.dumps(line) + "\n" for line in cls.lines))
        cls.text = cls.put(cls, "text.txt", stories(8000))

    @staticmethod
    def call(args, code=0):
        done = subprocess.run([PROGRAM, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=200,
                              check=False)
        if done.returncode != code:
            raise AssertionError(f"{args}: code {done.returncode}: {done.stderr.decode()}")
        return done

    def train(self, name, *more, data=None, model=None, code=0):
        """Bytes of the model that a training makes, and the losses of its steps; or what it says, with a code."""
        out = self.path(name)
        done = self.call(["train", model or self.model, "--data", data or self.pairs, "-b", "4x60x40", "--lr", "2e-3",
                          "--steps", STEPS, "--type", "F32", "-o", out, *more], code)
        if code:
            return done.stderr.decode()
        with open(out + ".csv", encoding="utf-8") as f:
            head, *rows = [line.strip().split(",") for line in f]
        return self.bytes_of(name), [float(row[head.index("loss")]) for row in rows]

    def test_learns_from_pairs_and_from_text(self):
        for data in (self.pairs, self.text):
            _, losses = self.train("out.gguf", "-t", 2, data=data)
            self.assertLess(sum(losses[-3:]), sum(losses[:3]) - 0.5, losses)

    def test_the_same_bits(self):
        """With any number of threads, pre-gates deciding."""
        one, _ = self.train("one.gguf", "-t", 1, "--gate", "pregate", "--steps", 4)
        more, _ = self.train("more.gguf", "-t", 3, "--gate", "pregate", "--steps", 4)
        self.assertTrue(one == more)

    def test_dropout(self):
        """Other losses, and the same bits with any number of threads. (That it can be gone on with: test_train.py.)"""
        how = ["--dropout", 0.2, "--gate", "pregate", "--steps", 4]
        one, losses = self.train("one.gguf", "-t", 1, *how)
        more, _ = self.train("more.gguf", "-t", 3, *how)
        self.assertTrue(one == more)
        _, without = self.train("without.gguf", "--gate", "pregate", "--steps", 4)
        self.assertTrue(all(a != b for a, b in zip(losses, without)), (losses, without))
        self.assertIn("0.99", self.train("x.gguf", "--dropout", 1, code=2))

    def test_losses_are_what_eval_says(self):
        """All pairs in one batch: its loss before the first step, and the model's nll by the engine."""
        few = self.put("few.jsonl", "".join(json.dumps(line) + "\n" for line in self.lines[:6]))
        _, losses = self.train("out.gguf", "--steps", 1, "-b", "1x512x512", data=few)
        said = json.loads(self.call(["eval", self.model, "--task", "ppl", "--data", few, "--json"]).stdout)
        self.assertLess(abs(math.log(said["ppl"]) - losses[0]), 1e-3)

    def test_pregated_under_any_budget(self):
        self.train("out.gguf", "--gate", "pregate", "--weigher", "pregate", "--steps", 2)
        answers = set()
        for slots in (2, 9, 32):
            done = self.call(["run", self.path("out.gguf"), "--mode", "pregate", "--slots", slots, "-p",
                              self.lines[0]["source"], "-n", 16, "--temp", 0])
            answers.add(done.stdout)
        self.assertEqual(len(answers), 1)

    def test_tune_by_the_loss(self):
        """From pre-gates that are the folded routers: the loss on held-out pairs falls, and the result decides."""
        model, sidecar, out = self.path("m.gguf"), self.path("m.pregate.gguf"), self.path("t.pregate.gguf")
        self.train("m.gguf")
        self.call(["sidecar", model, "-o", sidecar])
        said = json.loads(self.call(
            ["tune", model, "--data", self.pairs, "--for", "decide", "--loss", "lm", "--from", sidecar, "--steps", 10,
             "-b", "4x60x40", "--eval-every", 5, "--weigher", "pregate", "-t", 2, "--json", "-o", out]).stdout)
        lm = said["lm"] if "lm" in said else said
        self.assertLess(lm["nll_after"], lm["nll_before"])
        self.call(["run", model, "--pregate", out, "--mode", "pregate", "-p", "once", "-n", 4, "--temp", 0])

    def test_refusals(self):
        self.assertIn("no encoder", self.call(
            ["train", TRAINED, "--data", self.text, "-b", "2x30x30", "-o", self.path("x.gguf")], 1).stderr.decode())
        self.assertIn("not two numbers", self.train("x.gguf", "-b", "2x30x30x30", code=2))
        self.assertIn("tokens of a source: 4000", self.train("x.gguf", "-b", "2x4000x30", code=1))
        self.assertIn("level 2", self.train("x.gguf", "--gate", "pregate", "--level", 2, code=1))
        bad = self.put("bad.jsonl", '{"source": "a", "target": 3}\n')
        self.assertIn("line 1", self.train("x.gguf", data=bad, code=1))


if __name__ == "__main__":
    main()
