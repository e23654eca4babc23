# SPDX-License-Identifier: MIT
"""A server of its own for a test, and requests over raw sockets: nothing tidies what is sent or hides what comes."""
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from common import PROGRAM, TRAINED  # noqa: E402

TEMPLATE = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
HELLO = [{"role": "user", "content": "Hello"}]


class Answer:
    """Status, headers (names in small letters), and a body out of its chunks."""

    def __init__(self, data):
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split(" ")[1]) if lines[0].startswith("HTTP/1.1 ") else 0
        self.headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
        self.raw = data
        if self.headers.get("transfer-encoding") == "chunked":
            body, self.whole = dechunk(body)
        else:
            self.whole = len(body) >= int(self.headers.get("content-length", 0))
            body = body[:int(self.headers.get("content-length", len(body)))]
        self.body = body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        return self.json["error"]

    def events(self):
        """(event, data) of a stream; data that is JSON read."""
        found = []
        for block in self.body.decode("utf-8", "strict").split("\n\n"):
            fields = [line.partition(": ") for line in block.split("\n") if line and not line.startswith(":")]
            data = "\n".join(v for k, _, v in fields if k == "data")
            if data:
                name = next((v for k, _, v in fields if k == "event"), None)
                found.append((name, data if data == "[DONE]" else json.loads(data)))
        return found

    def chunks(self):
        return [d for _, d in self.events() if d != "[DONE]"]


def dechunk(data):
    body = b""
    while True:
        size, found, rest = data.partition(b"\r\n")
        if not found or len(rest) < int(size, 16) + 2:
            return body, False
        n = int(size, 16)
        if n == 0:
            return body, True
        body, data = body + rest[:n], rest[n + 2:]


class Server:
    def __init__(self, folder, *args, host="127.0.0.1", model=TRAINED, prefix=(), ready=True):
        self.folder, self.host = folder, host
        template = os.path.join(folder, "template.jinja")
        if not os.path.exists(template):
            with open(template, "w", encoding="utf-8") as f:
                f.write(TEMPLATE)
        self.log_path = os.path.join(folder, f"log-{time.monotonic_ns()}")
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [*prefix, PROGRAM, "serve", model, "--port", "0", "--host", host, "--chat-template", template, *map(str, args)],
                stdout=subprocess.PIPE, stderr=log)
        self.port = None
        if ready:
            line = self.process.stdout.readline().decode()
            found = re.fullmatch(r"listening on http://(.+):(\d+)\n", line)
            assert found, (line, self.log())
            self.port = int(found[2])

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as f:
            return f.read()

    def stop(self, number=signal.SIGTERM, seconds=60):
        """The exit code; number 0: it ends by itself."""
        if self.process.poll() is None and number:
            self.process.send_signal(number)
        code = self.process.wait(seconds)
        self.process.stdout.close()
        return code

    def connect(self, seconds=30, receive=None):
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        s = socket.socket(family)
        s.settimeout(seconds)
        if receive:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        s.connect((self.host, self.port))
        return s

    def raw(self, data, seconds=30):
        """Sends the bytes and reads an answer, or until the server closes."""
        with self.connect(seconds) as s:
            try:
                s.sendall(data)
            except OSError:
                pass # refused before it had all been sent
            return read_one(s)

    def head(self, method, path, headers=None, body=None):
        lines = {"Host": f"127.0.0.1:{self.port}", "Connection": "close", **(headers or {})}
        if body is not None and "Transfer-Encoding" not in lines:
            lines.setdefault("Content-Length", len(body))
        return (f"{method} {path} HTTP/1.1\r\n" +
                "".join(f"{k}: {v}\r\n" for k, v in lines.items() if v is not None) + "\r\n").encode("latin-1")

    def ask(self, method, path, body=None, headers=None, seconds=60):
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        return self.raw(self.head(method, path, headers, body) + (body or b""), seconds)

    def get(self, path, headers=None):
        return self.ask("GET", path, headers=headers)

    def post(self, path, body, headers=None):
        return self.ask("POST", path, body, headers)

    def chat(self, messages=None, **fields):
        return self.post("/v1/chat/completions", {"messages": messages or HELLO, "temperature": 0, "max_tokens": 12, **fields})

    def complete(self, prompt="Once upon a time", **fields):
        return self.post("/v1/completions", {"prompt": prompt, "temperature": 0, "max_tokens": 12, **fields})

    def begin(self, path, body):
        """A connection whose answer has not been read."""
        s = self.connect()
        data = json.dumps(body).encode()
        s.sendall(self.head("POST", path, body=data) + data)
        return s

    def metric(self, name):
        return float(re.search(rf"^pregate_{name} (\S+)$", self.get("/metrics").body.decode(), re.M)[1])

    def waits_for(self, condition, seconds=10):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return True
            time.sleep(0.01)
        return False


def read_one(s):
    """An answer, whole or as much as there is before the server closes."""
    data = b""
    while b"\r\n\r\n" not in data or not Answer(data).whole:
        more = receive(s)
        if not more:
            break
        data += more
    return Answer(data)


def read_all(s):
    data = b""
    while more := receive(s):
        data += more
    return data


def receive(s):
    try:
        return s.recv(65536)
    except ConnectionResetError:
        return b""
