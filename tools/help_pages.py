# SPDX-License-Identifier: MIT
"""What `pregate --help` and `pregate COMMAND --help` say, taken apart. The option table of apps/cli/options.c is the
source of both, so that what is made of this cannot say anything else. Used by man.py and completion.py."""
import re
import subprocess
import sys

OPTION = re.compile(r"  (?:-(\w),|   ) --([a-z0-9-]+)(?: (\S+))?\s+(\S.*)")
CHOICES = re.compile(r" {30}(\S+(?: \| \S+)+)")


class Option:
    def __init__(self, letter, name, value, text):
        self.letter, self.name, self.value, self.text = letter, name, value, text
        self.choices = []


class Page:
    """One command: name, synopsis, subject, about, options and examples."""

    def __init__(self, text):
        head, rest = text.split("\n\nUsage: ", 1)
        self.name, self.synopsis = re.fullmatch(r"pregate (\S+): (.*)", head).groups()
        usage, rest = rest.split("\n\n", 1)
        self.subject = re.fullmatch(rf"pregate {self.name} ?(.*) \[options\]", usage).group(1).strip()
        self.about, rest = rest.split("\n\nOptions:\n", 1)
        options, examples = rest.split("\n\nExamples:\n", 1)
        self.examples = [line.strip() for line in examples.splitlines() if line.strip()]
        self.options = []
        for line in options.splitlines():
            option, choices = OPTION.fullmatch(line), CHOICES.fullmatch(line)
            if option:
                self.options.append(Option(*option.groups()))
            elif choices and self.options:
                self.options[-1].choices = choices.group(1).split(" | ")
            else:
                raise ValueError(f"pregate {self.name} --help: a line that is no option: {line!r}")


def ask(program, *args):
    return subprocess.run([program, *args], stdout=subprocess.PIPE, text=True, check=True).stdout


def commands(program):
    """Names of all commands with what they do, in the order of --help."""
    text = ask(program, "--help").split("\n\n")[2]
    return [re.fullmatch(r"  (\S+)\s+(.*)", line).groups() for line in text.splitlines()]


def pages(program):
    return [Page(ask(program, name, "--help")) for name, _ in commands(program)]


def write(files):
    """Writes {path: text}. With --check nothing is written, and a file that would change is an error."""
    stale = [path for path, text in files.items() if not path.exists() or path.read_text("utf-8") != text]
    if "--check" in sys.argv:
        print("".join(f"{path} is not what --help says; {sys.argv[0]} PROGRAM makes it\n" for path in stale), end="")
        sys.exit(bool(stale))
    for path in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_text(files[path], "utf-8")
        print(path)
