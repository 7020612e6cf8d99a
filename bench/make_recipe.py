#!/usr/bin/env python3
"""Writes the tutorials' rows, tokenized and padded: instruction data with the Alpaca template.

    python3 make_recipe.py FILE --rows N [--length 512] [--labels all|response]
                           [--data ROWS.jsonl --tokenizer tokenizer.json] [--seed N]

FILE gets input_ids, labels and attention_mask, I64 [rows, length], padded on the right with id 0.  Rows of --data
are objects with question and answer (or instruction and output): of all of them those at even distances in the order
of their lengths, shuffled, so that few rows stand for the lengths of the whole file.  Without --data the ids are
random and the lengths drawn as those of GSM8K are distributed under a 32,000-word tokenizer.  --labels all: every real token is
a target; response: the answer and the end of text.  The same arguments give the same bytes.  --data needs the
package tokenizers.
"""

import argparse
import json
import random
import struct
import sys

END = 2  # of text
# Of GSM8K's training rows in tokens, template included: logarithms of prompt and answer lengths.
PROMPT = (4.33, 0.29)
ANSWER = (4.77, 0.43)


def drawn_rows(options):
    draw = random.Random(options.seed)
    for _ in range(options.rows):
        prompt, answer = (max(4, round(draw.lognormvariate(*sizes))) for sizes in (PROMPT, ANSWER))
        yield [draw.randrange(3, 32000) for _ in range(prompt)], [draw.randrange(3, 32000) for _ in range(answer)]


def tokenized_rows(options):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(options.tokenizer)
    with open(options.data, encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            row = json.loads(line)
            question = row.get("question") or row.get("instruction")
            answer = row.get("answer") or row.get("output")
            if not question or not answer:
                sys.exit(f"make_recipe: {options.data}:{number + 1}: no question and answer")
            prompt = f"### Instruction:\n{question}\n\n### Response:\n"
            yield (
                tokenizer.encode(prompt).ids,
                tokenizer.encode(answer, add_special_tokens=False).ids,
            )


def typical_rows(rows, options):
    """As many as asked for, at even distances in the order of their lengths, shuffled."""
    rows = sorted(rows, key=lambda row: len(row[0]) + len(row[1]))
    count = min(options.rows, len(rows))
    chosen = [rows[(2 * i + 1) * len(rows) // (2 * count)] for i in range(count)]
    random.Random(options.seed).shuffle(chosen)
    return chosen


def padded(rows, options):
    """input_ids, labels, attention_mask as flat lists."""
    arrays = [], [], []
    for prompt, answer in rows:
        ids = (prompt + answer + [END])[: options.length]
        masked = len(prompt) if options.labels == "response" else 0
        gap = options.length - len(ids)
        arrays[0].extend(ids + [0] * gap)
        arrays[1].extend([-100] * min(masked, len(ids)) + ids[masked:] + [-100] * gap)
        arrays[2].extend([1] * len(ids) + [0] * gap)
    return dict(zip(("input_ids", "labels", "attention_mask"), arrays))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("file")
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--labels", choices=("all", "response"), default="all")
    parser.add_argument("--data")
    parser.add_argument("--tokenizer")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if bool(options.data) != bool(options.tokenizer):
        parser.error("--data and --tokenizer go together")
    chosen = typical_rows(tokenized_rows(options), options) if options.data else drawn_rows(options)
    arrays = padded(chosen, options)
    rows = len(arrays["input_ids"]) // options.length
    if rows < options.rows:
        parser.error(f"{options.data} has only {rows} rows")
    size = 8 * rows * options.length
    header = json.dumps(
        {
            name: {"dtype": "I64", "shape": [rows, options.length], "data_offsets": [i * size, (i + 1) * size]}
            for i, name in enumerate(arrays)
        }
    ).encode()
    header += b" " * (-len(header) % 8)
    with open(options.file, "wb") as out:
        out.write(struct.pack("<Q", len(header)) + header)
        for values in arrays.values():
            out.write(struct.pack(f"<{len(values)}q", *values))
    real = sum(arrays["attention_mask"])
    targets = sum(label != -100 for label in arrays["labels"])
    print(f"{rows} rows, {real / rows:.0f} tokens and {targets / rows:.0f} targets a row on average", file=sys.stderr)


if __name__ == "__main__":
    main()
