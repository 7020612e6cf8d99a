"""Text in and out: rows of JSONL in the Trainer's order, greedy answers and their BLEU."""

import json
import shutil

import torch

from check_training import LORA, RECIPE, compare_states, peer_arguments, recipe_words
from support import (
    IGNORE,
    RUN,
    words,
    base_model,
    check,
    compare_logits,
    fixture,
    our_logits,
    peer_logits,
    program,
    random_llama,
    read_json,
    require,
    write_batch,
)

WORDS = (
    "the a our night miller grain wheel turned slowly while water fell and never said why it stopped".split()
)


def sentences(count, seed):
    """Rows of 3 to 14 words."""
    draw = torch.Generator().manual_seed(seed)
    for _ in range(count):
        length = int(torch.randint(3, 15, (1,), generator=draw))
        yield " ".join(WORDS[i] for i in torch.randint(len(WORDS), (length,), generator=draw))


def model_with_tokenizer(folder):
    """A random LLaMA with a recorded SentencePiece-style tokenizer; (folder, that tokenizer)."""
    from tokenizers import Tokenizer

    source = fixture("tokenizers/legacy") / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(source))
    path = random_llama(
        folder / "model",
        vocab_size=tokenizer.get_vocab_size(),
        bos_token_id=tokenizer.token_to_id("<s>"),
        eos_token_id=tokenizer.token_to_id("</s>"),
    )
    shutil.copy(source, path)
    (path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    return path, tokenizer


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def example(tokenizer, prompt, completion):
    """TRL's rule: labels begin behind the common prefix of the prompt's ids and all ids."""
    ids, start = tokenizer.encode(prompt + completion + "</s>").ids, 0
    for mine, other in zip(ids, tokenizer.encode(prompt).ids):
        if mine != other:
            break
        start += 1
    return {"input_ids": ids, "labels": [IGNORE] * start + ids[start:]}


def collate(examples):
    """Right padding to the longest row."""
    length = max(len(e["input_ids"]) for e in examples)

    def padded(values, filler):
        return torch.tensor([list(v) + [filler] * (length - len(v)) for v in values])

    return {
        "input_ids": padded([e["input_ids"] for e in examples], 0),
        "labels": padded([e["labels"] for e in examples], IGNORE),
        "attention_mask": padded([[1] * len(e["input_ids"]) for e in examples], 0),
    }


@check("trainer/llama-jsonl")
def jsonl(folder):
    """Tokenization, labels, the shuffled order of two epochs, padding: the Trainer on the same rows."""
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer

    path, tokenizer = model_with_tokenizer(folder)
    rows = [
        {"prompt": prompt + " ", "completion": completion}
        for prompt, completion in zip(sentences(11, 1), sentences(11, 2))
    ]
    write_rows(folder / "rows.jsonl", rows)
    torch.manual_seed(RECIPE["seed"])
    model = get_peft_model(
        base_model(path), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    examples = [example(tokenizer, **row) for row in rows]
    arguments = peer_arguments(folder / "peer", "cosine")
    trainer = Trainer(model=model, args=arguments, data_collator=collate, train_dataset=examples)
    trainer.train()
    trainer.save_state()
    options = {"--model": path, "--data": folder / "rows.jsonl", "--output-dir": folder / "ours"}
    program("lora-train", *words(options | RUN | LORA | {"--lr-scheduler-type": "cosine"}), *recipe_words())
    compare_states(
        read_json(folder / "ours/trainer_state.json"), read_json(folder / "peer/trainer_state.json")
    )
    batch = write_batch(folder / "batch.safetensors", model.config.vocab_size)
    ours = our_logits(folder, path, folder / "batch.safetensors", "--adapter", folder / "ours")
    compare_logits(ours, peer_logits(model, batch), batch["attention_mask"], 1e-3)


@check("text/answers-and-bleu")
def answers(folder):
    """Greedy answers of lora-eval by their BLEU counts: transformers' answers, sacreBLEU's counts."""
    import sacrebleu

    path, tokenizer = model_with_tokenizer(folder)
    model = base_model(path)
    hypotheses, references, rows = [], [], []
    for number, prompt in enumerate(sentences(6, 3)):
        ids = tokenizer.encode(prompt).ids
        output = model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
            do_sample=False,
            max_new_tokens=24,
            pad_token_id=0,
        )
        answer = tokenizer.decode(output[0, len(ids) :].tolist(), skip_special_tokens=True)
        # Some words of every answer become others, so that each order has matches and misses.
        spelled = answer.split()
        spelled[number % 3 :: 5] = [f"no. {number},"] * len(spelled[number % 3 :: 5])
        hypotheses.append(answer)
        references.append(" ".join(spelled) + "!")
        rows.append({"prompt": prompt, "completion": references[-1]})
    write_rows(folder / "rows.jsonl", rows)
    options = {"--model": path, "--data": folder / "rows.jsonl", "--json": folder / "result.json"}
    program("lora-eval", *words(options | {"--max-new-tokens": 24, "--threads": 1}))
    ours = read_json(folder / "result.json")["results"]["base"]["bleu"]
    theirs = sacrebleu.corpus_bleu(hypotheses, [references])
    require(min(theirs.counts) > 0, f"the answers match too little: {theirs.counts}")
    for mine, other in (
        ("correct", theirs.counts),
        ("total", theirs.totals),
        ("system_length", theirs.sys_len),
        ("reference_length", theirs.ref_len),
    ):
        require(ours[mine] == other, f"{mine} is {ours[mine]}, sacreBLEU has {other}")
    require(
        abs(ours["score"] - theirs.score) < 1e-9,
        f"the score is {ours['score']}, sacreBLEU has {theirs.score}",
    )
