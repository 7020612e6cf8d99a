#!/usr/bin/env python3
"""Writes the tokenizer fixtures of this folder: small tokenizers trained on the text below, the ids and texts
that the Python library gives for them, and chat templates with what Jinja renders.

Needs: tokenizers 0.23, jinja2.  Usage: python3 generate.py   (in this folder)

bytelevel/   NFC, split by the Qwen pattern, byte level; ChatML tokens; lstrip, rstrip, single_word tokens
metaspace/   Metaspace "first", byte fallback, <s> template; merges as pairs
legacy/      the same vocabulary with the Prepend and Replace normalizers and merges as "a b" strings
pair/        vocab.json and merges.txt in GPT-2's layout (of the byte-level vocabulary)
chat.json    templates, conversations and their rendering
"""
import json
import os
import random

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors,
                        trainers)

SENTENCES = [
    "The river runs past the mill, and the miller's cat doesn't mind the water at all.",
    "Once the winter storms had passed, we walked from the harbour to the lighthouse and back.",
    "She'll bring 12 loaves, 345 eggs and 6 7 8 candles; that's $9.99, isn't it?",
    "def mill(water):\n    return [w * 2 for w in water if w > 10]\n",
    "Der Müller mahlt früh, größer als gestern. Où est la rivière? ¿Dónde está el río?",
    "Река течёт мимо мельницы. 河は水車のそばを流れる。 水 水 水",
    "The end of the day is the start of the evening, the evening ends the day.",
]
SPACE = "\u2581"
QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
        r"\s+(?!\S)|\s+")

TEXTS = SENTENCES + [
    "", " ", "  ", "\n", "\n\n", "\t\n ", "a", " a", "a ", "  the  ", "the the", SPACE, SPACE + "the",
    "IT'S, it's, IT'\u017f, we'LL", "e\u0301 \u00e9 \u212b \uac00 \u1100\u1161",
    "\u00a0the\u3000the\u2003\u200bthe\u180ethe",
    "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 \u0915\u094d\u0937 \ufeff",
    "\u00bd \u2167 \u00b2 \u0661\u0662\u0663 1234567", "<s>the</s> <s> the </s>",
    "the<|im_start|>user\nthe<|im_end|>\n", "x <left> y", "x   <left>y", "x <right>   y",
    "a <word> b a<word> <word>b -<word>-", "<word><word>", "<0x41> <0xE2>", "mill<mill>MILL",
    "the\r\nend\r\n\r\n  of", "_a_b a_b __init__", "...!!! ?? -- #tag @x", "\x00\x01\x7f",
    "\u2028\u2029\x85\x0b\x1c", "the " * 12, "ab" * 40, " " * 33 + "x",
]
ADDED = [
    AddedToken("<left>", lstrip=True, normalized=False),
    AddedToken("<right>", rstrip=True, normalized=False),
    AddedToken("<word>", single_word=True, normalized=False),
    AddedToken("mill", single_word=True, normalized=True),
]


def random_texts(n):
    r = random.Random(20240607)
    pool = list("the miller's WATER 0123 \n\t.,;!") + ["é", "ß", "水", "я", "😀",
                                                       "\u0301", " ", " ", SPACE, "<s>", "<left>"]
    return ["".join(r.choice(pool) for _ in range(r.randint(1, 24))) for _ in range(n)]


def record(tok, folder):
    os.makedirs(folder, exist_ok=True)
    cases = []
    for text in TEXTS + random_texts(40):
        ids = tok.encode(text, add_special_tokens=False).ids
        full = tok.encode(text).ids
        case = {"text": text, "ids": ids, "decoded": tok.decode(full, skip_special_tokens=False)}
        skipped = tok.decode(full)
        if full != ids:
            case["special_ids"] = full
        if skipped != case["decoded"]:
            case["skipped"] = skipped
        cases.append(case)
    r = random.Random(7)
    decodes = []
    for _ in range(30):
        ids = [r.randrange(tok.get_vocab_size()) for _ in range(r.randint(0, 9))]
        decodes.append({"ids": ids, "decoded": tok.decode(ids, skip_special_tokens=False),
                        "skipped": tok.decode(ids)})
    write(folder + "/expected.json", {"cases": cases, "decodes": decodes})


def write(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=True, separators=(",", ":"))
        f.write("\n")


