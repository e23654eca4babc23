#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""`pregate tune` from outside: the pre-gates name more than the routers run early do, the budget is kept, the
same bits come out of any way that leads through the same text, and no moment is a bad one to end it.

usage: test_tune.py PROGRAM PEAK_OF SOURCE_DIR [--sanitize=...] [--kills=N]    N random moments of kill -9 (4)
Needs nothing but Python's own library.
"""
import glob
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import tiny_model

PROGRAM = PEAK_OF = SOURCE = None
SANITIZED = False
KILLS = 4
MIB = 1 << 20


class Tune(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.trained = os.path.join(SOURCE, "models", "tinystories-moe.gguf")
        cls.tiny = os.path.join(cls.folder.name, "tiny.gguf")
        tiny_model.make(cls.tiny, cls.trained, n_layer=4)
        cls.other = os.path.join(cls.folder.name, "other.gguf")
        tiny_model.make(cls.other, cls.trained, n_layer=4, seed=2)
        with open(os.path.join(SOURCE, "models", "data", "tinystories.heldout.txt"), encoding="utf-8") as f:
            stories = f.read(40000)
        cls.data = os.path.join(cls.folder.name, "stories.txt")
        cls.unseen = os.path.join(cls.folder.name, "unseen.txt")
        with open(cls.data, "w", encoding="utf-8") as f:
            f.write(stories[:20000])
        with open(cls.unseen, "w", encoding="utf-8") as f:
            f.write(stories[20000:26000])

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def setUp(self):
        self.dir = tempfile.mkdtemp(dir=self.folder.name)

    def path(self, name):
        return os.path.join(self.dir, name)

    def command(self, model, *more):
        return [PROGRAM, "tune", model, "--data", self.data, *map(str, more)]

    def tune(self, model, *more, code=0):
        done = subprocess.run(self.command(model, *more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              timeout=280, check=False)
        self.assertEqual(done.returncode, code, done.stderr)
        return done

    def bytes_of(self, name):
        with open(self.path(name), "rb") as f:
            return f.read()

    # ------------------------------------------------------------ it learns

    def test_recall(self):
        """More than before on what was held out, and on text that tune never saw, found beside its model."""
        model = self.path("model.gguf")
        shutil.copyfile(self.trained, model)
        result = self.tune(model, "--tokens", 3000, "--hidden", 8, "--json", "-t", 1)
        j = json.loads(result.stdout)
        self.assertEqual(j["sidecar"], self.path("pregate-model.gguf"))
        self.assertGreaterEqual(j["tokens"] + 2 * j["tokens_held_out"], 2999) # the other half has judged
        self.assertLess(j["tokens_held_out"], j["tokens"])
        self.assertEqual([b["block"] for b in j["after"]], [1, 2, 3, 4, 5])
        for kind in ("recall", "mass"):
            before, after = (sum(b[kind] for b in j[when]) / 5 for when in ("before", "after"))
            self.assertGreater(after, before + 0.02, kind)
            self.assertTrue(all(0 < b[kind] <= 1 for b in j["before"] + j["after"]))
        self.assertTrue(all(len(b["precision"]) == 2 and b["precision"][0] > b["precision"][1] for b in j["after"]))
        self.assertIn("to learn from", result.stderr)
        self.assertRegex(result.stderr, r"round 1 of 1: held-out loss [\d.]+ -> [\d.]+, recall [\d.]+ % -> [\d.]+ %")
        self.assertEqual(sorted(os.listdir(self.dir)), ["model.gguf", "pregate-model.gguf"])
        recall = []
        for mode in ("lookahead", "hint"):
            out = subprocess.run([PROGRAM, "eval", model, "--task", "agree", "--mode", mode, "--data", self.unseen,
                                  "--json"], stdout=subprocess.PIPE, timeout=280, check=True).stdout
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
        out = subprocess.run([PROGRAM, "run", self.tiny, "--pregate", self.path("a.gguf"), "--mode", "pregate", "-p",
                              "Once", "-n", "4", "--temp", "0", "-c", "32"], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, timeout=120, check=False)
        self.assertEqual(out.returncode, 0, out.stderr)

    # ------------------------------------------------------------ the same bits

    def least(self, model, *more):
        said = self.tune(model, *more, "--memory", "1M", "-o", self.path("x"), code=1).stderr
        return float(re.search(r"the minimum is ([\d.]+) MiB", said).group(1))

    def test_threads(self):
        """One thread or two, over several rounds, each with a part of the text in the buffers."""
        if SANITIZED:
            self.skipTest("a sanitizer's memory is not the program's")
        how = ["--tokens", 1500, "--hidden", 4, "-c", 32, "-o"]
        memory = f"{int((self.least(self.trained, *how[:-1]) + 0.3) * 1024)}K"
        said = self.tune(self.trained, *how, self.path("a"), "-t", 1, "--memory", memory).stderr
        self.assertGreater(int(re.search(r"round \d+ of (\d+):", said).group(1)), 1, said)
        sizes = re.search(r"states of (\d+ \+ \d+) tokens", said).group(1)
        again = self.tune(self.trained, *how, self.path("b"), "-t", 2, "--memory", memory).stderr
        if sizes in again: # the second thread takes memory of its own
            self.assertEqual(self.bytes_of("a"), self.bytes_of("b"))

    def test_interrupted(self):
        """Ctrl-C keeps a checkpoint, and going on from it ends in the same file."""
        how = ["--tokens", 3000, "--hidden", 4, "-c", 32]
        self.tune(self.tiny, *how, "-o", self.path("a"))
        n = 0
        for delay in (0.02, 0.2, 0.4):
            with subprocess.Popen(self.command(self.tiny, *how, "-o", self.path("b")), stderr=subprocess.PIPE,
                                  stdout=subprocess.DEVNULL, text=True) as p:
                for line in p.stderr:
                    if "of the text" in line: # fitting begins
                        time.sleep(delay)
                        p.send_signal(signal.SIGINT)
                        break
                p.stderr.read()
            self.assertIn(p.returncode, (0, 130))
            if p.returncode == 130:
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
                with open(self.path("out"), "wb") as f:
                    f.write(old)
            for _ in range(2):
                with subprocess.Popen(self.command(self.tiny, *how, "--resume", "-o", self.path("out")),
                                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as p:
                    try:
                        p.wait(rng.uniform(0, length * 1.2))
                    except subprocess.TimeoutExpired:
                        p.kill()
                if os.path.exists(self.path("out")):
                    self.assertIn(self.bytes_of("out"), (old, self.bytes_of("want")))
                for temp in glob.glob(self.path("*.tmp")) + glob.glob(self.path("*.part")):
                    os.remove(temp)
            self.tune(self.tiny, *how, "--resume", "-o", self.path("out"))
            self.assertEqual(self.bytes_of("out"), self.bytes_of("want"))
            self.assertFalse(os.path.exists(self.path("out.checkpoint")))
            os.remove(self.path("out"))

    # ------------------------------------------------------------ memory

    def test_budget(self):
        """The whole process stays inside, from the least budget up; more memory than the model is no harm."""
        if SANITIZED:
            self.skipTest("a sanitizer's memory is not the program's")
        how = ["--tokens", 2000, "--hidden", 4, "-t", 2, "-c", 128]
        least = self.least(self.trained, *how)
        for mib in (least + 1, least * 1.4):
            budget = int(mib * 1024)
            command = self.command(self.trained, *how, "--memory", f"{budget}K", "-o", self.path("a"))
            done = subprocess.run([PEAK_OF, self.path("peak"), *command], stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True, timeout=280, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            peak = int(self.bytes_of("peak"))
            self.assertLess(peak, budget * 1024, done.stderr)
            self.assertGreater(peak, 4 * MIB)

    # ------------------------------------------------------------ errors

    def bad(self, code, words, model, *more):
        message = self.tune(model, *more, "-o", self.path("bad.gguf"), code=code).stderr
        for word in words:
            self.assertIn(word, message)
        self.assertFalse(os.path.exists(self.path("bad.gguf")))

    def test_errors(self):
        few = ["--tokens", 600, "-c", 32, "--hidden", 4]
        self.bad(1, ["nowhere.gguf", "No such file"], self.path("nowhere.gguf"))
        self.bad(1, ["level 4", "1 to 3"], self.tiny, "--level", 4)
        self.bad(1, ["nowhere.txt", "No such file"], self.tiny, "--data", self.path("nowhere.txt"))
        self.bad(2, ["--for", "hint, decide"], self.tiny, "--for", "fun")
        self.bad(2, ["--holdout"], self.tiny, "--holdout", "1")
        self.bad(1, ["too little to tune", "minimum"], self.tiny, "--memory", "2M")
        stories = os.path.join(SOURCE, "tests", "data", "stories260K", "stories260K.gguf")
        self.bad(1, ["0 blocks with experts"], stories)
        done = subprocess.run([PROGRAM, "tune", self.tiny], stderr=subprocess.PIPE, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("--data", done.stderr)
        said = self.tune(self.tiny, *few, "-o", self.tiny, code=1).stderr
        self.assertIn("the model itself", said)
        said = self.tune(self.tiny, *few, "-o", self.data, code=1).stderr
        self.assertIn("a file of the text", said)
        # A checkpoint of another run, and what is none.
        with open(self.path("bad.gguf.checkpoint"), "w", encoding="ascii") as f:
            f.write("nothing of the kind")
        self.bad(1, ["bad.gguf.checkpoint", "no checkpoint of tune"], self.tiny, *few, "--resume")
        with subprocess.Popen(self.command(self.tiny, *few, "-o", self.path("bad.gguf")), stderr=subprocess.PIPE,
                              stdout=subprocess.DEVNULL, text=True) as p:
            for line in p.stderr:
                if "of the text" in line:
                    p.send_signal(signal.SIGINT)
                    break
            p.stderr.read()
        if p.returncode == 130:
            self.bad(1, ["seed: 1 found, 2 wanted"], self.tiny, *few, "--resume", "--seed", 2)
            self.bad(1, ["n_pieces: 20 found, 17 wanted"], self.tiny, *few, "--tokens", 500, "--resume")
            self.bad(1, ["another text"], self.tiny, *few, "--tokens", 3000, "--resume")
            self.bad(1, ["another model"], self.other, *few, "--resume")


if __name__ == "__main__":
    rest = [a for a in sys.argv[1:] if not a.startswith("--")]
    for option in sys.argv[1:]:
        if option.startswith("--kills="):
            KILLS = int(option.split("=")[1])
        if option.startswith("--sanitize=") and len(option) > len("--sanitize="):
            SANITIZED = True
    PROGRAM, PEAK_OF, SOURCE = map(os.path.abspath, rest)
    unittest.main(argv=sys.argv[:1], verbosity=2)
