"""What the interoperability checks share: fixtures, our programs, models, comparisons, one line a check."""

import contextlib
import json
import logging
import os
import pathlib
import subprocess
import sys
import tempfile
import traceback
import warnings

import torch
from safetensors.torch import load_file, save_file

SOURCE = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ["LT_BUILD"])
IGNORE = -100
LIMIT = 1e-4  # on logits, f32: docs/numerics.md
ARCHITECTURES = ("llama31", "smollm2")  # of the recorded ones in archs/, those that models/ reads


class Failure(Exception):
    """A check that did not hold."""


class Skip(Exception):
    """A check that cannot be made here."""


# ---- checks ----

CHECKS = []


def check(name, *arguments):
    """Registers function(folder, *arguments) as a check; `folder` is a scratch folder of its own."""

    def register(function):
        CHECKS.append((name, function, arguments))
        return function

    return register


def run_checks(words):
    """Runs those whose name contains one of the words; True when none failed."""
    good = True
    for name, function, arguments in CHECKS:
        if words and not any(word in name for word in words):
            continue
        with tempfile.TemporaryDirectory(prefix="lora-interop.") as folder:
            try:
                function(pathlib.Path(folder), *arguments)
                line = f"ok {name}"
            except Skip as why:
                line = f"skip {name} {why}"
            except Failure as why:
                line, good = f"not ok {name} {why}", False
            except Exception as why:  # one check's trouble must not hide the others
                traceback.print_exc()
                line, good = f"not ok {name} {type(why).__name__}: {' '.join(str(why).split())}", False
        print(line, flush=True)
    return good


def require(condition, why):
    if not condition:
        raise Failure(why)


# ---- fixtures and data ----


def fixture(relative):
    """A folder or file of the recorded data."""
    shared = pathlib.Path(os.environ.get("LT_SHARED") or SOURCE.parent / "shared")
    for path in (SOURCE / "tests/golden/data" / relative, shared / "goldens" / relative):
        if path.exists():
            return path
    raise Skip(f"{relative} not found")


def random_llama(folder, **settings):
    """A LLaMA checkpoint of our own, for what the recorded ones do not have."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(2)
    model = LlamaForCausalLM(
        LlamaConfig(
            **{
                "hidden_size": 64,
                "intermediate_size": 192,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "vocab_size": 320,
                "initializer_range": 0.15,
                "max_position_embeddings": 256,
                **settings,
            }
        )
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
    model.save_pretrained(folder)
    return folder


def model_folder(scratch, name):
    """A recorded model, or one of ours."""
    if name == "even":  # rows of whole quantization blocks
        return random_llama(scratch / name)
    if name == "biased":  # biases in every linear layer
        return random_llama(scratch / name, attention_bias=True, mlp_bias=True)
    return fixture(name)


def read_json(path):
    return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))


def write_batch(path, vocab, rows=4, length=24, seed=7, first_labels=True):
    """A pre-tokenized file of random ids; the last row is shorter, the first ids of odd rows no targets.

    first_labels: the other rows' first ids are labels, though nothing predicts them.
    """
    draw = torch.Generator().manual_seed(seed)
    batch = {
        "input_ids": torch.randint(3, vocab, (rows, length), generator=draw),
        "attention_mask": torch.ones(rows, length, dtype=torch.int64),
    }
    batch["attention_mask"][-1, length * 2 // 3 :] = 0
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORE)
    batch["labels"][1::2, :5] = IGNORE
    if not first_labels:
        batch["labels"][:, 0] = IGNORE
    batch["input_ids"].masked_fill_(batch["attention_mask"] == 0, 0)
    save_file(batch, path)
    return batch


# ---- our programs ----


def program(name, *arguments):
    """Runs one of our programs."""
    command = [str(BUILD / name), *map(str, arguments)]
    if not pathlib.Path(command[0]).exists():
        raise Failure(f"{command[0]} is not built")
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise Failure(f"{name} ended with {done.returncode}: {' '.join(done.stderr.split())[-400:]}")


# One thread, every step logged, only the result saved.
RUN = {"--threads": 1, "--compute-dtype": "float32", "--logging-steps": 1, "--save-strategy": "no"}


def words(options):
    """{"--name": value} as command-line words."""
    return [word for pair in options.items() for word in pair]


def train(model, batch_file, output, *options):
    """lora-train, the rows of the file in order, without warm-up."""
    common = {"--model": model, "--pretokenized": batch_file, "--output-dir": output, **RUN}
    schedule = {"--lr-scheduler-type": "linear", "--warmup-ratio": 0}
    program("lora-train", *words(common | schedule), *options)


def our_logits(folder, model, batch_file, *options):
    """Logits [rows, length, vocab] of lora-eval."""
    path = folder / "logits.safetensors"
    common = {"--model": model, "--pretokenized": batch_file, "--dump-logits": path, "--threads": 1}
    program("lora-eval", *words(common), *options)
    return load_file(path)["logits"].float()


# ---- the peers ----


def base_model(path, dtype=torch.float32, **options):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        path, dtype=dtype, attn_implementation="eager", **options
    ).eval()


def peer_logits(model, batch):
    model.eval()
    with torch.no_grad():
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
        return model(**inputs, use_cache=False).logits.float()


def randomize(model, seed=11):
    """Gives every trainable parameter that starts at zero (B, biases) values, so that it has an effect."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            noise = torch.randn(parameter.shape, generator=draw) * 0.05
            parameter.add_(noise.to(parameter.dtype))


@contextlib.contextmanager
def no_warnings():
    """Fails when the peer warns, through the warnings module or its loggers."""
    import transformers

    records = []
    verbosity = transformers.logging.get_verbosity()

    class Collector(logging.Handler):
        def emit(self, record):
            records.append(record.getMessage())

    collector = Collector(logging.WARNING)
    loggers = [logging.getLogger(name) for name in ("peft", "transformers", "accelerate", "safetensors")]
    for logger in loggers:
        logger.addHandler(collector)
    transformers.logging.set_verbosity_warning()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        for logger in loggers:
            logger.removeHandler(collector)
    # Deprecations are between the peer's own parts.
    records += [
        str(w.message) for w in caught if not issubclass(w.category, (FutureWarning, DeprecationWarning))
    ]
    require(not records, f"the peer warns: {records[0] if records else ''}")


# ---- comparing ----


def compare_logits(ours, theirs, mask, limit=LIMIT):
    """Where the mask is 1."""
    require(ours.shape == theirs.shape, f"logits are {list(ours.shape)}, the peer's {list(theirs.shape)}")
    difference = (ours - theirs)[mask == 1].abs().max().item()
    require(difference <= limit, f"logits differ by {difference:.3g}, the limit is {limit:g}")


def compare_tensors(ours, theirs, limit, what):
    """Dictionaries of tensors; the limit is relative to the largest entry of each."""
    missing = sorted(set(ours) ^ set(theirs))
    require(not missing, f"{what}: only one side has {', '.join(missing[:3])}")
    for name, want in theirs.items():
        got = ours[name]
        require(got.shape == want.shape, f"{what} {name}: {list(got.shape)}, the peer has {list(want.shape)}")
        difference = (got - want).abs().max().item()
        scale = max(want.abs().max().item(), 1e-6)
        require(difference <= limit * scale, f"{what} {name}: differs by {difference:.3g} of {scale:.3g}")


def require_effect(changed, plain, mask, limit=LIMIT):
    """The comparison means nothing when the adapter changes nothing."""
    effect = (changed - plain)[mask == 1].abs().max().item()
    require(effect > 20 * limit, f"the trained parameters move logits by {effect:.3g} only")
