"""Folders that lora-convert quantized, loaded by transformers and bitsandbytes."""

import torch
from safetensors.torch import load_file

import check_qlora
from support import (
    LIMIT,
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


def compare_int8(ours, model, batch):
    """Logits of a bitsandbytes int8 model.

    Its CPU code multiplies by 6.200124e-05 where 1/127^2 is 6.2000124e-05, and an activation that lies between two
    codes goes to another one then, which the following layers spread.  With a threshold it
    also takes a column out of the integer product for all rows when one row has an outlier there.  So without a
    threshold most first tokens, which see themselves only, must agree to rounding, and nothing may be further apart
    than the two ways in which the peer itself multiplies.
    """
    theirs = peer_logits(model, batch)
    model.train()
    with torch.no_grad():
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
        decoded = model(**inputs, use_cache=False).logits.float()
    apart = (ours - theirs).abs().amax(-1)
    agreeing = (apart[:, 0] <= LIMIT).float().mean().item()
    if model.config.quantization_config.llm_int8_threshold == 0:
        require(agreeing >= 0.6, f"only {agreeing:.0%} of the first tokens agree")
    noise = (theirs - decoded)[batch["attention_mask"] == 1].abs().max().item()
    worst = apart[batch["attention_mask"] == 1].max().item()
    require(worst <= 1.5 * noise, f"logits differ by {worst:.3g}, int8 changes them by {noise:.3g}")
    require(noise > 20 * LIMIT, "int8 changes nothing")


@check("convert/int8", "even", 6.0)
@check("convert/int8-no-threshold", "even", 0.0)
@check("convert/int8-llama-tiny", "llama-tiny", 0.0)
def converted_int8(folder, name, threshold):
    """Our int8 folder in transformers."""
    from bitsandbytes.nn import Linear8bitLt

    batch = write_batch(folder / "batch.safetensors", 320, rows=20, length=8)
    source = model_folder(folder, name)
    options = ("--quantize", "int8", "--llm-int8-threshold", threshold)
    program("lora-convert", "--model", source, "--output-dir", folder / "out", *options)
    model = base_model(folder / "out", device_map="cpu")
    layers = [layer for layer in model.modules() if isinstance(layer, Linear8bitLt)]
    require(layers, "nothing is quantized")
    compare_int8(our_logits(folder, folder / "out", folder / "batch.safetensors"), model, batch)


@check("convert/their-int8", "even")
@check("convert/their-int8-llama-tiny", "llama-tiny")
def their_int8(folder, name):
    """A folder that transformers and bitsandbytes quantized to 8 bits and saved: its bytes are those that we make."""
    from transformers import BitsAndBytesConfig

    batch = write_batch(folder / "batch.safetensors", 320, rows=20, length=8)
    source = model_folder(folder, name)
    settings = BitsAndBytesConfig(load_in_8bit=True)
    model = base_model(source, quantization_config=settings, device_map="cpu")
    model.save_pretrained(folder / "model")
    program("lora-convert", "--model", source, "--quantize", "int8", "--output-dir", folder / "out")
    theirs = load_file(folder / "model" / "model.safetensors")
    ours = load_file(folder / "out" / "model.safetensors")
    require(set(theirs) == set(ours), f"other tensors: {sorted(set(theirs) ^ set(ours))[:3]}")
    for key, tensor in theirs.items():
        require(tensor.shape == ours[key].shape and torch.equal(tensor, ours[key]), f"{key} differs")
    compare_int8(our_logits(folder, folder / "model", folder / "batch.safetensors"), model, batch)
