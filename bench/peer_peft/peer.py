"""One fine-tuning run of PEFT on a CPU: the same job as `lora-train`, measured the same way.

Recipe: LoRA on all linear layers but the head, alpha = 2 * rank, no dropout, AdamW (weight decay 0), constant
learning rate, gradients clipped to norm 1, loss the mean over the targets.  QLoRA: bitsandbytes NF4 with
double quantization, bnb_4bit_compute_dtype = --dtype.  Memory: the highest sum of RssAnon and RssShmem, as
lora-train counts it, sampled by a process of its own.
"""

import argparse
import json
import os
import signal
import sys
import time


def memory_bytes(pid):
    """RssAnon + RssShmem of a process."""
    total = 0
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith(("RssAnon:", "RssShmem:")):
                total += int(line.split()[1]) * 1024
    return total


class MemorySampler:
    """A process forked before the imports: small, and the interpreter's lock cannot starve it."""

    INTERVAL = 0.01

    def __init__(self):
        self.reader, writer = os.pipe()
        watched = os.getpid()
        self.child = os.fork()
        if self.child:
            os.close(writer)
            return
        os.close(self.reader)
        stopped = []
        signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        peak = 0
        while not stopped and os.getppid() == watched:
            peak = max(peak, memory_bytes(watched))
            time.sleep(self.INTERVAL)
        os.write(writer, str(max(peak, memory_bytes(watched))).encode())
        os._exit(0)

    def stop(self):
        os.kill(self.child, signal.SIGTERM)
        with os.fdopen(self.reader) as pipe:
            peak = int(pipe.read())
        os.waitpid(self.child, 0)
        return peak


def read_options():
    parser = argparse.ArgumentParser(prog="run.sh", description="Fine-tune with PEFT and measure.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--mode", choices=("lora", "qlora"), default="lora")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--seq", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument(
        "--checkpointing", action="store_true", help="recompute activations in the backward pass"
    )
    parser.add_argument(
        "--dynamic-padding", action="store_true", help="pad to the longest row of the batch, not of the file"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--pretokenized", help="safetensors with input_ids, labels and maybe attention_mask, [rows, length]"
    )
    source.add_argument("--synthetic", action="store_true", help="random ids (the default)")
    options = parser.parse_args()
    if options.steps < 2:
        parser.error("--steps must be at least 2: the first one is warm-up")
    return options


def load_model(options):
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    dtype = getattr(torch, options.dtype)
    quantization = None
    if options.mode == "qlora":
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    model = AutoModelForCausalLM.from_pretrained(
        options.model,
        dtype=dtype,
        quantization_config=quantization,
        attn_implementation="sdpa",
        device_map="cpu",
    )
    model.config.use_cache = False
    if options.mode == "qlora":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if options.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    torch.manual_seed(options.seed)  # lora-train draws the same adapters from the same seed
    return get_peft_model(
        model,
        LoraConfig(
            r=options.rank,
            lora_alpha=2 * options.rank,
            target_modules="all-linear",
            lora_dropout=0.0,
            task_type="CAUSAL_LM",
        ),
    )


def load_batches(options, vocab):
    """(input_ids, labels, mask) of every step; rows of the file in order, at its end from the start again."""
    import torch
    from safetensors.torch import load_file

    if options.pretokenized:
        tensors = load_file(options.pretokenized)
        ids, labels = tensors["input_ids"].long(), tensors["labels"].long()
        mask = tensors["attention_mask"].long() if "attention_mask" in tensors else torch.ones_like(ids)
        if ids.shape[0] < options.batch:
            sys.exit(
                f"peer_peft: {options.pretokenized} has {ids.shape[0]} rows, a batch needs {options.batch}"
            )
    else:
        draw = torch.Generator().manual_seed(1)
        ids = torch.randint(3, vocab, (options.steps * options.batch, options.seq), generator=draw)
        labels, mask = ids, torch.ones_like(ids)
    full = ids.shape[0] // options.batch * options.batch
    for step in range(options.steps):
        rows = slice(step * options.batch % full, step * options.batch % full + options.batch)
        length = ids.shape[1]
        if options.dynamic_padding:
            length = int(mask[rows].sum(dim=1).max())
        yield ids[rows, :length], labels[rows, :length], mask[rows, :length]


def train(model, options):
    """Loss, seconds and real tokens of every step."""
    import torch

    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=0.0)
    model.train()
    steps = []
    for ids, labels, mask in load_batches(options, model.config.vocab_size):
        began = time.perf_counter()
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - began
        steps.append({"loss": loss.item(), "seconds": seconds, "tokens": int(mask.sum())})
    return steps


def main():
    options = read_options()
    sampler = MemorySampler()
    import bitsandbytes
    import peft
    import torch
    import transformers

    transformers.logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    imported = memory_bytes("self")
    model = load_model(options)
    loaded = memory_bytes("self")
    steps = train(model, options)
    seconds = sum(step["seconds"] for step in steps[1:])
    print(
        json.dumps(
            {
                "tokens_per_second": sum(step["tokens"] for step in steps[1:]) / seconds,
                "examples_per_second": options.batch * (len(steps) - 1) / seconds,
                "peak_memory_bytes": sampler.stop(),
                "memory_after_import_bytes": imported,
                "memory_after_load_bytes": loaded,
                "loss": [step["loss"] for step in steps],
                "seconds": [step["seconds"] for step in steps],
                "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
                "tokens": [step["tokens"] for step in steps],
                "options": vars(options),
                "versions": {m.__name__: m.__version__ for m in (torch, transformers, peft, bitsandbytes)},
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
