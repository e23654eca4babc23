#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Manual pages out of --help: tools/man.py PROGRAM [--check]. One of the program, one of each command, in docs/man."""
import pathlib
import sys

import help_pages

OUT = pathlib.Path(__file__).resolve().parent.parent / "docs" / "man"
EXITS = [("0", "done"), ("1", "failed"), ("2", "called wrongly"),
         ("130, 143, 129", "ended by SIGINT, SIGTERM or SIGHUP")]


def text(s):
    """As roff has it: nothing in it is a request, and hyphens can be searched for and copied."""
    s = s.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga").replace("^", "\\(ha")
    s = s.replace("~", "\\(ti").replace('"', "\\(dq")
    s = "".join(c if ord(c) < 128 else f"\\[u{ord(c):04X}]" for c in s)
    return "\\&" + s if s.startswith(".") else s


def title(name, version):
    made = '.\\" Made by tools/man.py of --help; do not edit.\n'
    return made + f'.TH {text(name.upper())} 1 "" "{text(version)}" "Pregate"\n'


def exits():
    return ".SH EXIT STATUS\n" + "".join(f".TP\n.B {text(code)}\n{text(what)}\n" for code, what in EXITS)


def option(o):
    names = f"\\fB\\-{o.letter}\\fR, " if o.letter else ""
    value = f" \\fI{text(o.value)}\\fR" if o.value else ""
    choices = f"\n.br\nOne of {', '.join(f'{chr(92)}fB{text(c)}{chr(92)}fR' for c in o.choices)}." if o.choices else ""
    return f".TP\n{names}\\fB\\-\\-{text(o.name)}\\fR{value}\n{text(o.text)}{choices}\n"


def command(page, version):
    subject = f" \\fI{text(page.subject)}\\fR" if page.subject else ""
    return "".join([
        title(f"pregate-{page.name}", version),
        f".SH NAME\npregate\\-{text(page.name)} \\- {text(page.synopsis)}\n",
        f".SH SYNOPSIS\n\\fBpregate {text(page.name)}\\fR{subject} [\\fIoptions\\fR]\n",
        ".SH DESCRIPTION\n", "".join(text(line) + "\n" for line in page.about.splitlines()),
        ".SH OPTIONS\n", *(option(o) for o in page.options),
        ".SH EXAMPLES\n.nf\n", "".join(text(line) + "\n" for line in page.examples), ".fi\n",
        exits(), ".SH SEE ALSO\n.BR pregate (1)\n"])


def overview(pages, version):
    rows = "".join(f".TP\n\\fBpregate\\-{text(p.name)}\\fR(1)\n{text(p.synopsis)}\n" for p in pages)
    return "".join([
        title("pregate", version),
        ".SH NAME\npregate \\- Mixture\\-of\\-Experts models under a memory budget\n",
        ".SH SYNOPSIS\n\\fBpregate\\fR \\fICOMMAND\\fR [\\fIoptions\\fR]\n.br\n\\fBpregate\\fR \\fICOMMAND\\fR "
        "\\fB\\-\\-help\\fR\n.br\n\\fBpregate \\-\\-version\\fR\n",
        ".SH COMMANDS\n", rows, exits()])


def main():
    program = sys.argv[1]
    pages, version = help_pages.pages(program), help_pages.ask(program, "--version").strip()
    files = {OUT / f"pregate-{p.name}.1": command(p, version) for p in pages}
    files[OUT / "pregate.1"] = overview(pages, version)
    for gone in sorted(set(OUT.glob("*.1")) - set(files)):
        sys.exit(f"{gone}: there is no such command any more; please remove it")
    help_pages.write(files)


if __name__ == "__main__":
    main()
