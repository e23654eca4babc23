# SPDX-License-Identifier: MIT
"""A server of OpenAI's interface for the tests of `pregate load`: it writes what the prompt says, when the prompt says.

The prompt's first word is what it does, and `write` takes numbers after it: pieces, milliseconds to the first, and
milliseconds from one to the next. All else is how a server can go wrong.
"""
import asyncio
import json
import threading

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


def event(content=None, **more):
    """One event; without content its chunk has no choices."""
    choices = [] if content is None else [{"index": 0, "delta": {"content": content}, "finish_reason": None}]
    return b"data: " + json.dumps({"object": "chat.completion.chunk", "choices": choices, **more}).encode() + b"\n\n"


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


DONE, LAST = chunk(b"data: [DONE]\n\n"), b"0\r\n\r\n"
ONE = CHUNKED + chunk(event("one"))
# What is sent at once, and whether the connection ends then, is left open in silence, or stays of use (None).
WRONG = {
    "cut": (ONE, True),
    "no-done": (ONE + LAST, None),
    "cut-chunk": (CHUNKED + b"ff\r\ndata: {", True),
    "not-json": (CHUNKED + chunk(b"data: {oops\n\n"), False),
    "not-chunk": (CHUNKED + chunk(b'data: {"object": "hello"}\n\n'), False),
    "bad-usage": (CHUNKED + chunk(event(usage={"completion_tokens": -5})), False),
    "huge-usage": (CHUNKED + chunk(event(usage={"completion_tokens": 1 << 60})), False),
    "error-event": (ONE + chunk(b'data: {"error": {"message": "disk \\u001b[31mon fire"}}\n\n') + LAST, False),
    "no-stream": (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}", None),
    "busy": (b"HTTP/1.1 503 Busy\r\nContent-Length: 42\r\n\r\n" + b'{"error": {"message": "too many waiting"}}', None),
    "plain-500": (b"HTTP/1.1 500 Oh\r\nConnection: close\r\n\r\nall is lost", True),
    "long-500": (b"HTTP/1.1 500 Oh\r\nConnection: close\r\n\r\n" + 100000 * b"lost ", True),
    "garbage": (b"\x00\xff\x80garbage\r\n\r\n", False),
    "http2": (b"HTTP/2 200\r\n\r\n", False),
    "endless-header": (HEAD + 70 * (b"X-Pad: " + 1000 * b"x" + b"\r\n"), False),
    "endless-line": (HEAD + b"X-Pad: " + 100000 * b"x", False),
    "interim": (30 * b"HTTP/1.1 100 Continue\r\n\r\n", False),
    "bad-chunk": (CHUNKED + b"xyz\r\n", False),
    "long-chunk": (CHUNKED + b"3\r\ndata: {}\r\n", False),
    "huge-chunk": (CHUNKED + b"fffffffffffffffff\r\n", False),
    "two-lengths": (HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", False),
    "both": (HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", False),
    "negative": (HEAD + b"Content-Length: -5\r\n\r\n", False),
    "gzip": (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n", False),
    "huge-event": (HEAD + b"\r\ndata: " + (3 << 20) * b"x", False),
    "deep": (CHUNKED + chunk(b"data: " + 100000 * b"[" + b"\n\n"), False),
    "silence": (b"", False),
    "slow-death": (ONE, False),
    "gone": (b"", True),
}


class Stub:
    """`with Stub() as stub:` it listens on stub.url until the block ends."""

    def __init__(self):
        self.requests = []  # (path, headers, body) of each POST
        self.connections = self.busy = self.most_busy = self.counter = 0
        self.models = ["stub-model"]
        self.metrics = True
        self._ready = threading.Event()

    def __enter__(self):
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)

    async def _run(self):
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=512)
        self.port = server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in asyncio.all_tasks():
            if task is not asyncio.current_task():
                task.cancel()

    async def _serve(self, reader, writer):
        self.connections += 1
        try:
            while await self._request(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _request(self, reader, writer):
        """One request; whether the connection stays."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if method == "GET":
            return await self._get(path, writer)
        body = json.loads(body)
        self.requests.append((path, headers, body))
        words = (body["messages"][-1]["content"] if "messages" in body else body["prompt"]).split()
        self.busy += 1
        self.most_busy = max(self.busy, self.most_busy)
        try:
            return await self._answer(words, body, writer)
        finally:
            self.busy -= 1

    async def _get(self, path, writer):
        text = None
        if path.endswith("/v1/models"):
            text = json.dumps({"object": "list", "data": [{"id": name} for name in self.models]})
        elif path == "/metrics" and self.metrics:
            text = (f"# HELP stub_bytes_total read\n# TYPE stub_bytes_total counter\nstub_bytes_total_not 7\n"
                    f'stub_bytes_total{{tier="a }} b"}} {self.counter}\nstub_bytes_total{{tier="b"}} 1e3\n')
        status = b"404 Not Found" if text is None else b"200 OK"
        data = (text or "").encode()
        writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(data), data))
        await writer.drain()
        return True

    async def _answer(self, words, body, writer):
        if words[0] in WRONG:
            data, ends = WRONG[words[0]]
            writer.write(data)
            await writer.drain()
            if ends is False:
                await asyncio.sleep(60)
            return ends is None
        if words[0] == "endless":
            writer.write(CHUNKED)
            while True:
                writer.write(chunk(b": and on\n"))
                await writer.drain()
                await asyncio.sleep(0.001)
        return await self._write(words, body, writer)

    async def _write(self, words, body, writer):
        """write N FIRST GAP [OPTION...]"""
        n, first, gap, *options = words[1:]
        n, first, gap = min(int(n), body["max_tokens"]), float(first) / 1e3, float(gap) / 1e3
        def put(data):
            writer.write(data if "until-close" in options else chunk(data))
        writer.write(HEAD + b"\r\n" if "until-close" in options else CHUNKED)
        put(b": ping\r\n\r\n" + event("", usage=None))
        for i in range(n):
            await asyncio.sleep(gap if i else first)
            self.counter += 10
            put(event("tw o" if "pairs" in options else f"t{i} "))
            await writer.drain()
        if "no-usage" not in options:
            put(event(usage={"prompt_tokens": 7, "completion_tokens": 2 * n if "pairs" in options else n,
                             "prompt_tokens_details": {"cached_tokens": 3}}))
        put(b"data: [DONE]\n\n")
        if "no-end" in options:
            await asyncio.sleep(60)
        if "until-close" in options:
            return False
        writer.write(LAST)
        await writer.drain()
        return "hang-up" not in options