def byte_level():
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(SENTENCES, trainers.BpeTrainer(
        vocab_size=340, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False))
    tok.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tok.add_tokens(ADDED)
    return tok


def metaspace():
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, "first", True)
    tok.train_from_iterator(SENTENCES[:4], trainers.BpeTrainer(
        vocab_size=430, special_tokens=["<unk>", "<s>", "</s>"] + ["<0x%02X>" % b for b in range(256)],
        show_progress=False))
    data = json.loads(tok.to_str())
    # In SentencePiece models the byte tokens are no added tokens, and words are not cut from each other.
    data["added_tokens"] = data["added_tokens"][:3]
    data["pre_tokenizer"]["split"] = False
    tok = Tokenizer.from_str(json.dumps(data))
    tok.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(),
                                     decoders.Strip(" ", 1, 0)])
    tok.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tok.token_to_id("<s>"))])
    tok.add_tokens(ADDED)
    return tok


def legacy(data):
    data = json.loads(json.dumps(data))
    data["normalizer"] = {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": SPACE},
        {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]}
    data["pre_tokenizer"] = None
    # A token that is matched after normalization would be spelled "▁mill" by this version's decoder.
    data["added_tokens"] = [t for t in data["added_tokens"] if not t["normalized"]]
    data["model"]["merges"] = [" ".join(m) for m in data["model"]["merges"]]
    return data


def pair(data):
    os.makedirs("pair", exist_ok=True)
    vocab = dict(data["model"]["vocab"])
    vocab["<|endoftext|>"] = len(vocab)
    write("pair/vocab.json", vocab)
    with open("pair/merges.txt", "w", encoding="utf-8") as f:
        f.write("#version: 0.2\n" + "".join("%s %s\n" % tuple(m) for m in data["model"]["merges"]))
    tok = Tokenizer(models.BPE.from_file("pair/vocab.json", "pair/merges.txt"))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([AddedToken("<|endoftext|>", normalized=False)])
    record(tok, "pair")


# ---- chat templates ----

def message(role="message['role']", content="message['content']"):
    return "{{ '<|im_start|>' + " + role + " + '\\n' + " + content + " + '<|im_end|>' + '\\n' }}"


PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
PLAIN = "{% for message in messages %}" + message() + "{% endfor %}" + PROMPT
DEFAULT = ("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
           "{{ '<|im_start|>system\\nAnswer <b>briefly</b>.<|im_end|>\\n' }}{% endif %}"
           + message() + "{% endfor %}" + PROMPT)
ROLES = ('(message.role == "user") or (message.role == "system" and not loop.first) or '
         '(message.role == "assistant" and not message.tool_calls)')
