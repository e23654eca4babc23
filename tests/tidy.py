#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What a reader sees: C as .clang-format has it, shell scripts that shellcheck has nothing to say about, and no line
of Markdown over 120 columns but in tables and addresses. A tool that is not here is named."""
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
WIDEST = 120


def files(*patterns):
    found = []
    for pattern in patterns:
        found += [p for p in sorted(ROOT.glob(pattern)) if "build" not in p.relative_to(ROOT).parts]
    return found


def tool(*names):
    """The first that is here and, for clang-format, is of version 14: others break lines elsewhere."""
    for name in names:
        if shutil.which(name):
            said = subprocess.run([name, "--version"], stdout=subprocess.PIPE, text=True, check=False).stdout
            if "clang-format" not in name or "version 14." in said:
                return name
    print(f"SKIPPED: {names[-1]}: it is not installed")
    return None


def complaints(name, *args):
    done = subprocess.run([name, *map(str, args)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          check=False)
    return done.stdout.splitlines()[:40] if done.returncode else []


def wide_lines(text):
    """Numbers of lines that are too wide, and could be broken."""
    return [i for i, line in enumerate(text.splitlines(), 1)
            if len(line) > WIDEST and not line.lstrip().startswith("|") and not re.search(r"\S{60}", line)]


def main():
    assert wide_lines("x " * 61) == [1] and not wide_lines("| " + "x " * 61) and not wide_lines("x " * 60)
    wrong = []
    for path in files("*.md", "docs/**/*.md", "models/**/*.md", "tests/**/*.md", "tools/**/*.md"):
        wrong += [f"{path.relative_to(ROOT)}:{i}: over {WIDEST} columns" for i in wide_lines(path.read_text("utf-8"))]
    clang_format = tool("clang-format-14", "clang-format")
    if clang_format:
        sources = files(*(f"{top}/**/*.[ch]" for top in ("src", "apps", "include", "tests", "bench", "examples")))
        wrong += complaints(clang_format, "--dry-run", "--Werror", *sources)
    if tool("shellcheck"):
        wrong += complaints("shellcheck", "-x", "check", "demo", *files("tools/*.sh"))
    print("\n".join(wrong))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
