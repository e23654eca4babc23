#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Writes src/text/nfc_table.c from the Unicode data that Python carries.

    tools/mknfc.py > src/text/nfc_table.c
"""
import sys
import unicodedata

HANGUL = range(0xAC00, 0xD7A4)
JAMO_SECOND = list(range(0x1161, 0x1176)) + list(range(0x11A8, 0x11C3))


def canonical(cp):
    """The one-step canonical decomposition as a list of code points, or None."""
    text = unicodedata.decomposition(chr(cp))
    if not text or text.startswith("<") or cp in HANGUL:
        return None
    return [int(part, 16) for part in text.split()]


def ranges(values):
    """(first, last, value) runs of a {code point: value}."""
    out = []
    for cp in sorted(values):
        if out and out[-1][1] == cp - 1 and out[-1][2] == values[cp]:
            out[-1][1] = cp
        else:
            out.append([cp, cp, values[cp]])
    return out


def table(out, kind, name, rows):
    out.write(f"\nconst struct {kind} pg_nfc_{name}[] = {{\n")
    for i in range(0, len(rows), 4):
        cells = ["{" + ", ".join(f"0x{x:X}" for x in row) + "}" for row in rows[i:i + 4]]
        out.write("    " + ", ".join(cells) + ",\n")
    out.write(f"}};\nconst int pg_nfc_n_{name} = {len(rows)};\n")


def main():
    points = [cp for cp in range(0x110000) if not 0xD800 <= cp < 0xE000]
    split = {cp: parts for cp in points if (parts := canonical(cp))}
    joined = {cp: parts for cp, parts in split.items()
              if len(parts) == 2 and unicodedata.normalize("NFC", chr(cp)) == chr(cp)}
    classes = {cp: c for cp in points if (c := unicodedata.combining(chr(cp)))}
    unplain = {cp: 1 for cp in split if cp not in joined}
    unplain.update({cp: 1 for cp in classes})
    unplain.update({parts[1]: 1 for parts in joined.values()})
    unplain.update({cp: 1 for cp in JAMO_SECOND})
    out = sys.stdout
    out.write("/* SPDX-License-Identifier: MIT\n"
              f" * Unicode {unicodedata.unidata_version}, written by tools/mknfc.py. */\n"
              '#include "text/nfc_table.h"\n\n// clang-format off')
    table(out, "pg_nfc_pair", "decomposed", [(cp, *p, 0)[:3] for cp, p in sorted(split.items())])
    table(out, "pg_nfc_pair", "composed",
          sorted(((cp, *p) for cp, p in joined.items()), key=lambda row: row[1:]))
    table(out, "pg_nfc_range", "class", ranges(classes))
    table(out, "pg_nfc_range", "unplain", ranges(unplain))


if __name__ == "__main__":
    main()
