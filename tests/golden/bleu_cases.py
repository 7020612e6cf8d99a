#!/usr/bin/env python3
"""Writes data/bleu/cases.json: sentence pairs with the tokens and corpus scores of sacreBLEU.

Needs the package sacrebleu (2.6.0 wrote the committed file):  python3 bleu_cases.py data/bleu/cases.json
"""
import json
import random
import sys

import sacrebleu
from sacrebleu.metrics import BLEU

TEXTS = [
    "",
    "   ",
    "Hello, world!",
    "It's 3.14, not 3,14 - or 1,000.50.",
    "a,,b..c. 1.,2 .5 5. ,x x, 1-2 a-b 3- -4",
    "line one\nline two-\nbroken\r\nthree <skipped> four\n",
    "&quot;AT&amp;T&quot; &lt;b&gt; &amp;lt; & done",
    "f(x) = {y | y[0] != ~z}; a/b*c+d:e@f#g$h%i^j_k`l\\m?",
    "naïve café — “quotes” … 東京、大阪。 1．5 é.é ,ü",
    "tab\there\u00a0nbsp\u2003em\u3000ideographic\u2028line\u0085next\u001funit\u200bzero",
    "trailing space \u3000\u2009\n\n",
    "12:30, 5/6, $1.50; 50%, U.S.A., e.g., 'single' don't",
    "🙂🙂 smile.🙂 ,🙂, Ω≈ç√",
    "the the the the the the the",
    "The quick brown fox jumps over the lazy dog .",
    "x" * 40 + "." + "y" * 3,
]

PAIRS = {
    "equal": [("The cat sat on the mat, twice.", "The cat sat on the mat, twice.")],
    "case": [("the cat sat on the mat today", "The Cat sat on the mat today")],
    "short answer": [("The cat sat on", "The cat sat on the mat and looked at the dog.")],
    "long answer": [("The cat sat on the mat and looked at the dog for hours.", "The cat sat on the mat")],
    "no match": [("alpha beta gamma delta", "one two three four five")],
    "no 4-gram match": [("a b c x d e f", "a b c y d e f")],
    "one token": [("yes", "yes")],
    "three tokens": [("yes it is", "yes it is")],
    "empty answer": [("", "something was expected here")],
    "empty reference": [("something was said here", "")],
    "both empty": [("", "")],
    "repeats": [("the the the the the the the", "The cat is on the mat with the dog near the door")],
    "corpus": [
        ("Janet sells 16 - 3 - 4 = 9 eggs, so she makes 9 * 2 = $18.", "She makes 9 * 2 = $18 every day at the market."),
        ("It takes 2/2=1 bolt of white fiber, so 2+1=3 bolts.", "It takes 2/2=1 bolt of white fiber\nSo it takes 2+1=3 bolts"),
        ("", "The profit is $70,000."),
        ("Yes.", "No."),
    ],
}


def random_pairs(seed, count):
    """Noisy copies of sentences over a small alphabet of awkward characters."""
    rng = random.Random(seed)
    words = ["a", "b", "the", "1", "2.5", ",", ".", "-", "3-", "(x)", "don't", "é.", "&amp;", "1,000", "U.S."]
    pairs = []
    for _ in range(count):
        ref = [rng.choice(words) for _ in range(rng.randint(1, 25))]
        hyp = [w if rng.random() < 0.8 else rng.choice(words) for w in ref if rng.random() < 0.9]
        glue = rng.choice([" ", "", "\n"])
        pairs.append((glue.join(hyp), " ".join(ref)))
    return pairs


def main(path):
    bleu = BLEU()
    corpora = dict(PAIRS)
    for seed in range(4):
        corpora[f"random {seed}"] = random_pairs(seed, 12)
    out = {"signature": "", "tokens": [], "corpora": []}
    for text in TEXTS:
        out["tokens"].append({"text": text, "tokens": bleu._preprocess_segment(text).split()})
    for name, pairs in corpora.items():
        score = bleu.corpus_score([h for h, _ in pairs], [[r for _, r in pairs]])
        out["corpora"].append({
            "name": name, "pairs": pairs, "score": score.score, "correct": score.counts, "total": score.totals,
            "system_length": score.sys_len, "reference_length": score.ref_len, "brevity_penalty": score.bp,
        })
    out["signature"] = f"{bleu.get_signature()}, sacrebleu {sacrebleu.__version__}"
    with open(path, "w", encoding="utf-8") as f:
        json.dump(out, f, ensure_ascii=True, indent=1)
        f.write("\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__.strip())
    main(sys.argv[1])
