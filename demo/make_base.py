#!/usr/bin/env python3
"""Makes an untrained base model for the demo from the text it will learn: tokenizer, configuration, random weights.

    python3 make_base.py TEXT.jsonl FOLDER

The tokenizer is a byte-level BPE learned here.  The same text gives the same bytes, whatever the Python version.
"""
import collections
import json
import pathlib
import random
import re
import struct
import sys

END = "<|end|>"
VOCABULARY = 896  # bytes, merges, END
HIDDEN, FFN, LAYERS, HEADS, KV_HEADS, POSITIONS = 128, 352, 4, 4, 2, 256
# GPT-2's pattern, for ASCII.
PRETOKEN = re.compile(r"'(?:[sdmt]|ll|ve|re)| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+")


def byte_letters():
    """GPT-2's printable letter for every byte."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in plain]
    return {**{b: chr(b) for b in plain}, **{b: chr(256 + i) for i, b in enumerate(others)}}


def learn_merges(texts, letters, count):
    """The first `count` merges; the more frequent pair first, the smaller of equals."""
    words = collections.Counter(token for text in texts for token in PRETOKEN.findall(text))
    words = [([letters[b] for b in word.encode()], n) for word, n in sorted(words.items())]
    merges = []
    while len(merges) < count:
        pairs = collections.Counter()
        for pieces, n in words:
            for pair in zip(pieces, pieces[1:]):
                pairs[pair] += n
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for pieces, _ in words:
            for i in range(len(pieces) - 2, -1, -1):
                if tuple(pieces[i:i + 2]) == best:
                    pieces[i:i + 2] = ["".join(best)]
    whole = sum(n for pieces, n in words if len(pieces) == 1) / sum(n for _, n in words)
    print(f"{len(words)} words, {len(merges)} merges, {100 * whole:.1f} % of the words are one token")
    return merges


def tokenizer(merges, letters):
    tokens = [letters[b] for b in range(256)] + ["".join(pair) for pair in merges]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": len(tokens), "content": END, "single_word": False, "lstrip": False,
                          "rstrip": False, "normalized": False, "special": True}],
        "normalizer": None, "pre_tokenizer": byte_level, "post_processor": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {token: i for i, token in enumerate(tokens)},
                  "merges": [list(pair) for pair in merges]},
    }, len(tokens)


def config(vocabulary, end):
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "attention_bias": False, "attention_dropout": 0.0, "mlp_bias": False,
        "vocab_size": vocabulary, "hidden_size": HIDDEN, "intermediate_size": FFN, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HIDDEN // HEADS,
        "max_position_embeddings": POSITIONS, "rope_theta": 10000.0, "rms_norm_eps": 1e-05,
        "bos_token_id": None, "eos_token_id": end, "pad_token_id": None, "initializer_range": 0.02,
        "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True,
    }


def tensors(vocabulary):
    kv = HIDDEN // HEADS * KV_HEADS
    yield "model.embed_tokens.weight", (vocabulary, HIDDEN)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (HIDDEN,)
        yield prefix + "self_attn.q_proj.weight", (HIDDEN, HIDDEN)
        yield prefix + "self_attn.k_proj.weight", (kv, HIDDEN)
        yield prefix + "self_attn.v_proj.weight", (kv, HIDDEN)
        yield prefix + "self_attn.o_proj.weight", (HIDDEN, HIDDEN)
        yield prefix + "post_attention_layernorm.weight", (HIDDEN,)
        yield prefix + "mlp.gate_proj.weight", (FFN, HIDDEN)
        yield prefix + "mlp.up_proj.weight", (FFN, HIDDEN)
        yield prefix + "mlp.down_proj.weight", (HIDDEN, FFN)
    yield "model.norm.weight", (HIDDEN,)


def bfloat16(value):
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    return (bits + (bits >> 16 & 1) + 0x7FFF) >> 16


def values(draw, name, count):
    """Norms are 1; the others nearly normal (a sum of 12 uniform numbers: no libm, so exact everywhere)."""
    if name.endswith("norm.weight"):
        return [0x3F80] * count
    return [bfloat16(0.02 * (sum(draw() for _ in range(12)) - 6)) for _ in range(count)]


def write_weights(path, vocabulary):
    draw = random.Random(1).random
    header, offset, data = {"__metadata__": {"format": "pt"}}, 0, bytearray()
    for name, shape in tensors(vocabulary):
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + 2 * count]}
        data += struct.pack(f"<{count}H", *values(draw, name, count))
        offset += 2 * count
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    print(f"{offset // 2} parameters")


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__.strip())
    with open(sys.argv[1], encoding="utf-8") as rows:
        texts = [json.loads(row)["text"] for row in rows]
    folder = pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    letters = byte_letters()
    merges = learn_merges(texts, letters, VOCABULARY - 257)
    tokens, end = tokenizer(merges, letters)
    write_json(folder / "tokenizer.json", tokens)
    write_json(folder / "tokenizer_config.json",
               {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "pad_token": END,
                "clean_up_tokenization_spaces": False, "model_max_length": POSITIONS})
    write_json(folder / "config.json", config(end + 1, end))
    write_json(folder / "generation_config.json", {"eos_token_id": end, "do_sample": False})
    write_weights(folder / "model.safetensors", end + 1)


if __name__ == "__main__":
    main()
