#!/bin/sh
# A real trained model: stories260K of llama2.c must tell its story to the letter, here and in 4 bits a story.
set -u
LC_ALL=C
export LC_ALL

data=${LT_SHARED:-$LT_SRCDIR/../shared}/data
model=$data/clebert+llama2.zig
expected=$data/karpathy+llama2.c/expected_greedy_200.txt
for file in "$model/stories260K.bin" "$model/tok512.bin" "$expected"; do
    if [ ! -f "$file" ]; then
        echo "skip stories260k no ${file##*/data/} in the shared fixtures"
        exit 77
    fi
done
if ! command -v python3 >/dev/null 2>&1; then
    echo 'skip stories260k no python3 to convert the model with'
    exit 77
fi

tmp=$(mktemp -d "${TMPDIR:-/tmp}/lora-stories.XXXXXX") || exit 1
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
        bad=1
    fi
}

generate()
{
    lora-generate --prompt '' --temperature 0 --max-new-tokens 200 --raw --threads 1 "$@" 2>>"$tmp/log"
}

python3 "$LT_SRCDIR/tests/golden/convert_llama2c.py" "$model/stories260K.bin" "$model/tok512.bin" "$tmp/model" &&
    python3 "$LT_SRCDIR/tests/golden/convert_llama2c.py" "$model/stories260K_v1.bin" "$model/tok512.bin" "$tmp/v1" ||
    exit 1
generate --model "$tmp/model" >"$tmp/story"
check 'greedy story of 200 tokens' cmp "$tmp/story" "$expected"
generate --model "$tmp/v1" >"$tmp/story.v1"
check 'greedy story, version 1 file' cmp "$tmp/story.v1" "$expected"
generate --model "$tmp/model" --threads 2 >"$tmp/story.2"
check 'greedy story, two threads' cmp "$tmp/story.2" "$expected"

# The text of another program's test of the same model.
python3 - "$model/expected_generations.json" >"$tmp/zig" <<'END'
import json, sys
for case in json.load(open(sys.argv[1])):
    if case["args"].startswith("--temperature 0 --sequence_length 200"):
        sys.stdout.write(case["expected"])
        break
END
check 'the text that llama2.zig expects' cmp "$tmp/story" "$tmp/zig"

# The story continued from its own first half is the same story.
python3 - "$expected" "$tmp" <<'END'
import sys
text = open(sys.argv[1]).read()
at = text.index(" She loved")
open(sys.argv[2] + "/begin", "w").write(text[:at])
open(sys.argv[2] + "/rest", "w").write(text[at:][: len(text) - at - 40].lstrip())
END
generate --model "$tmp/model" --prompt "$(cat "$tmp/begin")" >"$tmp/continued"
size=$(wc -c <"$tmp/rest")
check 'continued from its first sentence' sh -c "head -c $size '$tmp/continued' | cmp - '$tmp/rest'"

generate --model "$tmp/model" --load-in-4bit --max-new-tokens 40 >"$tmp/story.nf4"
check 'a story in 4 bits' grep -q '^Once upon a time' "$tmp/story.nf4"

# Sampling: the same seed tells the same story, another one another.
for seed in 1 1 2; do
    lora-generate --model "$tmp/model" --prompt '' --temperature 1 --top-p 0.9 --seed $seed --max-new-tokens 60 \
        --threads 1 >"$tmp/sampled.$seed.new" 2>>"$tmp/log"
    [ ! -f "$tmp/sampled.$seed" ] || check 'the same seed, the same story' cmp "$tmp/sampled.$seed" "$tmp/sampled.$seed.new"
    mv "$tmp/sampled.$seed.new" "$tmp/sampled.$seed"
done
check 'another seed, another story' sh -c "! cmp -s '$tmp/sampled.1' '$tmp/sampled.2'"

# Its own story as the reference: every answer is right.
python3 - "$tmp" <<'END'
import json, sys
tmp = sys.argv[1]
rows = [{"prompt": open(tmp + "/begin").read(), "completion": " " + open(tmp + "/rest").read()},
        {"text": "Once upon a time, there was a little girl named Lily."}]
open(tmp + "/rows.jsonl", "w").write(json.dumps(rows[0]) + "\n")
open(tmp + "/text.jsonl", "w").write(json.dumps(rows[1]) + "\n")
END
lora-eval --model "$tmp/model" --data "$tmp/rows.jsonl" --max-new-tokens 120 --threads 1 --json "$tmp/eval.json" \
    >"$tmp/table" 2>>"$tmp/log"
check 'predicts its own story' python3 - "$tmp/eval.json" <<'END'
import json, sys
base = json.load(open(sys.argv[1]))["results"]["base"]
sys.exit(not (base["token_accuracy"] > 0.95 and base["loss"] < 1.5 and base["bleu"]["score"] > 60))
END
lora-eval --model "$tmp/model" --data "$tmp/text.jsonl" --threads 1 >"$tmp/table" 2>>"$tmp/log"
check 'no BLEU without prompts' sh -c "grep -q perplexity '$tmp/table' && ! grep -q BLEU '$tmp/table'"

[ $bad = 0 ] || cat "$tmp/log"
exit $bad
