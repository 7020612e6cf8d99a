"""Adapters that PEFT writes, loaded by our programs."""

import torch
from safetensors.torch import load_file, save_file

from support import (
    ARCHITECTURES,
    base_model,
    check,
    compare_logits,
    model_folder,
    our_logits,
    peer_logits,
    randomize,
    require_effect,
    write_batch,
)

VARIANTS = {
    "llama": ("llama-tiny", dict(target_modules="all-linear")),
    "llama-rslora": ("llama-tiny", dict(target_modules="all-linear", use_rslora=True)),
    "llama-patterns": (
        "llama-tiny",
        dict(
            target_modules=["q_proj", "v_proj", "up_proj"],
            rank_pattern={"q_proj": 2, r"layers\.1\.mlp\.up_proj": 7},
            alpha_pattern={"v_proj": 3, r"layers\.0\..*q_proj": 16},
        ),
    ),
    "llama-some-layers": (
        "llama-tiny",
        dict(target_modules=["k_proj", "down_proj"], layers_to_transform=[0, 2], layers_pattern="layers"),
    ),
    "llama-one-layer": ("llama-tiny", dict(target_modules=["o_proj"], layers_to_transform=1)),
    "llama-regex": (
        "llama-tiny",
        dict(target_modules=r"model\.layers\.(0|2)\.(self_attn\.[qk]_proj|mlp\.(?!up).*_proj)"),
    ),
    "llama-full-names": (
        "llama-tiny",
        dict(target_modules=["model.layers.1.self_attn.q_proj", "mlp.gate_proj"]),
    ),
    "llama-exclude": (
        "llama-tiny",
        dict(target_modules="all-linear", exclude_modules=["o_proj", "model.layers.0.mlp.up_proj"]),
    ),
    "llama-fractional-alpha": ("llama-tiny", dict(target_modules=["q_proj"], lora_alpha=2.5)),
    "gpt2": ("gpt2-tiny", dict(target_modules="all-linear", fan_in_fan_out=True)),
    "gpt2-bias-lora-only": (
        "gpt2-tiny",
        dict(target_modules=["c_attn", "c_proj"], bias="lora_only", fan_in_fan_out=True),
    ),
    "gpt2-bias-all": ("gpt2-tiny", dict(target_modules=["c_fc"], bias="all", fan_in_fan_out=True)),
    "biases": ("biased", dict(target_modules="all-linear")),
    "biases-lora-only": ("biased", dict(target_modules=["q_proj", "o_proj", "down_proj"], bias="lora_only")),
    "biases-all": ("biased", dict(target_modules=["k_proj"], bias="all")),
} | {f"archs-{name}": (f"archs/{name}", dict(target_modules="all-linear")) for name in ARCHITECTURES}


def made_there(folder, name, settings, seed=5):
    """A PEFT model with a random adapter, also saved in folder/adapter.

    Gives (path of the base model, PEFT model, batch, the base's logits).
    """
    from peft import LoraConfig, get_peft_model

    path = model_folder(folder, name)
    base = base_model(path)
    batch = write_batch(folder / "batch.safetensors", base.config.vocab_size)
    plain = peer_logits(base, batch)
    torch.manual_seed(seed)
    model = get_peft_model(
        base, LoraConfig(**{"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **settings})
    )
    randomize(model)
    model.save_pretrained(folder / "adapter")
    return path, model, batch, plain


def loads_here(folder, name, settings):
    path, model, batch, plain = made_there(folder, name, settings)
    theirs = peer_logits(model, batch)
    require_effect(theirs, plain, batch["attention_mask"])
    ours = our_logits(folder, path, folder / "batch.safetensors", "--adapter", folder / "adapter")
    compare_logits(ours, theirs, batch["attention_mask"])


for label, (source, settings) in VARIANTS.items():
    check(f"ours-loads-peft/{label}", source, settings)(loads_here)


@check("ours-loads-peft/llama-bf16-file", torch.bfloat16)
@check("ours-loads-peft/llama-f16-file", torch.float16)
def narrow_file(folder, dtype):
    """An adapter stored in 16 bits; both sides widen it to f32."""
    from peft import PeftModel

    path, _, batch, plain = made_there(folder, "llama-tiny", dict(target_modules="all-linear"))
    file = folder / "adapter" / "adapter_model.safetensors"
    save_file(
        {name: tensor.to(dtype) for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"}
    )
    theirs = peer_logits(PeftModel.from_pretrained(base_model(path), folder / "adapter"), batch)
    require_effect(theirs, plain, batch["attention_mask"])
    ours = our_logits(folder, path, folder / "batch.safetensors", "--adapter", folder / "adapter")
    compare_logits(ours, theirs, batch["attention_mask"])
