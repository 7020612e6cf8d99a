"""Four-bit bases beside PEFT and bitsandbytes on a CPU.

On CPUs with AVX-512, bitsandbytes 0.50.2 decodes matrices wrongly whose rows are not a multiple of 64
elements long (it takes a row's first block to start with the row; its quantization and its GPU code do
not).  So its own arithmetic is compared on a model of whole blocks, and for llama-tiny, whose MLP is 176
wide, the bytes that it stored are decoded here by the formula of the format.

Its CPU library also takes a neighbour of the nearest code for some block scales, where its GPU code takes
the nearest (tests/golden/data/README.md, qlora).  lora-train follows the GPU, so the peer's scales are
rounded again.
"""

import torch
from safetensors.torch import load_file

from support import (
    base_model,
    check,
    compare_logits,
    compare_tensors,
    model_folder,
    our_logits,
    peer_logits,
    program,
    randomize,
    require,
    require_effect,
    words,
    write_batch,
)


def decoded(layer):
    """The plain linear layer that a Linear4bit stands for."""
    state = layer.weight.quant_state
    packed = layer.weight.data.flatten()
    codes = torch.stack([packed >> 4, packed & 15], 1).flatten()[: state.shape.numel()].long()
    scales = state.absmax
    if state.nested:
        nested = state.state2
        outer = nested.absmax.repeat_interleave(nested.blocksize)[: scales.numel()]
        scales = nested.code[scales.flatten().long()] * outer + state.offset
    weight = state.code[codes] * scales.repeat_interleave(state.blocksize)[: codes.numel()]
    plain = torch.nn.Linear(layer.in_features, layer.out_features, bias=False)
    plain.weight = torch.nn.Parameter(weight.view(state.shape), requires_grad=False)
    return plain


def quantized(path, kind, double):
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind,
        bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=torch.float32,
    )
    return base_model(path, quantization_config=config, device_map="cpu")


def round_scales_again(model, plain, kind):
    """Double quantization: gives every block scale its nearest code; `plain`: the model before it."""
    from bitsandbytes.functional import quantize_4bit
    from bitsandbytes.nn import Linear4bit

    for name, layer in model.named_modules():
        if not isinstance(layer, Linear4bit):
            continue
        state, weight = layer.weight.quant_state, plain.get_submodule(name).weight.detach()
        _, single = quantize_4bit(
            weight, blocksize=state.blocksize, quant_type=kind, compress_statistics=False
        )
        outer = state.state2.absmax.repeat_interleave(state.state2.blocksize)[: single.absmax.numel()]
        wanted = (single.absmax - state.offset) / outer
        codes = (state.state2.code[None] - wanted[:, None]).abs().argmin(1)
        apart = (codes - state.absmax.flatten().long()).abs().max().item()
        require(apart <= 1, f"{name}: bitsandbytes' codes of the scales are {apart} from the nearest")
        state.absmax.copy_(codes.to(torch.uint8).view_as(state.absmax))


def runnable(model):
    """The model as it is where bitsandbytes decodes its rows rightly, else with decoded weights."""
    from bitsandbytes.nn import Linear4bit

    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, Linear4bit)]
    require(layers, "nothing was quantized")
    if all(layer.in_features % 64 == 0 for _, layer in layers):
        return model
    # Rebuilt without quantization, so that PEFT treats it as any other model.
    plain = type(model)(model.config).eval()
    names = dict(plain.named_parameters())
    kept = {name: t for name, t in model.state_dict().items() if name in names and t.is_floating_point()}
    plain.load_state_dict(kept, strict=False)
    for name, layer in layers:
        plain.set_submodule(name, decoded(layer))
    return plain


def with_adapter(folder, model):
    """PEFT's adapter with effect on all linears, saved in folder/adapter."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(5)
    model = get_peft_model(
        model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    randomize(model)
    model.save_pretrained(folder / "adapter")
    return model


def training_step(model, batch):
    """Logits, loss and gradients under the names of the adapter file.

    In training mode (there is no dropout): for inference bitsandbytes computes in bf16 on CPUs that have it.
    """
    model.train()
    output = model(**batch, use_cache=False)
    output.loss.backward()
    return (
        output.logits.detach(),
        output.loss.item(),
        {name.replace(".default", ""): p.grad for name, p in model.named_parameters() if p.requires_grad},
    )


@check("qlora/nf4", "even", "nf4", False)
@check("qlora/fp4", "even", "fp4", False)
@check("qlora/nf4-double", "even", "nf4", True)
@check("qlora/llama-tiny-nf4", "llama-tiny", "nf4", False)
@check("qlora/llama-tiny-nf4-double", "llama-tiny", "nf4", True)
def dumped_step(folder, name, kind, double):
    """One step's logits, loss and gradients of lora-train, quantizing for itself."""
    path = model_folder(folder, name)
    batch = write_batch(folder / "batch.safetensors", 320)
    base = base_model(path)
    plain = peer_logits(base, batch)
    model = quantized(path, kind, double)
    if double:
        round_scales_again(model, base, kind)
    model = with_adapter(folder, runnable(model))
    theirs, loss, grads = training_step(model, batch)
    require_effect(theirs, plain, batch["attention_mask"])
    options = {
        "--model": path,
        "--pretokenized": folder / "batch.safetensors",
        "--output-dir": folder / "out",
        "--per-device-train-batch-size": len(batch["input_ids"]),
        "--init-adapter": folder / "adapter",
        "--load-in-4bit": "true",
        "--bnb-4bit-quant-type": kind,
        "--bnb-4bit-use-double-quant": str(double).lower(),
        "--compute-dtype": "float32",
        "--threads": 1,
        "--dump-step": folder / "step.safetensors",
    }
    program("lora-train", *words(options))
    step = load_file(folder / "step.safetensors")
    compare_logits(step.pop("logits"), theirs, batch["attention_mask"])
    difference = abs(step.pop("loss").item() - loss)
    require(difference <= 1e-5, f"the loss differs by {difference:.3g}")
    compare_tensors(step, grads, 1e-4, "gradient")


@check("qlora/bnb-checkpoint-nf4", "even", "nf4", False)
@check("qlora/bnb-checkpoint-nf4-double", "even", "nf4", True)
@check("qlora/bnb-checkpoint-fp4", "even", "fp4", False)
@check("qlora/bnb-checkpoint-llama-tiny-nf4-double", "llama-tiny", "nf4", True)
def their_checkpoint(folder, name, kind, double):
    """A checkpoint that transformers and bitsandbytes quantized and saved: the stored bytes decide."""
    batch = write_batch(folder / "batch.safetensors", 320)
    model = quantized(model_folder(folder, name), kind, double)
    model.save_pretrained(folder / "model")
    model = with_adapter(folder, runnable(model))
    ours = our_logits(folder, folder / "model", folder / "batch.safetensors", "--adapter", folder / "adapter")
    theirs, _, _ = training_step(model, batch)
    compare_logits(ours, theirs, batch["attention_mask"])
