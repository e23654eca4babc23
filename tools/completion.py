#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Completion for bash out of --help: tools/completion.py PROGRAM [--check]. It writes dist/pregate.bash."""
import pathlib
import sys

import help_pages

OUT = pathlib.Path(__file__).resolve().parent.parent / "dist" / "pregate.bash"
FILES = {"FILE", "FILE...", "MODEL", "FOLDER", "SIDECAR", "TRACE", "MACHINE", "DIR"}
HEAD = """# SPDX-License-Identifier: MIT
# shellcheck shell=bash
# Completion of pregate for bash; made by tools/completion.py of --help, do not edit.

_pregate()
{
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} options='' words='' files=''
    COMPREPLY=()
    # Bash cuts --name=value into three words.
    if [ "$cur" = = ]; then
        cur=''
    elif [ "$prev" = = ]; then
        prev=${COMP_WORDS[COMP_CWORD-2]}
    fi
    if [ "$COMP_CWORD" = 1 ] || { [ "$COMP_CWORD" = 2 ] && [ "${COMP_WORDS[1]}" = help ]; }; then
        mapfile -t COMPREPLY < <(compgen -W '@commands@ help --help --version' -- "$cur")
        return
    fi
    case ${COMP_WORDS[1]} in
"""
MIDDLE = """    *) return ;;
    esac
    # What the option before the cursor takes: one of these words, a file, or what nobody can guess.
    case ${COMP_WORDS[1]}:$prev in
"""
TAIL = """    esac
    if [ -n "$words" ] || [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "${words:-$options}" -- "$cur")
    elif [ -n "$files" ]; then
        # Names with blanks are quoted, folders get their slash.
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
    fi
}
complete -F _pregate pregate
"""


def patterns(page, options):
    names = [n for o in options for n in ([f"-{o.letter}"] if o.letter else []) + [f"--{o.name}"]]
    return " | ".join(f"{page.name}:{n}" for n in names)


def command(page):
    names = " ".join(f"--{o.name}" for o in page.options)
    files = " files=1" if page.subject in FILES else ""
    return f"    {page.name})\n        options='{names}'{files}\n        ;;\n"


def values(page):
    """Where an option's value is expected."""
    rows = [f"    {patterns(page, [o])}) words='{' '.join(o.choices)}' ;;\n" for o in page.options if o.choices]
    files = [o for o in page.options if o.value in FILES]
    other = [o for o in page.options if o.value and o not in files and not o.choices]
    for taking, then in ((files, "files=1"), (other, "return")):
        if taking:
            rows.append(f"    {patterns(page, taking)}) {then} ;;\n")
    return "".join(rows)


def main():
    pages = help_pages.pages(sys.argv[1])
    text = "".join([HEAD.replace("@commands@", " ".join(p.name for p in pages)), *map(command, pages), MIDDLE,
                    *map(values, pages), TAIL])
    help_pages.write({OUT: text})


if __name__ == "__main__":
    main()
