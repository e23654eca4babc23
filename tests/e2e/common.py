# SPDX-License-Identifier: MIT
"""What the tests of the program from outside share. Each is called as

    test_X.py PROGRAM SOURCE_DIR [PEAK_OF] [--sanitize=WHAT] [--kills=N] [OPTION OF UNITTEST or NAME OF A TEST]

PEAK_OF is built from peak_of.c; N random moments are those of kill -9 (4). Needs nothing but Python's own library.
What is not checked is printed as "SKIPPED: test: why", in lines that ./check counts.
"""
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

MIB = 1 << 20


def _option(name, default=""):
    return next((a.split("=", 1)[1] for a in sys.argv if a.startswith(f"--{name}=")), default)


_files = [os.path.abspath(a) for a in sys.argv[1:] if os.path.exists(a)]
PROGRAM, SOURCE, PEAK_OF = (_files + 3 * [None])[:3]
SANITIZED = bool(_option("sanitize"))
KILLS = int(_option("kills", "4"))
TRAINED = os.path.join(SOURCE, "models", "tinystories-moe.gguf")
STORIES = os.path.join(SOURCE, "models", "data", "tinystories.heldout.txt")


def stories(n):
    with open(STORIES, encoding="utf-8") as f:
        return f.read(n)


class Case(unittest.TestCase):
    """Each test has a folder of its own, self.dir, inside one of the class, cls.folder."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="pregate-test-")
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.dir = cls.folder

    def setUp(self):
        self.dir = tempfile.mkdtemp(dir=self.folder)

    def path(self, name):
        return os.path.join(self.dir, name)

    def put(self, name, content):
        """Writes a file of text or bytes; its path."""
        path = os.path.join(self.dir, name)
        with open(path, "wb") as f:
            f.write(content.encode() if isinstance(content, str) else content)
        return path

    def bytes_of(self, name):
        with open(self.path(name), "rb") as f:
            return f.read()

    @staticmethod
    def call(*args, stdin=None, stdout=subprocess.PIPE, text=False, **more):
        """The program's result, in bytes or text; so is what it reads."""
        return subprocess.run([PROGRAM, *map(str, args)], input=stdin or ("" if text else b""), stdout=stdout,
                              stderr=subprocess.PIPE, text=text, timeout=280, check=False, **more)

    @staticmethod
    def good(*args, **more):
        result = Case.call(*args, **more)
        if result.returncode:
            raise AssertionError(f"{args}: exit {result.returncode}: {result.stderr}")
        return result

    def measures(self):
        """Whether memory may be held against the budget; that it may not is said."""
        if SANITIZED:
            print(f"SKIPPED: {self.id().split('.')[-1]}: a sanitizer's own memory is not in the plan", flush=True)
        return not SANITIZED

    def refused(self, result, code, words):
        """That it ended with this code and one message, which has these words."""
        message = result.stderr if isinstance(result.stderr, str) else result.stderr.decode()
        self.assertEqual(result.returncode, code, (result.args, message))
        for word in words:
            self.assertIn(word, message)
        return result

    def signalled(self, command, pattern, number=signal.SIGINT, wait=lambda: None):
        """Runs until a line of stderr matches, and wait() is over; then it gets the signal. The exit code and what
        it said."""
        with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as p:
            said = ""
            for line in p.stderr:
                said += line
                if re.search(pattern, line):
                    wait()
                    p.send_signal(number)
                    break
            said += p.stderr.read()
        return p.returncode, said

    def killed(self, command, seconds):
        """Runs for so long at most, then kill -9. What it leaves is in nobody's way."""
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as p:
            try:
                p.wait(seconds)
            except subprocess.TimeoutExpired:
                p.kill()


def main():
    names = [a for a in sys.argv[1:] if not os.path.exists(a) and not a.startswith(("--sanitize=", "--kills="))]
    run = unittest.main(argv=sys.argv[:1] + names, verbosity=2, exit=False)
    for test, why in run.result.skipped:
        print(f"SKIPPED: {test.id().split('.')[-1]}: {why}")
    sys.exit(not run.result.wasSuccessful())
