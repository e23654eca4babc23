#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""pregate chat: by a script through pipes, and by somebody at a terminal (a pseudo-terminal of Python's pty)."""
import json
import os
import pty
import re
import select
import signal
import sys
import time

sys.dont_write_bytecode = True
from common import MIB, PROGRAM, TRAINED, Case, main  # noqa: E402

# Roles in words, as the tiny model has no marks; `strict` has a rule that a conversation may break.
TEMPLATE = """{%- for m in messages -%}
{{- m.role + ': ' + m.content + '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'assistant:' -}}{%- endif -%}
"""
THINKING = TEMPLATE.replace("'assistant:'", "'assistant:<think>\\n'") + "{#- </think> -#}"
STRICT = "{%- if messages[0].role == 'system' -%}{{- raise_exception('no system here') -}}{%- endif -%}" + TEMPLATE
STATS = re.compile(r"context (\d+) of (\d+) tokens \| prompt (\d+) tokens, (\d+) of them kept.*answer (\d+) tokens.*"
                   r"read/token \| peak ([\d.]+) MiB of ([\d.]+)")


class Terminal:
    """The program at the other end of a pseudo-terminal."""

    def __init__(self, *args, **environment):
        pid, fd = pty.fork()
        if not pid:
            env = dict(os.environ, TERM="dumb", **environment)
            os.execve(PROGRAM, [PROGRAM, "chat", *map(str, args)], env)
        self.pid, self.fd, self.said, self.code = pid, fd, "", None

    def read(self, seconds):
        if not select.select([self.fd], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # the other end has gone
            data = b""
        self.said += data.decode("utf-8", "replace")
        return bool(data)

    def until(self, pattern, seconds=60):
        """Reads on until the pattern has come; what came up to its end."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.said)):
            if not self.read(max(0, end - time.monotonic())):
                raise AssertionError(f"{pattern!r} did not come: {self.said!r}")
        before, self.said = self.said[:found.end()], self.said[found.end():]
        return before

    def type(self, text):
        os.write(self.fd, text.encode())

    def ask(self, text, prompt=r"\n> "):
        self.type(text + "\n")
        return self.until(prompt)

    def ended(self):
        """The exit code of a program that ends by itself, soon."""
        while self.read(30):
            pass
        if select.select([self.fd], [], [], 0)[0] == []:
            os.kill(self.pid, signal.SIGKILL)
        self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.fd)
        return self.code


class Chat(Case):
    def chat(self, said, *args, template=TEMPLATE, n=8, **more):
        name = self.put("template.jinja", template)
        return self.call("chat", TRAINED, "--chat-template", name, "-n", n, "--temp", 0, *args, stdin=said, text=True,
                         **more)

    def stats(self, result):
        return [tuple(map(float, m)) for m in STATS.findall(result.stderr)]

    def test_pipe(self):
        """Answers alone are on standard output, and a turn evaluates what is new in it."""
        one = self.chat("Once there was a cat\n")
        self.assertEqual(one.returncode, 0, one.stderr)
        self.assertEqual(one.stderr, "")
        two = self.chat("Once there was a cat\n/stats\nAnd a dog\n/stats\n")
        self.assertEqual(two.returncode, 0, two.stderr)
        self.assertTrue(two.stdout.startswith(one.stdout))
        (n, n_ctx, n_prompt, kept, n_answer, _, _), second = self.stats(two)
        self.assertEqual((n_ctx, kept, n_answer, n), (256, 0, 8, n_prompt + 8))
        self.assertEqual(second[3], n - 1)  # all but the last token of the answer, which nothing had followed
        self.assertGreater(second[2], n)
        # The same tokens at once: what is kept changes no answer.
        again = self.chat("Once there was a cat\nAnd a dog\n", "--mode", "ondemand", "--slots", 8)
        self.assertEqual(again.stdout, two.stdout)

    def test_budget(self):
        if not self.measures():
            return
        r = self.chat("Hello\n/stats\n", "--memory", "24M", "--mode", "ondemand", n=64)
        peak, budget = self.stats(r)[0][-2:]
        self.assertEqual(budget, 24)
        self.assertLess(peak * MIB, budget * MIB)

    def test_messages(self):
        """Lines, several lines, and what begins with a slash, as /save writes them."""
        out = self.path("talk.json")
        r = self.chat(f'a\nb \\\nc\n"""d\n\n "" e"""\n"""\nf\n"""\n//g\n   \n\n/system Be brief.\n/save {out}\n', n=1)
        self.assertEqual(r.returncode, 0, r.stderr)
        with open(out, encoding="utf-8") as f:
            messages = json.load(f)["messages"]
        self.assertEqual([m["content"] for m in messages if m["role"] == "user"],
                         ["a", "b \nc", 'd\n\n "" e', "f", "/g"])
        self.assertEqual(messages[0], {"role": "system", "content": "Be brief."})
        self.assertEqual([m["role"] for m in messages[1:]], 5 * ["user", "assistant"])
        self.assertFalse(os.path.exists(out + ".tmp"))

    def test_load(self):
        out = self.path("talk.json")
        first = self.chat(f"Once there was a cat\n/save {out}\nAnd a dog\n")
        second = self.chat(f"/load {out}\nAnd a dog\n/clear\n/system x\n/system\nOnce there was a cat\n")
        self.assertEqual(second.returncode, 0, second.stderr)
        lines = first.stdout
        self.assertEqual(sorted(second.stdout), sorted(lines))
        self.refused(self.chat("/load /dev/zero\n"), 1, ["/dev/zero: a file of at most 32768 bytes"])
        self.refused(self.chat("/load nowhere.json\n"), 1, ["nowhere.json", "No such file"])
        for text, words in (("{", "talk.json:1"), ('{"messages": 1}', "no list"),
                            ('{"messages": [{"role": "user"}]}', "messages[0]"),
                            ('{"messages": [{"role": "x", "content": ""}]}', "messages[0]")):
            self.put("talk.json", text)
            self.refused(self.chat(f"/load {out}\n"), 1, [words])

    def test_retry(self):
        """The answer and not the message is another; the first prompt is still there."""
        r = self.chat("Once\n/stats\n/retry\n/stats\n/retry\n", "--temp", 2, "--seed", 1, n=12)
        first, second = self.stats(r)
        self.assertEqual(first[:3], second[:3])
        self.assertEqual(second[3], first[2] - 1)
        self.refused(self.chat("/retry\n"), 1, ["no message to answer"])

    def test_refused(self):
        self.refused(self.call("chat", TRAINED), 1, ["template", "--chat-template FILE", "chatml is built in"])
        self.assertEqual(self.call("chat", TRAINED, "--chat-template", "chatml", "-n", 1, stdin=b"a\n").returncode, 0)
        self.refused(self.chat("", "--think", "--no-think"), 2, ["--think and --no-think"])
        self.refused(self.chat("/nothing\n"), 1, ['unknown command "/nothing"'])
        self.refused(self.chat("/stats now\n"), 1, ["takes nothing"])
        self.refused(self.chat("/save\n"), 1, ["which file?"])
        self.refused(self.chat(f"/save {TRAINED}\n"), 1, ["is an input"])
        self.refused(self.chat("a\n", "--system", "x", template=STRICT), 1, ["no system here"])
        self.refused(self.chat("a\n", template="{% if %}"), 1, ["line 1"])
        full = self.refused(self.chat("Once upon a time\n" + "a dog " * 99 + "\n"), 1, ["context is full", "/save", "-c N"])
        self.assertTrue(full.stdout.strip())  # the first message was answered
        self.refused(self.chat("a" * 30000 + "\n"), 1, ["more than 8192 bytes"])

    def test_reasoning(self):
        """What a prompt has begun as reasoning is shown to somebody at a terminal, and is no answer."""
        out = self.path("talk.json")
        r = self.chat(f"Once\n/save {out}\n", template=THINKING)
        self.assertEqual((r.returncode, r.stdout), (0, "\n"), r.stderr)
        with open(out, encoding="utf-8") as f:
            answer = json.load(f)["messages"][1]
        self.assertEqual(answer["content"], "")
        self.assertTrue(answer["reasoning_content"])
        name = self.put("template.jinja", THINKING)
        for environment, begin, end in (({}, "\033[2m", "\033[0m"), ({"NO_COLOR": "1"}, "[thinking]", "[/thinking]")):
            t = Terminal(TRAINED, "--chat-template", name, "-n", 4, "--temp", 0, **environment)
            t.until("> ")
            said = t.ask("Once")
            self.assertRegex(said, re.escape(begin) + r"[^\033]+" + re.escape(end))
            t.type("\x04")
            self.assertEqual(t.ended(), 0)

    def terminal(self, *args):
        t = Terminal(TRAINED, "--chat-template", self.put("template.jinja", TEMPLATE), "--temp", 0, *args)
        self.assertIn("/help", t.until("> "))
        return t

    def test_terminal(self):
        t = self.terminal("-n", 6)
        plain = self.chat("Once there was a cat\n", n=6).stdout.strip()
        self.assertIn(plain.split()[0], t.ask("Once there was a cat"))
        self.assertIn("unknown command", t.ask("/x"))
        self.assertIn("/retry", t.ask("/help"))
        t.ask('"""', r"\n\.\.\. ")
        t.ask("b\\", r"\n\.\.\. ")
        self.assertIn("context", t.ask('"""') + t.ask("/stats"))
        self.assertIn("same answer", t.ask("/retry"))
        t.type("/quit\n")
        self.assertEqual(t.ended(), 0)

    def test_interrupts(self):
        """Ctrl-C ends the answer, then the line, and at an empty line, twice, the program."""
        t = self.terminal("-c", 20000, "-t", 1, "--cpu", "ref")
        t.type("Once there was a cat\n")
        t.until(r"cat\r\n.*[a-z]")
        t.type("\x03")
        t.until(r"\n> ", 30)
        self.assertRegex(t.ask("/stats"), r"context \d+ of 20000")
        t.type("half a line")
        t.until("half a line")
        t.type("\x03")
        self.assertNotIn("again", t.until(r"\n> "))
        t.type("\x03")
        self.assertIn("Ctrl-C again", t.until(r"\n> "))
        t.type("/stats\n")  # between two, and they do not count together
        t.until(r"\n> ")
        t.type("\x03")
        t.until(r"again.*\n> ")
        t.type("\x03")
        self.assertEqual(t.ended(), 0)

    def test_ended_by_signals(self):
        t = self.terminal()
        os.kill(t.pid, signal.SIGTERM)
        self.assertEqual(t.ended(), 143)

    def test_escapes(self):
        """What a model says reaches no terminal as an escape sequence: here the template's own text, said again."""
        t = Terminal(TRAINED, "--chat-template", self.put("template.jinja", TEMPLATE), "-n", 300, "--temp", 1000,
                     "--top-k", 0, "--top-p", 1, "--min-p", 0, "--seed", 3, "-c", 2000, NO_COLOR="1")
        t.until("> ")
        t.type("a\n")
        answer = t.until(r"\n> ")
        self.assertNotRegex(answer.split("\n", 1)[1].rsplit("\n", 1)[0].replace("\r", ""), "[\x00-\x08\x0b-\x1f\x7f]")
        self.assertIn("\ufffd", answer)
        t.type("\x04")
        t.ended()


if __name__ == "__main__":
    main()
