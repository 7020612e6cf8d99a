#!/usr/bin/env python3
"""Records what PEFT does on tiny models, for tests/unit/test_lora_config.c, test_params.c and
test_adapter.c.

    python3 tests/golden/peft_init.py       (torch, transformers and peft; made with peft 0.21.2, torch 2.13)

Writes tests/golden/data/peft-init/:
    cases.json            models (parameters in order of definition), target rules with the modules that PEFT matches,
                          and initialisation cases with rank and scaling of every module
    <case>/adapter_*      the adapter right after torch.manual_seed(42); get_peft_model(), by save_pretrained()
"""
import json
import pathlib
import shutil

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import check_target_module_exists
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

OUT = pathlib.Path(__file__).parent / "data" / "peft-init"
SEED = 42


def llama(hidden, mlp, layers, heads, kv_heads, vocab, bias=False):
    return LlamaForCausalLM(LlamaConfig(
        hidden_size=hidden, intermediate_size=mlp, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, vocab_size=vocab, attention_bias=bias, max_position_embeddings=32,
        tie_word_embeddings=False))


def gpt2(embd, layers, heads, vocab, positions):
    return GPT2LMHeadModel(GPT2Config(n_embd=embd, n_layer=layers, n_head=heads, vocab_size=vocab,
                                      n_positions=positions))


MODELS = {
    "llama": lambda: llama(16, 24, 2, 2, 1, 32),
    "llama-bias": lambda: llama(16, 24, 2, 2, 1, 32, bias=True),
    "llama-small": lambda: llama(8, 11, 1, 2, 2, 16),
    "gpt2": lambda: gpt2(16, 2, 2, 32, 16),
    "llama-tiny": lambda: llama(64, 176, 3, 4, 2, 320),
    "gpt2-tiny": lambda: gpt2(48, 2, 4, 320, 64),
}

CASES = {
    "true": ("llama", dict(r=4, lora_alpha=8, target_modules="all-linear")),
    "false": ("llama", dict(r=3, lora_alpha=8, target_modules="all-linear", init_lora_weights=False)),
    "gaussian": ("llama", dict(r=3, lora_alpha=8, target_modules="all-linear", init_lora_weights="gaussian")),
    "gaussian-small": ("llama-small", dict(r=1, target_modules="all-linear", init_lora_weights="gaussian")),
    "patterns": ("llama-bias", dict(
        r=4, lora_alpha=6.5, lora_dropout=0.05, bias="lora_only", use_rslora=True,
        target_modules=["q_proj", "v_proj", "mlp.down_proj", "up_proj"], exclude_modules=["layers.1.mlp.up_proj"],
        rank_pattern={"q_proj": 2, "layers.1.self_attn.v_proj": 5, "[a-d]own_proj|zzz": 3},
        alpha_pattern={"model.layers.0.self_attn.v_proj": 1, ".*up_proj": 0.3})),
    "layers": ("llama", dict(r=2, target_modules=["k_proj", "o_proj"], layers_to_transform=[1],
                             layers_pattern="layers")),
    "conv1d": ("gpt2", dict(r=4, bias="all", fan_in_fan_out=True, target_modules=["c_attn", "mlp.c_proj"])),
}

# model, fields of LoraConfig
RULES = [
    ("llama", dict(target_modules=["q_proj", "v_proj"])),
    ("llama", dict(target_modules=["proj"])),
    ("llama", dict(target_modules=["self_attn.q_proj", "model.layers.1.mlp.up_proj"])),
    ("llama", dict(target_modules=["model.layers.0.mlp.up_proj", "q_proj"], layers_to_transform=1)),
    ("llama", dict(target_modules=["q_proj", "lm_head"], layers_to_transform=[0, 7])),
    ("llama", dict(target_modules=["q_proj"], layers_to_transform=[1], layers_pattern=["h", "layers"])),
    ("llama", dict(target_modules=["q_proj"], layers_to_transform=[1], layers_pattern="h")),
    ("llama", dict(target_modules=["q_proj"], layers_to_transform=[1], layers_pattern="x|layers")),
    ("llama", dict(target_modules=["q_proj"], layers_to_transform=[1], layers_pattern="model.layers")),
    ("llama", dict(target_modules=["q_proj", "up_proj"], exclude_modules=["layers.1.self_attn.q_proj"])),
    ("llama", dict(target_modules=["q_proj", "up_proj"], exclude_modules=r".*\.0\..*")),
    ("llama", dict(target_modules=["q_proj", "up_proj"], exclude_modules=r"layers")),
    ("llama", dict(target_modules=r".*\.(q|v)_proj")),
    ("llama", dict(target_modules=r"(q|v)_proj")),
    ("llama", dict(target_modules=r"model\.layers\.\d+\.mlp\.\w+")),
    ("llama", dict(target_modules=r"(?P<a>model)\.layers\.[^1]\.(self_attn|self_attn\.k_proj)")),
    ("llama", dict(target_modules=r".*?(?<!self_attn)\.[qkvogud].*_proj\Z")),
    ("llama", dict(target_modules=r"model.{,10}mlp.up_proj")),
    ("llama", dict(target_modules=r"(?i)MODEL.LAYERS.1.MLP.UP_PROJ")),
    ("llama", dict(target_modules=r"lm_head|model\.norm")),
    ("gpt2", dict(target_modules=["c_proj"])),
    ("gpt2", dict(target_modules=["mlp.c_proj", "c_attn"])),
    ("gpt2", dict(target_modules=["c_attn"], layers_to_transform=[1], layers_pattern="h")),
    ("gpt2", dict(target_modules=["c_attn"], layers_to_transform=[1])),
    ("gpt2", dict(target_modules=r"transformer\.h\.[0-9]\.(attn|mlp)\.c_proj")),
]


def parameters(model):
    first, rows = {}, []
    for name, p in model.named_parameters(remove_duplicate=False):
        module = model.get_submodule(name.rpartition(".")[0])
        rows.append([name, list(p.shape), isinstance(module, Conv1D), first.setdefault(id(p), name) != name])
    return rows


def with_parameters(model):
    return [n for n, m in model.named_modules() if next(m.parameters(recurse=False), None) is not None]


def record_case(name, model_name, fields):
    model = MODELS[model_name]()
    torch.manual_seed(SEED)
    peft = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **fields))
    modules = {}
    for key, m in peft.base_model.model.named_modules():
        if hasattr(m, "lora_A"):
            modules[key] = [m.r["default"], m.scaling["default"]]
    peft.save_pretrained(str(OUT / name))
    (OUT / name / "README.md").unlink()
    # PEFT holds target_modules in a set, whose order changes from run to run.
    path = OUT / name / "adapter_config.json"
    config = json.loads(path.read_text())
    for key in "target_modules", "exclude_modules":
        if isinstance(config[key], list):
            config[key].sort()
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return {"name": name, "model": model_name, "modules": modules}


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    models = {name: make() for name, make in MODELS.items()}
    rules = []
    for model, fields in RULES:
        config = LoraConfig(**fields)
        names = with_parameters(models[model])
        rules.append({"model": model, "config": fields,
                      "matches": [n for n in names if check_target_module_exists(config, n) is True or
                                  type(check_target_module_exists(config, n)).__name__ == "Match"]})
    cases = [record_case(name, *case) for name, case in CASES.items()]
    (OUT / "cases.json").write_text(json.dumps(
        {"seed": SEED, "models": {n: parameters(m) for n, m in models.items()}, "rules": rules, "cases": cases},
        separators=(",", ":")) + "\n")


main()
