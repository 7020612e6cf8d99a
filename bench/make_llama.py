#!/usr/bin/env python3
"""Writes a LLaMA checkpoint in Hugging Face's layout with random bf16 weights, for benchmarks.

    python3 make_llama.py SHAPE FOLDER [--shards N] [--seed N]

Linear and embedding weights are normal with standard deviation 0.02, norms are 1.  The same shape, seed and
number of shards give the same bytes.  Weights are drawn and written a piece at a time: memory stays small
whatever the shape.  Needs numpy.
"""

import argparse
import json
import pathlib
import struct
import sys

try:
    import numpy
except ImportError:
    sys.exit("make_llama: needs numpy; install it, or run this with the Python of bench/peer_peft")

SHAPES = {
    "tiny": dict(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=192,
        vocab_size=320,
        tie_word_embeddings=False,
    ),
    # SmolLM2-135M
    "134m": dict(
        hidden_size=576,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
        vocab_size=49152,
        tie_word_embeddings=True,
    ),
    # TinyLlama-1.1B
    "1.1b": dict(
        hidden_size=2048,
        num_hidden_layers=22,
        num_attention_heads=32,
        num_key_value_heads=4,
        intermediate_size=5632,
        vocab_size=32000,
        tie_word_embeddings=False,
    ),
}
PIECE = 1 << 20  # elements drawn at a time


def config_of(shape):
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": None,
        "head_dim": shape["hidden_size"] // shape["num_attention_heads"],
        "initializer_range": 0.02,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-05,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "rope_theta": 10000.0,
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
        "use_cache": True,
        **shape,
    }


def tensors_of(shape):
    """(name, shape) of every tensor, in the order of the file."""
    hidden, ffn, vocab = shape["hidden_size"], shape["intermediate_size"], shape["vocab_size"]
    kv = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    yield "model.embed_tokens.weight", (vocab, hidden)
    for layer in range(shape["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (hidden,)
        yield prefix + "self_attn.q_proj.weight", (hidden, hidden)
        yield prefix + "self_attn.k_proj.weight", (kv, hidden)
        yield prefix + "self_attn.v_proj.weight", (kv, hidden)
        yield prefix + "self_attn.o_proj.weight", (hidden, hidden)
        yield prefix + "post_attention_layernorm.weight", (hidden,)
        yield prefix + "mlp.gate_proj.weight", (ffn, hidden)
        yield prefix + "mlp.up_proj.weight", (ffn, hidden)
        yield prefix + "mlp.down_proj.weight", (hidden, ffn)
    yield "model.norm.weight", (hidden,)
    if not shape["tie_word_embeddings"]:
        yield "lm_head.weight", (vocab, hidden)


def elements(shape):
    count = 1
    for n in shape:
        count *= n
    return count


def bfloat16(values):
    """float32 to bf16 bits, to nearest, ties to even."""
    bits = values.view(numpy.uint32)
    return ((bits + (((bits >> 16) & 1) + numpy.uint32(0x7FFF))) >> 16).astype("<u2")


def write_tensor(out, random, name, shape):
    count = elements(shape)
    if name.endswith("norm.weight"):
        out.write(struct.pack("<H", 0x3F80) * count)
        return
    while count:
        n = min(count, PIECE)
        values = random.standard_normal(n, dtype=numpy.float32)
        values *= numpy.float32(0.02)
        bfloat16(values).tofile(out)
        count -= n


def write_file(path, tensors, random):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors:
        size = 2 * elements(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name, shape in tensors:
            write_tensor(out, random, name, shape)


def split(tensors, shards):
    """`shards` consecutive groups of about the same size."""
    total, groups, done = sum(elements(shape) for _, shape in tensors), [[]], 0
    for name, shape in tensors:
        if groups[-1] and done * shards >= total * len(groups):
            groups.append([])
        groups[-1].append((name, shape))
        done += elements(shape)
    return groups


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    shape = SHAPES[options.shape]
    tensors = list(tensors_of(shape))
    if not 1 <= options.shards <= len(tensors):
        parser.error(f"--shards must be 1 to {len(tensors)}")
    groups = split(tensors, options.shards)
    random = numpy.random.Generator(numpy.random.Philox(options.seed))
    options.folder.mkdir(parents=True, exist_ok=True)
    for old in options.folder.glob("model*.safetensors*"):
        old.unlink()
    weight_map = {}
    for number, group in enumerate(groups, 1):
        shard = "" if len(groups) == 1 else f"-{number:05}-of-{len(groups):05}"
        name = f"model{shard}.safetensors"
        write_file(options.folder / name, group, random)
        weight_map.update((tensor, name) for tensor, _ in group)
    count = sum(elements(shape) for _, shape in tensors)
    if len(groups) > 1:
        metadata = {"total_parameters": count, "total_size": 2 * count}
        write_json(
            options.folder / "model.safetensors.index.json", {"metadata": metadata, "weight_map": weight_map}
        )
    write_json(options.folder / "config.json", config_of(shape))
    print(f"{options.folder}: {count / 1e6:.1f} million parameters in {len(groups)} file(s)")


if __name__ == "__main__":
    main()
