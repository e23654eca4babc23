#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The page of `pregate serve` in a headless Chromium: what a reader does with it, what goes wrong around it, and how it
looks. Needs `pip install playwright` and Debian's chromium.

    tools/page/check_page.py FOLDER                 starts build/pregate with the model of models/
    tools/page/check_page.py FOLDER --url URL       looks at a server that runs; it is not stopped

Screenshots and the server's log go to FOLDER. Each line says what held or did not;
the status is 1 if anything did not."""
import argparse
import json
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import time

from playwright.sync_api import Error, expect, sync_playwright

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TEMPLATE = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
LONG = "Once upon a time there was a small dog who lived in a very large house near the sea."
CHAT = "**/v1/chat/completions"
PICTURES = "**/experts/stream"

HOSTILE = """<img src=x onerror=alert(1)> <script>alert(2)</script> [a](javascript:alert(3)) [b](data:text/html,x)
[c](https://example.org/"onclick="alert(4)) ![d](https://example.org/d.png)

<style>body{display:none}</style>

```html"><img src=x>
</code></pre><script>alert(5)</script>
"""
MARKDOWN = """It does so in **three** steps:

1. It gathers *requests* that wait.
2. It fills a step with `n_batch` tokens:
   - decodes first,
   - then prompts, a part each.
3. It reads the experts **once** for all.

## An example

```c
int run(struct scheduler *s)
{
    while (!stopped(s))
        step(s); /* one for all of them, with a comment that is wider than most columns of text are on a screen */
    return 0;
}
```

| Model | Blocks | Experts |
|---|:-:|---:|
| OLMoE-1B-7B | 16 | 64 |
| Qwen3-30B-A3B | 48 | 128 |

> A quote with a [link](https://example.org/a?b=1).

More is at https://example.org/docs."""

FULL = "Storage.prototype.setItem = () => { throw new DOMException('', 'QuotaExceededError'); };"
BLOCKED = """for (const name of ['localStorage', 'sessionStorage'])
  Object.defineProperty(window, name, {get() { throw new DOMException('', 'SecurityError'); }});"""

# Text that is too pale for its background, controls that are too small, and controls without a name.
LOOK = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (c) => c.slice(0, 3).map((x) => x / 255)
    .map((x) => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
    .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const c = rgb(getComputedStyle(node).backgroundColor);
      if (c.length < 4 || c[3] === 1)
        return c;
    }
    return [255, 255, 255];
  };
  const seen = (node) => {
    const box = node.getBoundingClientRect();
    return box.width > 1 && box.height > 1 && node.checkVisibility({opacityProperty: true, visibilityProperty: true}) &&
      !node.closest('[inert]') && !node.closest('.sr-only, .skip');
  };
  const wrong = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || !seen(node) || node.closest(':disabled'))
      continue;
    const a = light(rgb(getComputedStyle(node).color)), b = light(behind(node));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5)
      wrong.push(`contrast ${ratio.toFixed(2)}: ${walk.currentNode.textContent.slice(0, 30)}`);
  }
  for (const node of document.querySelectorAll('button, input, textarea, summary')) {
    const box = node.getBoundingClientRect();
    if (!seen(node))
      continue;
    if (box.height < 40 || box.width < 40)
      wrong.push(`${box.width} x ${box.height}: ${node.id || node.textContent}`);
    if (!node.textContent.trim() && !node.getAttribute('aria-label') && !(node.labels && node.labels.length))
      wrong.push(`no name: ${node.outerHTML.slice(0, 80)}`);
  }
  const wide = document.documentElement.scrollWidth - innerWidth;
  if (wide > 0)
    wrong.push(`${wide} pixels too wide`);
  return wrong;
}"""


# ---------------------------------------------------------------- what is served ---------------


class Server:
    """build/pregate over the small model, with fewer slots than experts."""

    def __init__(self, folder, log):
        self.template = pathlib.Path(folder) / "chat.jinja"
        self.template.write_text(TEMPLATE, "utf-8")
        self.log = log.open("w", encoding="utf-8")
        self.port = 0
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [ROOT / "build/pregate", "serve", ROOT / "models/tinystories-moe-pregated.gguf", "--slots", "48", "--port",
             str(self.port), "--threads", "1", "-c", "4096", "--chat-template", self.template],
            stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.process.stdout.readline()
        self.port = int(re.search(r":(\d+)\s*$", line).group(1))
        self.url = f"http://127.0.0.1:{self.port}/"

    def stop(self):
        self.process.terminate()
        return self.process.wait(timeout=60)


def events(*objects, done=True):
    return "".join(f"data: {json.dumps(o)}\n\n" for o in objects) + ("data: [DONE]\n\n" if done else "")


def delta(finish=None, **fields):
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


def stream(route, body, status=200, **headers):
    route.fulfill(status=status, body=body, headers={"Content-Type": "text/event-stream", **headers})


def error(route, status, message, **headers):
    body = {"error": {"message": message, "type": "x", "param": None, "code": None}}
    route.fulfill(status=status, body=json.dumps(body), headers={"Content-Type": "application/json", **headers})


def picture(n_layer, n_expert, slots, letters):
    state = "".join(random.choice(letters) for _ in range(n_layer * n_expert))
    parts = {"dense": 6 << 30, "kv": 3 << 30, "scratch": 700 << 20, "overhead": 300 << 20, "server": 128 << 20,
             "slots": 13 << 30}
    return {"n_layer": n_layer, "n_expert": n_expert, "state": state, "slots": slots, "running": 2, "waiting": 1,
            "memory": {"budget": 24 << 30, "peak": 22 << 30, "parts": parts}, "tok_s": 12.4, "hits": 0.914,
            "bytes_per_token": 38e6, "stall": 0.21}


def show(page, pictures):
    page.route(PICTURES, lambda r: stream(r, events(*pictures, done=False)))


# ---------------------------------------------------------------- the checks -------------------


class Checks:
    def __init__(self, browser, server, url, folder):
        self.browser, self.server, self.url, self.folder = browser, server, url, folder
        self.wrong = 0
        self.messages = []

    def hold(self, good, what, found=""):
        self.wrong += not good
        print(f"{'holds' if good else 'WRONG'}: {what}{'' if good or found == '' else f': {found}'}", flush=True)

    def open(self, scripts=(), **options):
        """A page of a new, empty browser. What its console says, is said again at the end."""
        options = {"viewport": {"width": 1440, "height": 900}, "color_scheme": "light", **options}
        context = self.browser.new_context(**options)
        context.set_default_timeout(15000)
        for script in scripts:
            context.add_init_script(script)
        page = context.new_page()
        page.on("console", self.take)
        page.on("pageerror", lambda e: self.messages.append(f"exception: {e}"))
        page.goto(self.url)
        return page

    def take(self, message):
        if message.type in ("error", "warning"):
            self.messages.append(f"{message.type}: {message.text}")

    def quiet(self, what, allowed=r"^$"):
        """Chromium itself reports answers that are errors; where we make them, they are allowed."""
        rest = [m for m in self.messages if not re.search(allowed, m)]
        self.messages.clear()
        self.hold(not rest, f"no errors and no warnings in the console: {what}", rest[:5])

    def shot(self, page, name):
        page.screenshot(path=self.folder / f"{name}.png")


def send(page, text):
    page.fill("#entry", text)
    page.press("#entry", "Enter")


def answers(page):
    return page.locator(".message.assistant .prose:not(.thoughts)")


def settled(page, timeout=60000):
    expect(page.locator("#send")).to_be_visible(timeout=timeout)


def never_ends(route):
    route.continue_(post_data=json.dumps({**route.request.post_data_json, "ignore_eos": True, "max_tokens": 900}))


def check_conversation(t):
    page = t.open()
    expect(page.locator("#model-dot.ready")).to_be_attached()
    t.hold("context" in page.inner_text("#model"), "the model and its context are named")
    t.shot(page, "empty")
    page.route(CHAT, never_ends)
    send(page, LONG)
    expect(page.locator("#stop")).to_be_visible()
    expect(answers(page).last).to_have_text(re.compile(r".{20}", re.DOTALL))
    before, grid = answers(page).last.inner_text(), page.evaluate("document.getElementById('grid').toDataURL()")
    page.wait_for_timeout(700)
    t.hold(len(answers(page).last.inner_text()) > len(before), "the answer grows while it comes")
    t.hold(page.evaluate("document.getElementById('grid').toDataURL()") != grid, "the grid moves while it comes")
    t.shot(page, "streaming")
    page.focus(".conversations button:has-text('Export')")
    page.keyboard.press("Escape")
    settled(page, 5000)
    t.hold(page.evaluate("document.activeElement.textContent") == "Export", "its end moves no focus")
    t.hold("stopped" in page.inner_text(".message.assistant .stats"), "Escape stops it, and the answer says so")
    first = answers(page).last.inner_text()
    page.unroute(CHAT)

    page.click(".message.assistant button[aria-label='Answer again']")
    settled(page)
    t.hold(answers(page).count() == 1 and answers(page).last.inner_text() != first, "an answer is given again")
    t.hold("tok/s" in page.inner_text(".message.assistant .stats"), "its line has the speed")
    t.hold(page.inner_text("#n-speed") != "–", "the panel has the speed", page.inner_text("#n-speed"))
    send(page, LONG * 9)
    expect(page.locator("progress")).to_be_visible()
    t.hold(re.search(r"Reading the prompt: [\d,]+ of [\d,]+ tokens", page.inner_text(".live >> nth=-1")) is not None,
           "the reading of a long prompt is shown")
    t.shot(page, "prompt")
    settled(page)
    check_edit(t, page)
    check_list(t, page)
    t.quiet("a conversation")
    page.context.close()


def check_edit(t, page):
    t.hold(page.locator(".message").count() == 4, "two questions, two answers")
    page.hover(".message.user >> nth=0")
    page.click("button[aria-label='Edit this message'] >> nth=0")
    page.fill(".editor textarea", "Once there was a cat.")
    page.press(".editor textarea", "Enter")
    settled(page)
    t.hold(page.locator(".message").count() == 2, "an edited question drops what came later")
    page.click(".toast button:has-text('Undo')")
    t.hold(page.locator(".message").count() == 4, "which can be undone")
    page.hover(".message.user >> nth=1")
    page.click("button[aria-label='Delete this message'] >> nth=1")
    t.hold(page.locator(".message").count() == 2, "a question is deleted with its answer")


def check_list(t, page):
    page.keyboard.press("Control+Shift+O")
    t.hold(page.evaluate("document.activeElement.id") == "entry", "Ctrl+Shift+O begins anew, at the box")
    send(page, "Another one.")
    settled(page)
    t.hold(page.locator(".conversation").count() == 2, "two conversations are listed")
    page.click("text=Rename")
    page.fill(".conversations input", "My name for it")
    page.keyboard.press("Enter")
    text = answers(page).last.inner_text()
    page.reload()
    t.hold(page.inner_text("#title") == "My name for it" and answers(page).last.inner_text() == text,
           "a reload keeps the conversation, its name, and which was shown")
    with page.expect_download() as download:
        page.click("#export-all")
    file = t.folder / "export.json"
    download.value.save_as(file)
    t.hold(len(json.loads(file.read_text("utf-8"))["conversations"]) == 2, "all are exported")
    page.click("text=Delete >> nth=0")
    t.hold(page.locator(".conversation").count() == 1, "one is deleted")
    page.click(".toast button:has-text('Undo')")
    t.hold(page.locator(".conversation").count() == 2, "and had back")
    page.set_input_files("#import-file", file)
    expect(page.locator(".conversation")).to_have_count(4)
    t.hold(True, "an export is imported beside what is there")
    for bad in ("{", "[]", '{"format": "pregate-conversations", "version": 1, "conversations": [{"messages": [7]}]}'):
        file = {"name": "bad.json", "mimeType": "application/json", "buffer": bad.encode()}
        page.set_input_files("#import-file", file)
        expect(page.locator(".toast").last).to_contain_text("file")
    t.hold(page.locator(".conversation").count() == 4, "files of something else are refused with a sentence")


def check_settings(t):
    page, sent = t.open(), []
    page.route(CHAT, lambda r: (sent.append(r.request), stream(r, events(delta("stop", content="Yes.")))))
    page.click("#settings-open")
    for name, value in (("system", "Be brief."), ("temperature", "0.5"), ("max_tokens", "7"), ("key", "secret"),
                        ("schema", '{"type": "object"')):
        page.fill(f"#s-{name}", value)
    t.hold("JSON" in page.inner_text("#schema-wrong"), "a schema that is no JSON is marked")
    t.shot(page, "settings")
    page.keyboard.press("Escape")
    send(page, "Hello")
    t.hold(page.locator("#settings").is_visible() and not sent, "and nothing is sent with it")
    page.fill("#s-schema", '{"type": "object"}')
    page.fill("#s-top_p", "2")
    t.hold("Top p" in page.inner_text("#sampling-wrong"), "a number out of its range is marked")
    page.fill("#s-top_p", "")
    page.press("#s-key", "Enter")
    page.press("#entry", "Enter")
    settled(page)
    body = sent[0].post_data_json
    t.hold(body["messages"][0] == {"role": "system", "content": "Be brief."} and body["temperature"] == 0.5 and
           body["max_tokens"] == 7 and "top_p" not in body and
           body["response_format"]["json_schema"]["schema"] == {"type": "object"}, "the request has what was set", body)
    t.hold(sent[0].headers["authorization"] == "Bearer secret", "and the key")
    t.hold("secret" not in page.evaluate("JSON.stringify(localStorage)"), "which is not kept beyond the tab")
    t.quiet("settings")
    page.context.close()


def check_troubles(t):
    page = t.open()

    def with_route(handler, text="Hello"):
        page.unroute(CHAT)
        page.route(CHAT, handler)
        page.keyboard.press("Control+Shift+O")
        send(page, text)

    card = page.locator(".card")
    with_route(lambda r: error(r, 401, "a key is wanted"))
    expect(card).to_contain_text("API key")
    page.click("text=Enter the API key")
    t.hold(page.evaluate("document.activeElement.id") == "s-key", "401 asks for the key")
    page.keyboard.press("Escape")
    tries = []

    def busy(route):
        tries.append(time.monotonic())
        if len(tries) == 1:
            error(route, 429, "the queue is full", **{"Retry-After": "2"})
        else:
            stream(route, events(delta(content="At last.", finish="stop")))

    with_route(busy)
    expect(card).to_contain_text("again in")
    t.shot(page, "busy")
    settled(page)
    t.hold(answers(page).last.inner_text() == "At last.", "429 is tried again")
    t.hold(tries[1] - tries[0] > 1.9, "not before it says")
    with_route(lambda r: error(r, 503, "Loading model", **{"Retry-After": "60"}))
    expect(card).to_contain_text("Loading model")
    page.click("text=Give up")
    settled(page)
    with_route(lambda r: r.abort())
    expect(card).to_contain_text("cannot be reached")
    page.unroute(CHAT)
    page.click("text=Try again")
    settled(page)
    t.hold(len(answers(page).last.inner_text()) > 0 and not card.count(), "after a lost connection one may try again")
    with_route(lambda r: stream(r, events(delta(content="It began"), done=False)))
    expect(card).to_contain_text("broke off")
    t.hold(answers(page).last.inner_text() == "It began", "what broke off is kept")
    with_route(lambda r: stream(r, events(delta(content="All of it.", finish="stop"), done=False)))
    settled(page)
    t.hold(not card.count(), "an answer that ends without [DONE] is whole")
    with_route(lambda r: stream(r, events(delta(content="So"), {"error": {"message": "the disk failed"}}, done=False)))
    expect(card).to_contain_text("the disk failed")
    with_route(lambda r: stream(r, "data: {no json\n\n"))
    expect(card).to_contain_text("no JSON")
    with_route(lambda r: error(r, 400, "messages: there is no message"))
    expect(card).to_contain_text("there is no message")
    t.hold(True, "errors are told in the server's words")
    t.shot(page, "error")
    t.quiet("troubles", r"Failed to load resource")
    page.context.close()


def check_storage(t):
    for what, script in (("full", FULL), ("blocked", BLOCKED)):
        page = t.open([script])
        send(page, "Hello")
        settled(page)
        t.hold(len(answers(page).last.inner_text()) > 0, f"it works while storage is {what}")
        t.hold("Export" in page.inner_text("#toasts"), "and says that nothing is kept")
        page.click("#theme")
        t.quiet(f"storage {what}")
        page.context.close()


def check_restart(t):
    if not t.server:
        print("SKIPPED: a restart: the server is not ours")
        return
    page = t.open()
    expect(page.locator("#model-dot.ready")).to_be_attached()
    expect(page.locator("#picture-state")).to_have_text("idle")
    t.server.stop()
    expect(page.locator("#picture-state")).to_have_text("not live")
    send(page, "Hello")
    expect(page.locator("#model-dot.gone")).to_be_attached()
    t.server.start()
    expect(page.locator("#model-dot.ready")).to_be_attached(timeout=30000)
    expect(page.locator("#picture-state")).to_have_text("idle", timeout=30000)
    page.click("text=Try again")
    settled(page)
    t.hold(len(answers(page).last.inner_text()) > 0, "a server that comes back is found")
    t.quiet("a restart", r"Failed to load resource")
    page.context.close()


def check_markdown(t):
    page = t.open()
    page.route(CHAT, lambda r: stream(r, events(delta(content=HOSTILE, finish="stop"))))
    send(page, "Hello")
    settled(page)
    found = page.evaluate("""[...document.querySelectorAll('.prose *')]
      .filter((n) => ['IMG', 'SCRIPT', 'STYLE', 'IFRAME'].includes(n.tagName) ||
        n.getAttributeNames().some((name) => name.startsWith('on'))).map((n) => n.outerHTML)""")
    links = page.evaluate("[...document.querySelectorAll('.prose a')].map((a) => [a.protocol, a.rel])")
    t.hold(links and all(p == "https:" and "noopener" in rel for p, rel in links), "links are to https alone", links)
    t.hold(not found, "HTML in an answer is text", found)
    took = page.evaluate("""async () => {
      const { MarkdownView } = await import('/page/markdown.js');
      let worst = 0;
      for (const piece of ['*', '_a', '[', '`', '](', '**a', '> ', '- ', '|a', '[x](', '``a`', '~', 'https://', '1. ',
                           '\\\\', '*a*', '`a`', 'a\\n\\n', '* a *b'])
        for (const text of [piece.repeat(200000 / piece.length), (piece + '\\n').repeat(20000)]) {
          const start = performance.now();
          new MarkdownView(document.createElement('div')).show(text);
          worst = Math.max(worst, performance.now() - start);
        }
      return worst;
    }""")
    t.hold(took < 5000, "hostile Markdown of 200,000 characters is shown in bounded time", f"{took:.0f} ms")
    print(f"       the worst takes {took:.0f} ms")
    shown = page.evaluate("""async (text) => {
      const { MarkdownView } = await import('/page/markdown.js');
      const whole = document.createElement('div'), grown = document.createElement('div');
      new MarkdownView(whole).show(text);
      const view = new MarkdownView(grown);
      for (let i = 0; i <= text.length; i++)
        view.show(text.slice(0, i));
      return [whole.innerHTML === grown.innerHTML, [...whole.querySelectorAll('*')].map((n) => n.tagName).join(' ')];
    }""", MARKDOWN)
    t.hold(shown[0], "a text that grows is shown as it is when whole")
    for tag in ("STRONG", "EM", "OL LI", "UL LI", "H4", "PRE CODE", "TABLE THEAD", "BLOCKQUOTE P A", "P A"):
        t.hold(tag in shown[1], f"Markdown: {tag}")
    t.quiet("Markdown")
    page.context.close()


def check_picture(t):
    page = t.open()
    requests = []
    page.on("requestfailed", lambda r: requests.append("closed") if "experts/stream" in r.url else None)
    page.on("request", lambda r: requests.append("open") if "experts/stream" in r.url else None)
    expect(page.locator("#picture-state")).to_have_text("idle")
    page.click("#picture-close")
    page.wait_for_timeout(500)
    t.hold(requests[-1:] == ["closed"], "no stream is open while the picture is away", requests)
    page.click("#picture-toggle")
    page.wait_for_timeout(500)
    t.hold(requests[-1:] == ["open"], "it is opened again with the picture", requests)
    page.focus("#grid")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    t.hold(re.match(r"Block 1, expert 1: (in a slot|on disk|arriving)", page.inner_text("#readout")) is not None,
           "arrow keys go from expert to expert", page.inner_text("#readout"))
    t.hold("in a slot" in page.get_attribute("#grid", "aria-label"), "the grid is told in words")
    box = page.locator("#grid").bounding_box()
    page.mouse.move(box["x"] + box["width"] - 8, box["y"] + box["height"] - 8)
    t.hold(page.inner_text("#readout").startswith("Block 5, expert 15"), "and a pointer asks for one",
           page.inner_text("#readout"))
    page.context.close()
    dense = {**picture(1, 1, 0, "0"), "n_layer": 0, "n_expert": 0, "state": ""}
    broken = {"n_layer": 1e9, "n_expert": -1, "state": 7, "memory": 3}
    for name, data, wanted in (("huge", picture(94, 512, 15000, "000000001111115552"), "48,128 experts, and slots for"),
                               ("resident", picture(16, 64, 1024, "11115"), "All 1,024 experts have a slot"),
                               ("dense", dense, "no experts"), ("broken", broken, "no experts")):
        page = t.open()
        show(page, [data] * 4)
        page.reload()
        expect(page.locator("#experts-text")).to_contain_text(wanted)
        t.hold(page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"a picture that is {name}")
        t.shot(page, f"picture-{name}")
        page.context.close()
    t.quiet("pictures")


# ---------------------------------------------------------------- how it looks -----------------


def conversation_script():
    messages = [{"role": "user", "content": "How does the scheduler work?"},
                {"role": "assistant", "content": MARKDOWN, "reasoning": "They ask how requests share a step.",
                 "end": "stop", "stats": {"tokens": 412, "rate": 41.27, "prompt": 1204, "cached": 1100, "first": 0.42,
                                          "thought": 3.2}},
                {"role": "user", "content": "And when two come at once?"}]
    kept = {"id": "0123456789abcdef01234567", "title": "How does the scheduler work?", "named": False, "created": 1,
            "updated": 2, "system": "", "messages": messages}
    return (f"localStorage.setItem('pregate/conversation/{kept['id']}', {json.dumps(json.dumps(kept))});"
            f"localStorage.setItem('pregate/settings', '{{\"current\": \"{kept['id']}\"}}');")


def check_looks(t):
    data = [picture(16, 64, 320, "0000001111155552") for _ in range(6)]
    for scheme in ("light", "dark"):
        for width, height, touch in ((1440, 900, False), (1024, 768, False), (768, 1024, True), (360, 740, True)):
            page = t.open([conversation_script()], color_scheme=scheme, viewport={"width": width, "height": height},
                          has_touch=touch, is_mobile=touch, device_scale_factor=2 if touch else 1)
            show(page, data)
            page.reload()
            expect(page.locator("#model-dot.ready")).to_be_attached()
            page.wait_for_timeout(400)
            name = f"{scheme}-{width}"
            t.shot(page, name)
            for part, act in (("", None), (" list", "#side-toggle"), (" picture", "#picture-toggle"),
                              (" settings", "#settings-open")):
                if part == " list" and width >= 1100 or part == " picture" and width >= 760:
                    continue
                if act:
                    page.click(act)
                    page.wait_for_timeout(400)
                    t.shot(page, name + part.replace(" ", "-"))
                found = page.evaluate(LOOK)
                t.hold(not found, f"contrast, sizes, names, width: {name}{part}", found[:6])
                if part in (" list", " settings"):
                    page.keyboard.press("Escape")
            page.context.close()
    t.quiet("looks")


def check_keyboard(t):
    page = t.open([conversation_script()])
    expect(page.locator("#model-dot.ready")).to_be_attached()
    page.evaluate("document.body.tabIndex = -1; document.body.focus(); document.body.removeAttribute('tabindex')")
    page.keyboard.press("Tab")
    t.hold(page.evaluate("document.activeElement.className") == "skip", "the skip link comes first")
    places, unseen = [], []
    for _ in range(60):
        page.keyboard.press("Tab")
        place, seen = page.evaluate("""() => {
          const node = document.activeElement, style = getComputedStyle(node);
          const frame = node.id === 'entry' ? getComputedStyle(node.parentElement).boxShadow !== 'none' : false;
          const ring = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2;
          return [node.id || node.getAttribute('aria-label') || node.textContent,
                  node === document.body || frame || ring];
        }""")
        places.append(place)
        if not seen:
            unseen.append(place)
        if place == "grid":
            break
    wanted = ["new", "side-toggle", "settings-open", "entry", "send", "picture-close", "grid"]
    t.hold([p for p in places if p in wanted] == wanted, "Tab goes from left to right, top to bottom", places)
    t.hold(not unseen, "whatever has the focus shows it", unseen)
    page.keyboard.press("Control+Shift+O")
    page.keyboard.type("One line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("and another")
    page.keyboard.press("Enter")
    settled(page)
    t.hold(page.inner_text(".bubble") == "One line\nand another", "Shift+Enter begins a line, Enter sends")
    expect(page.locator("#say")).to_contain_text("complete")
    t.hold(True, "the end of an answer is said to screen readers")
    t.quiet("keys")
    page.context.close()


def check_motion(t):
    page = t.open(reduced_motion="reduce")
    page.route(CHAT, never_ends)
    send(page, LONG)
    expect(page.locator("#stop")).to_be_visible()
    t.hold(page.evaluate("document.getAnimations().length") == 0, "nothing is animated for who does not want it")
    page.keyboard.press("Escape")
    settled(page)
    page.click("#theme")
    t.hold(page.evaluate("document.documentElement.dataset.theme") == "light", "the theme has a switch")
    page.reload()
    t.hold(page.evaluate("document.documentElement.dataset.theme") == "light", "which is kept")
    t.quiet("motion")
    page.context.close()


def run(t):
    for check in (check_conversation, check_settings, check_troubles, check_storage, check_restart, check_markdown,
                  check_picture, check_looks, check_keyboard, check_motion):
        try:
            check(t)
        except (Error, AssertionError) as problem: # what was waited for did not come
            t.hold(False, check.__name__, str(problem).splitlines()[:12])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=pathlib.Path, help="where screenshots go")
    parser.add_argument("--url", help="of a server that runs")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        server = None if args.url else Server(folder, args.folder / "server.log")
        browser = playwright.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"])
        checks = Checks(browser, server, args.url or server.url, args.folder)
        try:
            run(checks)
        finally:
            browser.close()
            if server:
                checks.hold(server.stop() == 0, "the server ends well", server.process.returncode)
    print(f"{checks.wrong} wrong")
    sys.exit(checks.wrong > 0)


if __name__ == "__main__":
    main()
