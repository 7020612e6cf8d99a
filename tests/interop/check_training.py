"""Whole training runs beside transformers.Trainer, and the files of a run."""

import torch
from safetensors.torch import load_file

from events import read_scalars
from support import (
    base_model,
    check,
    compare_logits,
    fixture,
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

# Ten rows in micro-batches of two and windows of two: the last window of each epoch is short.
RECIPE = dict(
    per_device_train_batch_size=2,
    gradient_accumulation_steps=2,
    num_train_epochs=2,
    learning_rate=1e-3,
    weight_decay=0.1,
    max_grad_norm=1.0,
    seed=9,
    adam_epsilon=1e-6,
    warmup_steps=2,
)
ROWS = 10
LORA = {"--lora-r": 4, "--lora-alpha": 8, "--lora-target-modules": "all-linear"}


def rows_of(batch):
    return [{key: tensor[i] for key, tensor in batch.items()} for i in range(len(batch["input_ids"]))]


def recipe_batch(folder, name, vocab):
    """For GPT-2 the Trainer counts a row's first label as a target, which it is not.

    (It does not recognise the loss of a class of that name as one that shifts.)  Without such labels it takes
    the mean over the targets, as for LLaMA.
    """
    return write_batch(
        folder / "batch.safetensors", vocab, rows=ROWS, first_labels=not name.startswith("gpt2")
    )


def peer_arguments(output, schedule):
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(output),
        lr_scheduler_type=schedule,
        logging_steps=1,
        save_strategy="no",
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **RECIPE,
    )


def train_there(model, batch, output):
    """transformers' Trainer with the recipe, the rows in file order; the trained model."""
    from transformers import Trainer

    class InOrder(Trainer):
        def _get_train_sampler(self, train_dataset=None):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    trainer = InOrder(model=model, args=peer_arguments(output, "linear"), train_dataset=rows_of(batch))
    trainer.train()
    trainer.save_state()
    return model


def recipe_words():
    return words({"--" + key.replace("_", "-"): value for key, value in RECIPE.items()})


def train_here(model, batch_file, output, *options):
    train(model, batch_file, output, *recipe_words(), *options)


def compare_states(ours, theirs):
    """trainer_state.json: the same fields, the same steps, the same numbers."""
    require(set(ours) == set(theirs), f"fields differ: {', '.join(sorted(set(ours) ^ set(theirs)))}")
    for key in ("global_step", "max_steps", "num_train_epochs", "logging_steps", "epoch", "train_batch_size"):
        require(ours[key] == theirs[key], f"{key} is {ours[key]}, the Trainer has {theirs[key]}")
    limits = {
        "loss": 1e-4,
        "grad_norm": 1e-3,
        "learning_rate": 1e-15,
        "epoch": 1e-9,
        "step": 0,
        "train_loss": 1e-4,
    }
    require(len(ours["log_history"]) == len(theirs["log_history"]), "log_history has another length")
    for mine, other in zip(ours["log_history"], theirs["log_history"]):
        missing = set(other) - set(mine)
        require(not missing, f"log_history at step {mine['step']} lacks {', '.join(sorted(missing))}")
        for key in set(other) & set(limits):
            require(
                abs(mine[key] - other[key]) <= limits[key],
                f"step {mine['step']}: {key} is {mine[key]}, the Trainer has {other[key]}",
            )


@check("trainer/llama-full", "llama-tiny")
@check("trainer/gpt2-full", "gpt2-tiny")
def full_finetuning(folder, name):
    """The same run there and here; the output is a checkpoint that transformers loads."""
    path = fixture(name)
    model = base_model(path)
    batch = recipe_batch(folder, name, model.config.vocab_size)
    plain = peer_logits(model, batch)
    trained = peer_logits(train_there(model, batch, folder / "peer"), batch)
    train_here(path, folder / "batch.safetensors", folder / "ours", "--full-finetune")
    compare_states(
        read_json(folder / "ours/trainer_state.json"), read_json(folder / "peer/trainer_state.json")
    )
    with no_warnings():
        loaded = base_model(folder / "ours")
    theirs = peer_logits(loaded, batch)
    require_effect(theirs, plain, batch["attention_mask"])
    ours = our_logits(folder, folder / "ours", folder / "batch.safetensors")
    compare_logits(ours, theirs, batch["attention_mask"])
    # Six steps of Adam multiply the last bits of the gradients: as the recorded curves' final adapters.
    compare_logits(theirs, trained, batch["attention_mask"], 1e-3)