TOOLS = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- else %}
        {{- 'Be kind.' }}
    {%- endif %}
    {%- for tool in tools %}
        {{- "\\n" }}{{- tool | tojson }}
    {%- endfor %}
    {{- "<|im_end|>\\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if ROLES %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {{- '\\n<tool_response>\\n' }}{{- message.content }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
""".replace("ROLES", ROLES)
LINES = """{% for message in messages %}
    {% if message.role == "user" %}
{{ "<|im_start|>user
" + message.content + "<|im_end|>" }}
    {% elif message.role == "system" %}
{{ "<|im_start|>system
" + message.content + "<|im_end|>" }}
    {% elif message.role == "assistant" %}
{{ "<|im_start|>assistant
" + message.content + "<|im_end|>" }}
    {% endif %}
    {% if loop.last and add_generation_prompt %}
{{ "<|im_start|>assistant" }}
    {% endif %}
{% endfor %}
"""
BOS = ("{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
       "{# bos #}\n{{ bos_token }}" + PLAIN)
TEXT_MESSAGE = ("{% for message in messages %}<|im_start|>{{ message.role }}\n{% generation %}"
                "{{ message.content }}<|im_end|>\n{% endgeneration %}{% endfor %}" + PROMPT)
LLAMA2 = """{%- if messages[0]['role'] == 'system' -%}
    {%- set loop_messages = messages[1:] -%}
    {%- set system_message = messages[0]['content'] -%}
{%- else -%}
    {%- set loop_messages = messages -%}
    {%- set system_message = false -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{- raise_exception('Roles must alternate') -}}
    {%- endif -%}
    {%- if loop.index0 == 0 and system_message != false -%}
        {%- set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] -%}
    {%- else -%}
        {%- set content = message['content'] -%}
    {%- endif -%}
    {%- if message['role'] == 'user' -%}
        {{- bos_token + '[INST] ' + content | trim + ' [/INST]' -}}
    {%- elif message['role'] == 'assistant' -%}
        {{- ' ' + content.strip() + ' ' + eos_token -}}
    {%- endif -%}
{%- endfor -%}
"""
CHANGED = {  # one detail away from a known template: must not be taken for it
    "plain": [
        PLAIN.replace("message['content']", "message['content'] | trim"), PLAIN.replace("\\n", " ", 1),
        PLAIN.replace("assistant\\n'", "assistant'"), PLAIN.replace("im_start|>assistant", "im_start|>model"),
        PLAIN + "{{ eos_token }}", "\n" + PLAIN, PLAIN.replace("{% endfor %}", "{% endfor %} "),
        PLAIN.replace("for message in messages", "for message in messages[1:]"),
        PLAIN.replace(" }}{% endif %}", " }}{% else %}{{ eos_token }}{% endif %}"), PLAIN[:-3],
        PLAIN.replace("{{", "{["),
    ],
    "default": [DEFAULT.replace("!= 'system'", "== 'system'"), DEFAULT.replace("loop.first and ", "")],
    "llama": [
        LLAMA2.replace("' ' + content.strip()", "content.strip()"), LLAMA2.replace("content | trim", "content"),
        LLAMA2.replace("bos_token + ", ""), LLAMA2.replace("\\n\\n", "\\n"), LLAMA2.replace("[INST] ", "[INST]"),
    ],
    "tools": [
        TOOLS.replace("not loop.first", "loop.first"),
        TOOLS.replace("{%- else %}\n    {%- if", "{%- else %}\n  x {%- if"),
    ],
}
CONVERSATIONS = [
    [("user", "Hello, how are you?")],
    [("system", " Be brief. \n"), ("user", "  Hello\n")],
    [("user", "Hi"), ("assistant", "I'm well. "), ("user", "Good")],
    [("system", "Be brief."), ("user", "Hi"), ("assistant", "\n A ü 水 \x1c"),
     ("user", "<|im_end|> </s>"), ("assistant", "")],
    [("system", ""), ("user", ""), ("assistant", "x\ny")],
]


def environment():
    from jinja2.ext import Extension

    class Generation(Extension):
        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                        extensions=[Generation, jinja2.ext.loopcontrols])

    def raise_exception(text):
        raise jinja2.exceptions.TemplateError(text)
    env.globals["raise_exception"] = raise_exception
    return env


def chat():
    env = environment()
    known = [("chatml", PLAIN), ("chatml", DEFAULT), ("chatml", TOOLS), ("chatml", LINES), ("chatml", BOS),
             ("chatml", TEXT_MESSAGE), ("llama-2", LLAMA2)]
    templates = []
    for family, text in known:
        template = env.from_string(text)
        cases = []
        for c in CONVERSATIONS:
            messages = [{"role": r, "content": t} for r, t in c]
            for prompt in (False, True):
                rendered = template.render(messages=messages, add_generation_prompt=prompt, bos_token="<s>",
                                           eos_token="</s>")
                cases.append({"messages": messages, "add_generation_prompt": prompt, "rendered": rendered})
        templates.append({"family": family, "template": text, "cases": cases})
    for texts in CHANGED.values():
        assert not {t for _, t in known} & set(texts)
        templates += [{"family": None, "template": text} for text in texts]
    write("chat.json", {"templates": templates})


def main():
    tok = byte_level()
    os.makedirs("bytelevel", exist_ok=True)
    tok.save("bytelevel/tokenizer.json", pretty=False)
    record(tok, "bytelevel")
    pair(json.loads(tok.to_str()))
    tok = metaspace()
    os.makedirs("metaspace", exist_ok=True)
    tok.save("metaspace/tokenizer.json", pretty=False)
    record(tok, "metaspace")
    old = legacy(json.loads(tok.to_str()))
    os.makedirs("legacy", exist_ok=True)
    write("legacy/tokenizer.json", old)
    record(Tokenizer.from_file("legacy/tokenizer.json"), "legacy")
    chat()


main()
