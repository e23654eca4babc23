# SPDX-License-Identifier: MIT
"""Each command and each program of docs/clients.md, as it stands there but for the port, against a server."""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

from common import KEY, SOURCE, Server

PAGE = os.path.join(SOURCE, "docs", "clients.md")


def blocks():
    """(heading, language, text) of what is to be run."""
    heading = ""
    with open(PAGE, encoding="utf-8") as f:
        for found in re.finditer(r"^## (.*?)$|^```(sh|python)\n(.*?)^```$", f.read(), re.M | re.S):
            heading = found[1] or heading
            if found[2]:
                yield heading, found[2], found[3]


class Docs(unittest.TestCase):
    def test_page(self):
        server = Server()
        self.addCleanup(server.stop)
        home = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, home)
        tried = 0
        for heading, language, text in blocks():
            text = text.replace("http://127.0.0.1:8080", server.url).replace("secret", KEY)
            command = [sys.executable, "-c", text] if language == "python" else ["bash", "-euo", "pipefail", "-c", text]
            environment = {**os.environ, "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}
            with self.subTest(heading, text=text):
                result = subprocess.run(command, env={**environment, "HOME": home}, cwd=home, stdin=subprocess.DEVNULL,
                                        capture_output=True, text=True, timeout=120, check=False)
                self.assertEqual(result.returncode, 0, result.stderr)
                self.assertTrue(result.stdout.strip(), result.stderr)
                self.assertNotIn('"error"', result.stdout)
            tried += 1
        self.assertGreater(tried, 7)
