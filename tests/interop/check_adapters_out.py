"""Adapters that lora-train writes, loaded by PEFT."""

import torch
from safetensors.torch import load_file

from support import (
    base_model,
    check,
    compare_logits,
    compare_tensors,
    fixture,
    model_folder,
    no_warnings,
    our_logits,
    peer_logits,
    read_json,
    require,
    require_effect,
    train,
    words,
    write_batch,
)

VARIANTS = {
    "llama": ("llama-tiny", "all-linear", ()),
    "llama-two-modules": ("llama-tiny", "q_proj,v_proj", ()),
    "llama-regex": ("llama-tiny", r".*layers\.[02]\..*(q|up|down)_proj", ()),
    "llama-rslora-gaussian": (
        "llama-tiny",
        "all-linear",
        ("--use-rslora", "--init-lora-weights", "gaussian"),
    ),
    "gpt2": ("gpt2-tiny", "all-linear", ()),
    "gpt2-bias-lora-only": ("gpt2-tiny", "c_attn,c_fc", ("--bias", "lora_only")),
    "gpt2-bias-all": ("gpt2-tiny", "all-linear", ("--bias", "all")),
    "biases-lora-only": ("biased", "q_proj,o_proj,up_proj", ("--bias", "lora_only")),
    "biases-all": ("biased", "v_proj", ("--bias", "all")),
}


def load_adapter(model, output):
    from peft import PeftModel

    with no_warnings():
        return PeftModel.from_pretrained(model, output)


def trained_adapter(folder, name, targets, options):
    model = model_folder(folder, name)
    batch = write_batch(folder / "batch.safetensors", read_json(model / "config.json")["vocab_size"], rows=8)
    output = folder / "adapter"
    recipe = {"--max-steps": 6, "--per-device-train-batch-size": 4, "--learning-rate": 1e-2, "--seed": 3}
    lora = {"--lora-r": 4, "--lora-alpha": 8, "--lora-target-modules": targets}
    train(model, folder / "batch.safetensors", output, *words(recipe | lora), *options)
    return model, batch, output


def trained_here_loads_there(folder, name, targets, options):
    model, batch, output = trained_adapter(folder, name, targets, options)
    base = base_model(model)
    plain = peer_logits(base, batch)
    theirs = peer_logits(load_adapter(base, output), batch)
    require_effect(theirs, plain, batch["attention_mask"])
    ours = our_logits(folder, model, folder / "batch.safetensors", "--adapter", output)
    compare_logits(ours, theirs, batch["attention_mask"])


for label, (source, targets, options) in VARIANTS.items():
    check(f"peft-loads-ours/{label}", source, targets, options)(trained_here_loads_there)


@check("peft-loads-ours/config")
def config_is_plain(folder):
    """Every key is a field of PEFT's configuration, and means there what it meant on our command line."""
    from peft import LoraConfig, PeftConfig

    _, _, output = trained_adapter(
        folder, "llama-tiny", "all-linear", ("--use-rslora", "--lora-dropout", 0.1)
    )
    with no_warnings():
        config = PeftConfig.from_pretrained(output)
    unknown = set(read_json(output / "adapter_config.json")) - set(LoraConfig.__dataclass_fields__)
    require(not unknown, f"PEFT has no field {', '.join(sorted(unknown))}")
    want = dict(
        r=4,
        lora_alpha=8,
        lora_dropout=0.1,
        use_rslora=True,
        bias="none",
        task_type="CAUSAL_LM",
        target_modules={"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
    )
    for key, value in want.items():
        got = getattr(config, key)
        got = set(got) if key == "target_modules" else got
        require(got == value, f"{key} is {got}, it should be {value}")


@check("peft-loads-ours/initial-values", "llama-tiny")
@check("peft-loads-ours/initial-values-gpt2", "gpt2-tiny")
def same_start(folder, name):
    """Learning rate 0 leaves the initial adapter: bit for bit PEFT's own after torch.manual_seed."""
    from peft import LoraConfig, get_peft_model

    model = fixture(name)
    write_batch(folder / "batch.safetensors", read_json(model / "config.json")["vocab_size"])
    recipe = {"--max-steps": 1, "--learning-rate": 0, "--seed": 17, "--lora-r": 4, "--lora-alpha": 8}
    train(model, folder / "batch.safetensors", folder / "adapter", *words(recipe))
    base = base_model(model)
    torch.manual_seed(17)
    peer = get_peft_model(
        base,
        LoraConfig(
            r=4,
            lora_alpha=8,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
            fan_in_fan_out=name.startswith("gpt2"),
        ),
    )
    peer.save_pretrained(folder / "peer")
    ours, theirs = (load_file(folder / side / "adapter_model.safetensors") for side in ("adapter", "peer"))
    compare_tensors(ours, theirs, 0, "initial adapter")
    require(any(t.abs().max() > 0 for t in ours.values()), "the adapter is zero")
