#!/bin/sh
# lora-eval against the golden numbers, and BLEU of answers that are known.
set -u
LC_ALL=C
export LC_ALL

if ! command -v python3 >/dev/null 2>&1; then
    echo 'skip eval no python3 to make and read files with'
    exit 77
fi
golden=$LT_SRCDIR/tests/golden/data
tmp=$(mktemp -d "${TMPDIR:-/tmp}/lora-eval.XXXXXX") || exit 1
trap 'rm -rf "$tmp"' EXIT
bad=0
# check NAME COMMAND...
check()
{
    name=$1
    shift
    if "$@"; then
        echo "ok $name"
    else
        echo "not ok $name"
        cat "$tmp/err"
        bad=1
    fi
}

cat >"$tmp/tool.py" <<'END'
"""safetensors in plain Python, and the comparisons of this test."""
import array, json, math, struct, sys

def load(path):
    data = open(path, "rb").read()
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + n])
    header.pop("__metadata__", None)
    kind = {"F32": "f", "I64": "q"}
    return {k: (v["shape"], array.array(kind[v["dtype"]], data[8 + n + v["data_offsets"][0] : 8 + n + v["data_offsets"][1]]))
            for k, v in header.items()}

def save(path, tensors):
    header, body = {}, b""
    for k, (shape, values) in tensors.items():
        raw = values.tobytes()
        header[k] = {"dtype": "I64", "shape": shape, "data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    open(path, "wb").write(struct.pack("<Q", len(text)) + text + body)

def inputs(source, variant, path):
    save(path, {k.split(".", 1)[1]: v for k, v in load(source).items() if k.startswith(variant + ".")})

def number(path, key):
    v = json.load(open(path))
    for part in key.split("."):
        v = v[part]
    return v

def near(path, key, want_path, want_key, limit):
    got, want = number(path, key), number(want_path, want_key)
    if not abs(got - want) <= float(limit):
        sys.exit(f"{key} is {got}, not {want}")

def consistent(path, name):
    """Numbers that follow from each other."""
    r = json.load(open(path))["results"][name]
    ok = math.isclose(r["perplexity"], math.exp(r["loss"]), rel_tol=1e-12) and 0 <= r["token_accuracy"] <= 1
    sys.exit(not ok)

def logits(dump, expected, name, mask_file, limit):
    got, want, mask = load(dump), load(expected)[name], load(mask_file)["attention_mask"]
    if got["logits"][0] != want[0]:
        sys.exit(f"shape {got['logits'][0]}, not {want[0]}")
    vocab = want[0][2]
    for token, live in enumerate(mask[1]):
        for i in range(token * vocab, token * vocab + vocab):
            a, b = got["logits"][1][i], want[1][i]
            if abs(a - (b if live else 0)) > (float(limit) if live else 0):
                sys.exit(f"element {i}: {a}, not {b}")

def bleu(path, name, right):
    """Are all tokens of the answers those of the references, or none?"""
    b = number(path, f"results.{name}.bleu")
    ok = b["correct"] == b["total"] if right == "all" else b["correct"] == [0, 0, 0, 0]
    sys.exit(not (ok and b["system_length"] > 0))

def row(out, prompt, *answers):
    with open(out, "w") as f:
        for a in answers:
            f.write(json.dumps({"prompt": prompt, "completion": open(a, encoding="utf-8", newline="").read()}) + "\n")

globals()[sys.argv[1]](*sys.argv[2:])
END
tool()
{
    python3 "$tmp/tool.py" "$@"
}

evaluate()
{
    lora-eval --threads 1 "$@" >"$tmp/out" 2>"$tmp/err"
}

# ---- losses and logits; limits as in the README of the goldens ----
for variant in full right left; do
    tool inputs "$golden/llama-tiny/inputs.safetensors" $variant "$tmp/$variant.safetensors" || exit 1
    evaluate --model "$golden/llama-tiny" --pretokenized "$tmp/$variant.safetensors" --json "$tmp/$variant.json" \
        --dump-logits "$tmp/$variant.dump"
    check "base, $variant: exit status" test $? = 0
    check "base, $variant: loss" tool near "$tmp/$variant.json" results.base.loss "$golden/llama-tiny/expected.json" \
        $variant.loss 1e-5
    check "base, $variant: logits" tool logits "$tmp/$variant.dump" "$golden/llama-tiny/expected.safetensors" \
        $variant.logits "$tmp/$variant.safetensors" 1e-4
done

evaluate --model "$golden/llama-tiny" --adapter "$golden/lora/adapter" --pretokenized "$tmp/right.safetensors" \
    --json "$tmp/both.json" --dump-logits "$tmp/both.dump"
check 'both: exit status' test $? = 0
check 'both: table' sh -c "head -n 1 '$tmp/out' | grep -q 'base  *adapter' && grep -q '58 target tokens' '$tmp/out'"
check 'both: base loss' tool near "$tmp/both.json" results.base.loss "$golden/llama-tiny/expected.json" right.loss 1e-5
check 'both: adapter loss' tool near "$tmp/both.json" results.adapter.loss "$golden/lora/expected.json" loss 1e-5
check 'both: logits are those with the adapter' tool logits "$tmp/both.dump" "$golden/lora/expected.safetensors" \
    logits "$tmp/right.safetensors" 1e-4
check 'perplexity' tool consistent "$tmp/both.json" adapter

# 1 and 8 rows at once: the same losses up to the order of their sum.
evaluate --model "$golden/llama-tiny" --pretokenized "$tmp/right.safetensors" --batch-size 1 --json "$tmp/one.json"
check 'one row at a time' tool near "$tmp/one.json" results.base.loss "$tmp/both.json" results.base.loss 1e-12
evaluate --model "$golden/llama-tiny" --adapter "$golden/lora/adapter" --no-base --threads 2 \
    --pretokenized "$tmp/right.safetensors" --json "$tmp/adapter.json"
check 'the adapter alone, two threads' tool near "$tmp/adapter.json" results.adapter.loss "$tmp/both.json" \
    results.adapter.loss 0
check 'no base column' sh -c "! grep -q base '$tmp/out'"
evaluate --model "$golden/llama-tiny" --adapter "$golden/lora/adapter" --weights stream \
    --pretokenized "$tmp/right.safetensors" --json "$tmp/streamed.json"
check 'streamed weights: base' tool near "$tmp/streamed.json" results.base.loss "$tmp/both.json" results.base.loss 0
check 'streamed weights: adapter' tool near "$tmp/streamed.json" results.adapter.loss "$tmp/both.json" \
    results.adapter.loss 0
evaluate --model "$golden/qlora/checkpoint-bnb-4bit" --adapter "$golden/lora/adapter" \
    --pretokenized "$tmp/right.safetensors" --json "$tmp/qlora.json"
check 'a bitsandbytes 4-bit checkpoint' tool near "$tmp/qlora.json" results.adapter.loss \
    "$golden/qlora/f32/expected.json" loss 1e-5

# ---- answers: a model's own greedy answer is right, and wrong for another model ----
mkdir "$tmp/model" || exit 1
cp "$golden/llama-tiny/config.json" "$golden/llama-tiny/model.safetensors" \
    "$LT_SRCDIR/tests/e2e/data/tokenizer320/"* "$tmp/model" || exit 1
n=0
for adapter in '' "--adapter $golden/lora/adapter"; do
    # shellcheck disable=SC2086 # none or two words
    lora-generate --model "$tmp/model" $adapter --prompt 'good day' --temperature 0 --max-new-tokens 40 --raw \
        --threads 1 >"$tmp/answer$n" 2>"$tmp/err" || exit 1
    n=$((n + 1))
done
tool row "$tmp/base.jsonl" 'good day' "$tmp/answer0" "$tmp/answer1" || exit 1
tool row "$tmp/adapter.jsonl" 'good day' "$tmp/answer1" "$tmp/answer0" || exit 1
echo '{"text": "some text without an answer"}' >"$tmp/text.jsonl"
evaluate --model "$tmp/model" --data "$tmp/base.jsonl" --limit 1 --max-new-tokens 40 --json "$tmp/own.json"
check 'its own answer is right' tool bleu "$tmp/own.json" base all
check 'one answer' grep -q ', 1 answers' "$tmp/out"
evaluate --model "$tmp/model" --adapter "$golden/lora/adapter" --data "$tmp/adapter.jsonl" --limit 1 \
    --max-new-tokens 40 --json "$tmp/bleu.json"
check 'the answer of the adapter is right with it' tool bleu "$tmp/bleu.json" adapter all
check 'the answer of the adapter is wrong without it' tool bleu "$tmp/bleu.json" base none
check 'BLEU is shown' grep -q '^BLEU ' "$tmp/out"
evaluate --model "$tmp/model" --data "$tmp/base.jsonl" --no-bleu
check 'no BLEU when not wanted' sh -c "grep -q 'token accuracy' '$tmp/out' && ! grep -q BLEU '$tmp/out'"
evaluate --model "$tmp/model" --data "$tmp/text.jsonl"
check 'no BLEU without answers' sh -c "grep -q 'token accuracy' '$tmp/out' && ! grep -q BLEU '$tmp/out'"
evaluate --model "$tmp/model" --data "$tmp/text.jsonl" --max-length 10
check 'says what was cut' grep -q '1 of 1 rows were longer' "$tmp/err"

# ---- mistakes: exit status 2, one line that says what to do ----
refuse()
{
    word=$1
    shift
    evaluate --model "$tmp/model" "$@"
    check "refuses: $word" sh -c "test $? = 2 && test ! -s '$tmp/out' && test \$(wc -l <'$tmp/err') = 1 &&
        grep -q -e '$word' '$tmp/err'"
}
refuse 'either --data or --pretokenized'
refuse 'either --data or --pretokenized' --data a --pretokenized b
refuse 'needs --pretokenized' --data "$tmp/base.jsonl" --dump-logits "$tmp/x"
refuse 'limit' --pretokenized "$tmp/right.safetensors" --limit 3
evaluate --model "$tmp/model" --data "$tmp/absent.jsonl"
check 'no data file' sh -c "test $? = 1 && grep -q absent.jsonl '$tmp/err'"
evaluate --model "$golden/llama-tiny" --data "$tmp/base.jsonl"
check 'no tokenizer' sh -c "test $? = 1 && grep -q tokenizer '$tmp/err'"
exit $bad
