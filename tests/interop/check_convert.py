"""Folders that lora-convert quantized, loaded by transformers and bitsandbytes."""

import torch

import check_qlora
from support import (
    base_model,
    check,
    compare_logits,
    model_folder,
    our_logits,
    peer_logits,
    program,
    require,
    require_effect,
    write_batch,
)


@check("convert/nf4", "even", "nf4", False)
@check("convert/nf4-double", "even", "nf4", True)
@check("convert/fp4-double", "even", "fp4", True)
@check("convert/llama-tiny-nf4-double", "llama-tiny", "nf4", True)
def converted_4bit(folder, name, kind, double):
    """Weights in several files; the peer reads the folder without any option."""
    source = model_folder(folder, name)
    batch = write_batch(folder / "batch.safetensors", 320)
    options = ("--bnb-4bit-use-double-quant", str(double).lower(), "--max-shard-size", "150KB")
    program(
        "lora-convert", "--model", source, "--quantize", kind, "--output-dir", folder / "out", *options
    )
    require(len(list((folder / "out").glob("*.safetensors"))) > 1, "all weights are in one file")
    model = base_model(folder / "out", device_map="cpu")
    settings = model.config.quantization_config
    require(settings.bnb_4bit_quant_type == kind, f"quantized as {settings.bnb_4bit_quant_type}")
    # In training mode: for inference bitsandbytes computes in bf16 on CPUs that have it.
    model = check_qlora.runnable(model).train()
    with torch.no_grad():
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
        theirs = model(**inputs, use_cache=False).logits.float()
    compare_logits(our_logits(folder, folder / "out", folder / "batch.safetensors"), theirs, batch["attention_mask"])
    require_effect(theirs, peer_logits(base_model(source), batch), batch["attention_mask"])