@check("trainer/llama-lora", "llama-tiny")
@check("trainer/gpt2-lora", "gpt2-tiny")
def lora(folder, name):
    """PEFT under the Trainer from the same initial adapter."""
    from peft import LoraConfig, get_peft_model

    path = fixture(name)
    base = base_model(path)
    batch = recipe_batch(folder, name, base.config.vocab_size)
    torch.manual_seed(RECIPE["seed"])
    model = get_peft_model(
        base,
        LoraConfig(
            r=4,
            lora_alpha=8,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
            fan_in_fan_out=name.startswith("gpt2"),
        ),
    )
    trained = peer_logits(train_there(model, batch, folder / "peer"), batch)
    train_here(path, folder / "batch.safetensors", folder / "ours", *words(LORA))
    compare_states(
        read_json(folder / "ours/trainer_state.json"), read_json(folder / "peer/trainer_state.json")
    )
    ours = our_logits(folder, path, folder / "batch.safetensors", "--adapter", folder / "ours")
    compare_logits(ours, trained, batch["attention_mask"], 1e-3)


@check("run-files")
def run_files(folder):
    """trainer_state.json by transformers' own reader; the TensorBoard file holds what the log holds."""
    from transformers import TrainerState

    path = fixture("llama-tiny")
    write_batch(folder / "batch.safetensors", 320, rows=ROWS)
    output = folder / "ours"
    options = {
        "--max-steps": 4,
        "--per-device-train-batch-size": 2,
        "--save-strategy": "steps",
        "--save-steps": 2,
    }
    train(path, folder / "batch.safetensors", output, *words(options))
    for place, step in ((".", 4), ("checkpoint-2", 2), ("checkpoint-4", 4)):
        state = TrainerState.load_from_json(str(output / place / "trainer_state.json"))
        logged = [entry["step"] for entry in state.log_history if "loss" in entry]
        got, want = (state.global_step, state.max_steps, logged), (step, 4, list(range(1, step + 1)))
        require(got == want, f"{place}: global_step, max_steps and logged steps are {got}, not {want}")
    files = list(output.rglob("events.out.tfevents.*"))
    require(len(files) == 1, f"{len(files)} event files")
    scalars = read_scalars(files[0])
    history = [entry for entry in read_json(output / "trainer_state.json")["log_history"] if "loss" in entry]
    for key in ("loss", "learning_rate", "grad_norm"):
        want = [(entry["step"], torch.tensor(entry[key], dtype=torch.float32).item()) for entry in history]
        got = scalars.get("train/" + key)
        require(got == want, f"train/{key} is {got}, logged was {want}")


@check("full-finetuning/bf16")
def narrow_full(folder):
    """A checkpoint stored in bf16 is written back in bf16 and loads with equal logits."""
    path = fixture("archs/smollm2")
    batch = write_batch(folder / "batch.safetensors", read_json(path / "config.json")["vocab_size"])
    options = {"--full-finetune": "true", "--max-steps": 2, "--learning-rate": 1e-2}
    train(path, folder / "batch.safetensors", folder / "ours", *words(options))
    stored = load_file(folder / "ours/model.safetensors")
    require(all(t.dtype == torch.bfloat16 for t in stored.values()), "the output is not in bf16")
    with no_warnings():
        model = base_model(folder / "ours")
    theirs = peer_logits(model, batch)
    require_effect(theirs, peer_logits(base_model(path), batch), batch["attention_mask"])
    ours = our_logits(folder, folder / "ours", folder / "batch.safetensors")
    compare_logits(ours, theirs, batch["attention_mask"])
