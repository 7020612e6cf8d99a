#!/usr/bin/env python3
"""Writes a pre-tokenized file of random ids: input_ids and labels, I64 [rows, length], each id a label.

    python3 make_tokens.py FILE --rows N --length N --vocab N [--seed N]

Both programs of a comparison read the same file.  The same arguments give the same bytes.
"""

import argparse
import array
import json
import random
import struct
import sys


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("file")
    for name in ("rows", "length", "vocab"):
        parser.add_argument("--" + name, type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.rows < 1 or options.length < 2 or options.vocab < 4:
        parser.error("needs at least one row, two tokens a row and four ids")
    draw = random.Random(options.seed)
    # 0 to 2 are usually special.
    ids = array.array("q", (draw.randrange(3, options.vocab) for _ in range(options.rows * options.length)))
    if sys.byteorder == "big":
        ids.byteswap()
    size, shape = 8 * len(ids), [options.rows, options.length]
    header = json.dumps(
        {
            name: {"dtype": "I64", "shape": shape, "data_offsets": [i * size, (i + 1) * size]}
            for i, name in enumerate(("input_ids", "labels"))
        }
    ).encode()
    header += b" " * (-len(header) % 8)
    with open(options.file, "wb") as out:
        out.write(struct.pack("<Q", len(header)) + header + ids.tobytes() * 2)


if __name__ == "__main__":
    main()
