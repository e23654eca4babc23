# SPDX-License-Identifier: MIT
"""What the tests with each client share: servers, a model that thinks, and counters."""
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import unittest
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(os.path.dirname(HERE))
PROGRAM = os.environ.get("PREGATE", os.path.join(SOURCE, "build", "pregate"))
MODEL = os.path.join(SOURCE, "models", "tinystories-moe.gguf")
KEY = "secret-of-the-clients"
SCHEMA = {"type": "object", "additionalProperties": False, "required": ["city", "days"],
          "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]},
                         "days": {"type": "integer", "minimum": 1, "maximum": 7}}}
HELLO = [{"role": "user", "content": "Once upon a time"}]


class Server:
    """A program of its own, with keys and a small budget, so that the bounds are near."""

    def __init__(self, *args, model=MODEL):
        self.folder = tempfile.mkdtemp(prefix="pregate-clients-")
        keys = os.path.join(self.folder, "keys")
        with open(keys, "w", encoding="utf-8") as f:
            f.write(KEY + "\n")
        self.log_path = os.path.join(self.folder, "log")
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [PROGRAM, "serve", model, "--port", "0", "-c", "1024", "--memory", "256M", "--parallel", "2", "--api-key", keys,
                 "--alias", "demo", "--chat-template", os.path.join(HERE, "template.jinja"), *args],
                stdout=subprocess.PIPE, stderr=log)
        line = self.process.stdout.readline().decode()
        found = re.fullmatch(r"listening on (http://.*)\n", line)
        if not found:
            raise RuntimeError(f"no server: {line!r}\n{self.log()}")
        self.url = found[1]

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as f:
            return f.read()

    def get(self, path):
        ask = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {KEY}"})
        with urllib.request.urlopen(ask, timeout=60) as answer:
            return answer.read().decode()

    def begin(self, path, body):
        """A connection whose answer has not been read."""
        data = json.dumps(body).encode()
        host, port = self.url.removeprefix("http://").rsplit(":", 1)
        s = socket.create_connection((host, int(port)), 60)
        s.sendall(f"POST {path} HTTP/1.1\r\nHost: {host}\r\nX-Api-Key: {KEY}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        return s

    def metric(self, name):
        return float(re.search(rf"^pregate_{re.escape(name)} (\S+)$", self.get("/metrics"), re.M)[1])

    def idle(self, seconds=30):
        """Waits until nothing runs."""
        end = time.monotonic() + seconds
        while self.metric("requests_running") or self.metric("requests_waiting"):
            if time.monotonic() > end:
                raise AssertionError("requests go on though nobody listens")
            time.sleep(0.02)

    def stop(self, number=signal.SIGTERM):
        """With 0 it ends by itself. Anything but an exit code of 0 is an error."""
        self.process.send_signal(number)
        code = self.process.wait(60)
        self.process.stdout.close()
        log = self.log()
        shutil.rmtree(self.folder)
        if code:
            raise AssertionError(f"the server ended with {code}\n{log}")


class Case(unittest.TestCase):
    """The tests of a class share a server."""
    OPTIONS = ()

    @classmethod
    def setUpClass(cls):
        cls.server = Server(*cls.OPTIONS)
        cls.addClassCleanup(cls.server.stop)

    def cancels(self):
        """A check, for later, that the server has stopped one more request because its client had gone."""
        before = self.server.metric("requests_cancelled_total"), self.server.metric("clients_gone_total")

        def check():
            self.server.idle()
            self.assertGreater(self.server.metric("requests_cancelled_total"), before[0])
            self.assertGreater(self.server.metric("clients_gone_total"), before[1])
        return check


def thinking_model(path):
    """The demo model with the full stop of its vocabulary as the mark that ends reasoning, so that it thinks for one
    sentence."""
    with open(MODEL, "rb") as f:
        data = f.read()
    sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    at, old = 8, None

    def take(form):
        nonlocal at
        value, = struct.unpack_from("<" + form, data, at)
        at += struct.calcsize("<" + form)
        return value

    def text():
        nonlocal at
        n = take("Q")
        at += n
        return data[at - n:at]

    def skip(kind):
        nonlocal at, old
        if kind == 8:
            start = at
            if text() == b"." and is_tokens:
                old = start, at
        elif kind == 9:
            of, n = take("I"), take("Q")
            for _ in range(n):
                skip(of)
        else:
            at += sizes[kind]
    n_tensors, n_pairs = take("Q"), take("Q")
    for _ in range(n_pairs):
        is_tokens = text() == b"tokenizer.ggml.tokens"
        skip(take("I"))
    for _ in range(n_tensors):
        text()
        n = take("I")
        at += 8 * n + 12
    word = b"</think>"
    head = data[:old[0]] + struct.pack("<Q", len(word)) + word + data[old[1]:at]
    with open(path, "wb") as f:
        f.write(head + bytes(-len(head) % 32) + data[at + -at % 32:])
