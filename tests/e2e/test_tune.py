#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""`pregate tune` from outside: the pre-gates name more than the routers run early do, the budget is kept, the
same bits come out of any way that leads through the same text, and no moment is a bad one to end it.
"""
import json
import os
import random
import re
import shutil
import subprocess
import time

import tiny_model
from common import KILLS, MIB, PEAK_OF, PROGRAM, SANITIZED, SOURCE, TRAINED, Case, main, stories


class Tune(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.tiny = os.path.join(cls.folder, "tiny.gguf")
        tiny_model.make(cls.tiny, TRAINED, n_layer=4)
        cls.other = os.path.join(cls.folder, "other.gguf")
        tiny_model.make(cls.other, TRAINED, n_layer=4, seed=2)
        cls.data = cls.put(cls, "stories.txt", stories(20000))
        cls.unseen = cls.put(cls, "unseen.txt", stories(26000)[20000:])

    def command(self, model, *more):
        return [PROGRAM, "tune", model, "--data", self.data, *map(str, more)]

    def tune(self, model, *more, code=0):
        return self.refused(self.call(*self.command(model, *more)[1:], text=True), code, [])

    # ------------------------------------------------------------ it learns

    def test_recall(self):
        """More than before on what was held out, and on text that tune never saw, found beside its model."""
        model = self.path("model.gguf")
        shutil.copyfile(TRAINED, model)
        result = self.tune(model, "--tokens", 3000, "--hidden", 8, "--json", "-t", 1)
        j = json.loads(result.stdout)
        self.assertEqual(j["sidecar"], self.path("pregate-model.gguf"))
        self.assertGreaterEqual(j["tokens"] + 2 * j["tokens_held_out"], 2999) # the other half has judged
        self.assertLess(j["tokens_held_out"], j["tokens"])
        self.assertEqual([b["block"] for b in j["after"]], [1, 2, 3, 4, 5])
        for kind in ("recall", "set_right", "mass"):
            before, after = (sum(b[kind] for b in j[when]) / 5 for when in ("before", "after"))
            self.assertGreater(after, before + 0.02, kind)
            self.assertTrue(all(0 < b[kind] <= 1 for b in j["before"] + j["after"]))
        self.assertTrue(all(len(b["precision"]) == 2 and b["precision"][0] > b["precision"][1] for b in j["after"]))
        self.assertIn("to learn from", result.stderr)
        self.assertRegex(result.stderr, r"round 1 of 1: held-out loss [\d.]+ -> [\d.]+, recall [\d.]+ % -> [\d.]+ %")
        self.assertEqual(sorted(os.listdir(self.dir)), ["model.gguf", "pregate-model.gguf"])
        recall = []
        for mode in ("lookahead", "hint"):
            out = self.good("eval", model, "--task", "agree", "--mode", mode, "--data", self.unseen, "--json").stdout
            blocks = json.loads(out)["blocks"]
            recall.append(sum(b["recall"] for b in blocks) / len(blocks))
        self.assertGreater(recall[1], recall[0] + 0.02)

    def test_table(self):
        """What is printed without --json, for a purpose and a level of its own."""
        result = self.tune(self.tiny, "--for", "decide", "--level", 2, "--hidden", 0, "--tokens", 600, "-c", 40, "-o",
                           self.path("a.gguf"))
        rows = [line for line in result.stdout.splitlines() if line.startswith("|")]
        self.assertEqual([r.split("|")[1].strip() for r in rows], ["block", "---", "2", "3", "mean"])
        self.assertIn("2 pre-gates of level 2, to decide", result.stderr)
        keys = tiny_model.read(self.path("a.gguf")).keys
        self.assertIn(b"decide", keys["pregate.trained_for"][1])
        self.good("run", self.tiny, "--pregate", self.path("a.gguf"), "--mode", "pregate", "-p", "Once", "-n", "4",
                  "--temp", "0", "-c", "32")

    # ------------------------------------------------------------ the same bits

    def least(self, model, *more):
        said = self.tune(model, *more, "--memory", "1M", "-o", self.path("x"), code=1).stderr
        return float(re.search(r"the minimum is ([\d.]+) MiB", said).group(1))

    def test_threads(self):
        """One thread or two, over several rounds, each with a part of the text in the buffers."""
        if SANITIZED:
            self.skipTest("a sanitizer's own memory is not in the plan")
        how = ["--tokens", 1500, "--hidden", 4, "-c", 32, "-o"]
        memory = f"{int((self.least(TRAINED, *how[:-1]) + 0.3) * 1024)}K"
        said = self.tune(TRAINED, *how, self.path("a"), "-t", 1, "--memory", memory).stderr
        self.assertGreater(int(re.search(r"round \d+ of (\d+):", said).group(1)), 1, said)
        sizes = re.search(r"states of (\d+ \+ \d+) tokens", said).group(1)
        again = self.tune(TRAINED, *how, self.path("b"), "-t", 2, "--memory", memory).stderr
        if sizes in again: # the second thread takes memory of its own
            self.assertEqual(self.bytes_of("a"), self.bytes_of("b"))

    def test_interrupted(self):
        """Ctrl-C keeps a checkpoint, and going on from it ends in the same file."""
        how = ["--tokens", 3000, "--hidden", 4, "-c", 32]
        self.tune(self.tiny, *how, "-o", self.path("a"))
        n = 0
        for delay in (0.02, 0.2, 0.4):
            # Fitting begins after these words.
            code, said = self.signalled(self.command(self.tiny, *how, "-o", self.path("b")), "of the text",
                                        wait=lambda delay=delay: time.sleep(delay))
            self.assertIn(code, (0, 130), said)
            if code == 130:
                n += 1
                self.assertTrue(os.path.exists(self.path("b.checkpoint")))
                self.assertFalse(os.path.exists(self.path("b")))
                said = self.tune(self.tiny, *how, "--resume", "-o", self.path("b")).stderr
                self.assertIn("gone on with", said)
            self.assertEqual(self.bytes_of("a"), self.bytes_of("b"))
            os.remove(self.path("b"))
        self.assertGreater(n, 0)
        self.assertEqual(sorted(os.listdir(self.dir)), ["a"])
        # Nothing to go on from is said, and is no error.
        said = self.tune(self.tiny, *how, "--resume", "-o", self.path("b")).stderr
        self.assertIn("b.checkpoint is not there", said)
        self.assertEqual(self.bytes_of("a"), self.bytes_of("b"))

    def test_kill(self):
        """kill -9 at random moments: the old file or the new one, and going on ends where it would have."""
        rng = random.Random(1)
        how = ["--tokens", 2000, "--hidden", 4, "-c", 32]
        begin = time.monotonic()
        self.tune(self.tiny, *how, "-o", self.path("want"))
        length = time.monotonic() - begin
        for i in range(KILLS):
            old = b"the old file" if i % 2 else None
            if old:
                self.put("out", old)
            for _ in range(2):
                self.killed(self.command(self.tiny, *how, "--resume", "-o", self.path("out")),
                            rng.uniform(0, length * 1.2))
                if os.path.exists(self.path("out")):
                    self.assertIn(self.bytes_of("out"), (old, self.bytes_of("want")))
            self.tune(self.tiny, *how, "--resume", "-o", self.path("out"))
            self.assertEqual(self.bytes_of("out"), self.bytes_of("want"))
            self.assertEqual(sorted(os.listdir(self.dir)), ["out", "want"])
            os.remove(self.path("out"))

    def test_two_of_them(self):
        """The second one of one result is told so, and the first one goes on."""
        out = self.path("out")

        def second():
            self.refused(self.tune(self.tiny, "-o", out, code=1), 1, [out, "another process is writing it"])
        code, said = self.signalled(self.command(TRAINED, "--tokens", 100000, "-o", out), "memory: ", wait=second)
        self.assertEqual(code, 130, said)
        self.assertLessEqual(set(os.listdir(self.dir)), {"out.checkpoint"})

    # ------------------------------------------------------------ memory

    def test_budget(self):
        """The whole process stays inside, from the least budget up; more memory than the model is no harm."""
        if SANITIZED:
            self.skipTest("a sanitizer's own memory is not in the plan")
        how = ["--tokens", 2000, "--hidden", 4, "-t", 2, "-c", 128]
        least = self.least(TRAINED, *how)
        for mib in (least + 1, least * 1.4):
            budget = int(mib * 1024)
            command = self.command(TRAINED, *how, "--memory", f"{budget}K", "-o", self.path("a"))
            done = subprocess.run([PEAK_OF, self.path("peak"), *command], stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True, timeout=280, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            peak = int(self.bytes_of("peak"))
            self.assertLess(peak, budget * 1024, done.stderr)
            self.assertGreater(peak, 4 * MIB)

    # ------------------------------------------------------------ by the loss of the language model

    def by_loss(self, model, *more):
        """Options of a short run that begins with the routers run early."""
        folded = self.path("folded.gguf")
        if not os.path.exists(folded):
            self.good("sidecar", model, "-o", folded)
        return ["--for", "decide", "--loss", "lm", "--from", folded, "--steps", 6, "-b", "3x64", "--eval-every", 2,
                *more]

    def perplexity(self, sidecar):
        out = self.good("eval", TRAINED, "--mode", "pregate", "--pregate", sidecar, "--data", self.unseen, "--json")
        return json.loads(out.stdout)["ppl"]

    def test_loss_falls(self):
        """On what is held out, and on text that it never saw; and the model is not touched."""
        before = os.stat(TRAINED)
        how = self.by_loss(TRAINED, "--lr", "1e-2", "--runners-up", 4, "--steps", 12, "-b", "8x256", "--json")
        j = json.loads(self.tune(TRAINED, *how, "-o", self.path("a.gguf")).stdout)
        self.assertLess(j["nll_after"], j["nll_before"] - 0.01)
        self.assertEqual((j["steps"], j["rows"], j["row_tokens"], j["tokens"]), (12, 8, 256, 12 * 8 * 256))
        self.assertGreater(j["flop"], 0)
        self.assertLess(self.perplexity(self.path("a.gguf")), self.perplexity(self.path("folded.gguf")) * 0.995)
        after = os.stat(TRAINED)
        self.assertEqual((after.st_ino, after.st_mtime_ns), (before.st_ino, before.st_mtime_ns))
        keys = tiny_model.read(self.path("a.gguf")).keys
        self.assertIn(b"decide", keys["pregate.trained_for"][1])

    def test_what_would_do_nothing(self):
        """Options of the loss of the language model without it, and imitation where no router weighs."""
        for given in (["--imitate", 2], ["--kl", 1], ["--steps", 3], ["--runners-up", 1], ["--sticky", 0.1], ["-b", "2x40"],
                      ["--lr", 1], ["--cache-margin", 0.1], ["--eval-every", 1], ["--checkpoint-every", 9], ["--from", "x"]):
            said = self.tune(self.tiny, *given, "-o", self.path("none.gguf"), code=2).stderr
            self.assertIn(f"{given[0].replace('-b', '--batch')} would do nothing: it is for --for decide --loss lm", said)
        how = ["--for", "decide", "--loss", "lm", "--weigher", "pregate", "--imitate", 2, "--from", "x"]
        self.assertIn("routers that weigh are wanted", self.tune(self.tiny, *how, "-o", self.path("none.gguf"), code=1).stderr)
        self.assertFalse(os.path.exists(self.path("none.gguf")))

    def test_loss_same_bits(self):
        """One thread or two, everything in memory or as little as will do, at once or in two parts."""
        how = self.by_loss(TRAINED, "--sticky", 0.1, "--cache-bias", 0.05, "--kl", 0.5)
        said = self.tune(TRAINED, *how, "-t", 2, "-o", self.path("a")).stderr
        self.assertIn("step 6 of 6: held-out nll", said)
        self.tune(TRAINED, *how, "-t", 1, "-o", self.path("b"))
        self.assertEqual(self.bytes_of("a"), self.bytes_of("b"))
        if not SANITIZED:
            budget = int((self.least(TRAINED, *how, "-t", 2) + 1) * 1024)
            command = self.command(TRAINED, *how, "-t", 2, "--memory", f"{budget}K", "-o", self.path("c"))
            done = subprocess.run([PEAK_OF, self.path("peak"), *command], stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True, timeout=280, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertLess(int(self.bytes_of("peak")), budget * 1024, done.stderr)
            self.assertRegex(done.stderr, r"mode ondemand, \d\d? of 96 experts fit")
            self.assertEqual(self.bytes_of("a"), self.bytes_of("c"))
        command = self.command(TRAINED, *how, "-o", self.path("d"))
        code, said = self.signalled(command, "step 2 of")
        self.assertIn(code, (0, 130), said)
        if code == 130:
            self.assertTrue(os.path.exists(self.path("d.lm.checkpoint")))
            self.assertFalse(os.path.exists(self.path("d")))
            other = self.tune(TRAINED, *how, "--resume", "--lr", 1, "-o", self.path("d"), code=1).stderr
            self.assertIn("lr: 0.0003", other)
            said = self.tune(TRAINED, *how, "--resume", "-o", self.path("d")).stderr
            self.assertIn("gone on with after step", said)
        self.assertEqual(self.bytes_of("a"), self.bytes_of("d"))
        self.assertFalse(os.path.exists(self.path("d.lm.checkpoint")))

    def test_loss_after_distilling(self):
        """Without --from the pre-gates are distilled first, and are what is there when it is ended."""
        how = ["--for", "decide", "--loss", "lm", "--tokens", 2000, "--hidden", 4, "-c", 40, "--steps", 3, "-b", "2x40"]
        said = self.tune(self.tiny, *how, "-o", self.path("a")).stderr
        self.assertRegex(said, r"(?s)round 1 of 1.*step 0 of 3.*step 3 of 3")
        code, said = self.signalled(self.command(self.tiny, *how, "-o", self.path("b")), "step 0 of")
        if code == 130:
            self.assertTrue(os.path.exists(self.path("b")))
            said = self.tune(self.tiny, *how, "--resume", "-o", self.path("b")).stderr
            self.assertNotIn("round 1", said)
        self.assertEqual(self.bytes_of("a"), self.bytes_of("b"))
        # What the second part needs is looked at before the first.
        for bad in ["--memory", "14M"], ["--runners-up", 99], ["--level", 4]:
            self.tune(self.tiny, *how, *bad, "-o", self.path("none.gguf"), code=1)
            self.assertFalse(os.path.exists(self.path("none.gguf")))
        self.put("b.lm.checkpoint", "nothing of the kind")
        self.bad_loss(1, ["b.lm.checkpoint", "no checkpoint of tuning by the loss"], *how, "--resume")

    def bad_loss(self, code, words, *more):
        self.refused(self.tune(self.tiny, *more, "-o", self.path("b"), code=code), code, words)

    def test_loss_errors(self):
        self.bad_loss(2, ["--for decide"], "--loss", "lm")
        self.bad_loss(2, ["routers, lm"], "--loss", "fun")
        how = ["--for", "decide", "--loss", "lm"]
        self.bad_loss(2, ["--batch", "16x256"], *how, "-b", "12")
        self.bad_loss(1, ["nowhere.gguf"], *how, "--from", self.path("nowhere.gguf"))
        self.good("sidecar", self.tiny, "-o", self.path("f.gguf"))
        how += ["--from", self.path("f.gguf")]
        self.bad_loss(1, ["level: 1 found, 2 wanted"], *how, "--level", 2)
        self.bad_loss(2, ["--hidden would do nothing"], *how, "--hidden", 3)
        self.bad_loss(1, ["runners-up: 99 found, 0 to"], *how, "--runners-up", 99)
        self.bad_loss(1, ["imagined cache: 99 found"], *how, "--sticky", 1, "--sticky-cache", 99)
        self.bad_loss(1, ["a cache of 3 experts is imagined, but"], *how, "--sticky-cache", 3)
        self.bad_loss(1, ["cache bias or margin: 2 values found"], *how, "--cache-margin", "0.1,0.1")
        self.bad_loss(1, ["tokens of a sequence: 9999 found"], *how, "-b", "1x9999")
        self.bad_loss(1, ["too little", "minimum"], *how, "--memory", "2M")
        self.refused(self.tune(self.other, *how, "-o", self.path("b"), code=1), 1, ["f.gguf"])

    # ------------------------------------------------------------ errors

    def bad(self, code, words, model, *more):
        self.refused(self.tune(model, *more, "-o", self.path("bad.gguf"), code=code), code, words)
        self.assertFalse(os.path.exists(self.path("bad.gguf")))

    def test_errors(self):
        few = ["--tokens", 600, "-c", 32, "--hidden", 4]
        self.bad(1, ["nowhere.gguf", "No such file"], self.path("nowhere.gguf"))
        self.bad(1, ["level 4", "1 to 3"], self.tiny, "--level", 4)
        self.bad(1, ["nowhere.txt", "No such file"], self.tiny, "--data", self.path("nowhere.txt"))
        self.bad(1, ["/dev/zero: is a device; a file or a pipe is wanted"], self.tiny, "--data", "/dev/zero")
        self.bad(2, ["--for", "hint, decide"], self.tiny, "--for", "fun")
        self.bad(2, ["--holdout"], self.tiny, "--holdout", "1")
        self.bad(1, ["too little to tune", "minimum"], self.tiny, "--memory", "2M")
        stories = os.path.join(SOURCE, "tests", "data", "stories260K", "stories260K.gguf")
        self.bad(1, ["0 blocks with experts"], stories)
        self.refused(self.call("tune", self.tiny), 2, ["--data"])
        said = self.tune(self.tiny, *few, "-o", self.tiny, code=1).stderr
        self.assertIn("is an input", said)
        said = self.tune(self.tiny, *few, "-o", self.data, code=1).stderr
        self.assertIn("is an input", said)
        # A checkpoint of another run, and what is none.
        self.put("bad.gguf.checkpoint", "nothing of the kind")
        self.bad(1, ["bad.gguf.checkpoint", "no checkpoint of tune"], self.tiny, *few, "--resume")
        code, _ = self.signalled(self.command(self.tiny, *few, "-o", self.path("bad.gguf")), "of the text")
        if code == 130:
            self.bad(1, ["seed: 1 found, 2 wanted"], self.tiny, *few, "--resume", "--seed", 2)
            self.bad(1, ["n_pieces: 20 found, 17 wanted"], self.tiny, *few, "--tokens", 500, "--resume")
            self.bad(1, ["another text"], self.tiny, *few, "--tokens", 3000, "--resume")
            self.bad(1, ["another model"], self.other, *few, "--resume")


if __name__ == "__main__":
    main()
