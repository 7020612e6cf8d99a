#!/usr/bin/env python3
"""Turns a llama2.c model into a Hugging Face folder.

    convert_llama2c.py MODEL.bin TOKENIZER.bin FOLDER

MODEL.bin is llama2.c's legacy file or its version 1 ("ak42"), both float32; TOKENIZER.bin is its tokenizer file.
FOLDER gets config.json, model.safetensors, tokenizer.json and tokenizer_config.json.

llama2.c rotates neighbouring elements of a head, Hugging Face the two halves: the rows of wq and wk are put in
the other order.  The norm epsilon (1e-5) and the rope base (10000) are constants of llama2.c.
"""

import json
import os
import struct
import sys

NORM_EPS = 1e-5
ROPE_THETA = 10000.0
FIRST_PIECE = 259  # <unk>, <s>, </s> and the 256 bytes come before


class Reader:
    """Little-endian values of a file, one after another."""

    def __init__(self, path):
        self.path = path
        with open(path, "rb") as f:
            self.data = f.read()
        self.at = 0

    def take(self, n):
        if n < 0 or n > len(self.data) - self.at:
            sys.exit(f"{self.path}: too short: {n} bytes are needed at offset {self.at}")
        self.at += n
        return self.data[self.at - n : self.at]

    def ints(self, n):
        return struct.unpack(f"<{n}i", self.take(4 * n))


def read_model(path):
    """The configuration and {name: (shape, bytes)}."""
    r = Reader(path)
    version1 = r.data[:4] == b"24ka"
    if version1:
        r.take(4)
        version = r.ints(1)[0]
        if version != 1:
            sys.exit(f"{path}: version {version}; only the legacy file and version 1 are float32")
    dim, hidden, layers, heads, kv_heads, vocab, positions = r.ints(7)
    shared = vocab > 0
    vocab = abs(vocab)
    if version1:
        shared = r.take(1)[0] != 0
        r.at = 256
    if min(dim, hidden, layers, heads, kv_heads, vocab, positions) < 1 or dim % heads or heads % kv_heads:
        sys.exit(f"{path}: the header makes no sense for a llama2.c model")
    head_dim = dim // heads
    kv_dim = kv_heads * head_dim

    tensors = {}

    def take(name, *shape):
        size = 4
        for n in shape:
            size *= n
        tensors[name] = (shape, r.take(size))

    def per_layer(name, *shape):
        for i in range(layers):
            take(f"model.layers.{i}.{name}.weight", *shape)

    def take_matrices():
        per_layer("self_attn.q_proj", dim, dim)
        per_layer("self_attn.k_proj", kv_dim, dim)
        per_layer("self_attn.v_proj", kv_dim, dim)
        per_layer("self_attn.o_proj", dim, dim)
        if not version1:
            per_layer("post_attention_layernorm", dim)
        per_layer("mlp.gate_proj", hidden, dim)
        per_layer("mlp.down_proj", dim, hidden)
        per_layer("mlp.up_proj", hidden, dim)

    if version1:
        per_layer("input_layernorm", dim)
        per_layer("post_attention_layernorm", dim)
        take("model.norm.weight", dim)
        take("model.embed_tokens.weight", vocab, dim)
        take_matrices()
    else:
        take("model.embed_tokens.weight", vocab, dim)
        per_layer("input_layernorm", dim)
        take_matrices()
        take("model.norm.weight", dim)
        r.take(4 * positions * head_dim)  # cosines and sines of the rotation
    if not shared:
        take("lm_head.weight", vocab, dim)
    if r.at != len(r.data):
        sys.exit(f"{path}: {len(r.data) - r.at} bytes too many")

    for i in range(layers):
        for name in ("q_proj", "k_proj"):
            key = f"model.layers.{i}.self_attn.{name}.weight"
            shape, data = tensors[key]
            tensors[key] = (shape, split_halves(data, shape, head_dim))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": dim,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": positions,
        "rms_norm_eps": NORM_EPS,
        "rope_theta": ROPE_THETA,
        "rope_scaling": None,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": shared,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    }
    return config, tensors


def split_halves(data, shape, head_dim):
    """Row 2i + p of each head becomes row p * head_dim / 2 + i."""
    rows, cols = shape
    size = 4 * cols
    out = []
    for head in range(0, rows, head_dim):
        for p in range(2):
            for i in range(head_dim // 2):
                at = (head + 2 * i + p) * size
                out.append(data[at : at + size])
    return b"".join(out)


def write_safetensors(path, tensors):
    header = {"__metadata__": {"format": "pt"}}
    offset = 0
    names = sorted(tensors)
    for name in names:
        shape, data = tensors[name]
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)))
        f.write(text)
        for name in names:
            f.write(tensors[name][1])


def read_pieces(path, vocab):
    """Texts and scores; llama2.c wrote ▁ as a blank and put line breaks around <s> and </s>."""
    r = Reader(path)
    r.ints(1)  # longest piece
    texts, scores = ["<unk>", "<s>", "</s>"], []
    for i in range(vocab):
        (score,) = struct.unpack("<f", r.take(4))
        (size,) = r.ints(1)
        text = r.take(size).decode()
        scores.append(score)
        if i >= 3:
            texts.append(text if i < FIRST_PIECE else text.replace(" ", "\u2581"))
    if [f"<0x{b:02X}>" for b in range(256)] != texts[3:FIRST_PIECE]:
        sys.exit(f"{path}: pieces 3 to 258 are not the 256 bytes")
    return texts, scores


def merges_of(texts, scores):
    """Every pair of pieces that joins to a piece, best score first."""
    ids = {texts[i]: i for i in range(FIRST_PIECE, len(texts))}
    found = []
    for i in range(FIRST_PIECE, len(texts)):
        for cut in range(1, len(texts[i])):
            left, right = texts[i][:cut], texts[i][cut:]
            if left in ids and right in ids:
                found.append((-scores[i], i, ids[left], ids[right]))
    return [[texts[left], texts[right]] for _, _, left, right in sorted(found)]


def tokenizer_json(texts, scores):
    def special(i):
        return {"id": i, "content": texts[i], "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": True}

    begin = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [special(i) for i in range(3)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u2581"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [begin, {"Sequence": {"id": "A", "type_id": 0}},
                     {"SpecialToken": {"id": "<s>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
            "vocab": {text: i for i, text in enumerate(texts)},
            "merges": merges_of(texts, scores)},
    }


def write_json(folder, name, value):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False, indent=1)
        f.write("\n")


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__.strip())
    model, tokenizer, folder = sys.argv[1:]
    config, tensors = read_model(model)
    texts, scores = read_pieces(tokenizer, config["vocab_size"])
    os.makedirs(folder, exist_ok=True)
    write_safetensors(os.path.join(folder, "model.safetensors"), tensors)
    write_json(folder, "config.json", config)
    write_json(folder, "tokenizer.json", tokenizer_json(texts, scores))
    write_json(folder, "tokenizer_config.json", {
        "tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "add_bos_token": True, "add_eos_token": False, "clean_up_tokenization_spaces": False})


if __name__ == "__main__":
    main()
