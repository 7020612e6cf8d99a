#!/bin/sh
# The tutorials' recipe here and with PEFT: LoRA in f32 on instruction rows, batch 4, max_length 512.
#
#   bench/recipe.sh BUILD FOLDER [--shape 134m] [--steps 3] [--rank 16] [--threads N]
#                   [--data ROWS.jsonl --tokenizer tokenizer.json]
#
# BUILD has lora-train; FOLDER gets the checkpoint, the rows (bench/make_recipe.py: GSM8K's lengths unless
# --data names the rows), every run's output and table.md, which is also printed.  The peer pads every row to 512 as
# the tutorials do, and once more to the longest row of a batch.  The first step of each run is warm-up.
# Nothing else should run on the machine meanwhile.
set -eu
here=$(cd "$(dirname "$0")" && pwd -P)

fail() { printf 'recipe: %s\n' "$*" >&2; exit 1; }

[ $# -ge 2 ] || fail 'usage: bench/recipe.sh BUILD FOLDER [options]'
build=$(cd "$1" && pwd -P)
mkdir -p "$2"
out=$(cd "$2" && pwd -P)
shift 2
shape=134m steps=3 rank=16 threads=$(getconf _NPROCESSORS_ONLN) data= tokenizer=
while [ $# -gt 0 ]; do
    [ $# -gt 1 ] || fail "$1 needs a value"
    case $1 in
    --shape) shape=$2 ;;
    --steps) steps=$2 ;;
    --rank) rank=$2 ;;
    --threads) threads=$2 ;;
    --data) data=$2 ;;
    --tokenizer) tokenizer=$2 ;;
    *) fail "unknown option $1" ;;
    esac
    shift 2
done
[ "$steps" -ge 2 ] || fail '--steps must be at least 2: the first one is warm-up'
[ -x "$build/lora-train" ] || fail "$build/lora-train is not built"

python=$(sh "$here/peer_peft/run.sh" --install)
model=$out/llama-$shape
[ -f "$model/config.json" ] || "$python" -B "$here/make_llama.py" "$shape" "$model" >&2
for labels in all response; do
    "$python" -B "$here/make_recipe.py" "$out/$labels.safetensors" --rows $((4 * steps)) --labels "$labels" \
        ${data:+--data "$data"} ${tokenizer:+--tokenizer "$tokenizer"}
done

# run_ours LABELS
run_ours()
{
    printf 'recipe: lora-train, %s\n' "$1" >&2
    rm -rf "$out/ours-$1"
    mkdir -p "$out/ours-$1"
    "$build/lora-train" --model "$model" --pretokenized "$out/$1.safetensors" --output-dir "$out/ours-$1" \
        --compute-dtype float32 --lora-r "$rank" --lora-alpha $((2 * rank)) --lora-target-modules all-linear \
        --per-device-train-batch-size 4 --max-steps "$steps" --learning-rate 1e-4 \
        --lr-scheduler-type constant --warmup-ratio 0 --seed 42 --threads "$threads" \
        --logging-steps 1 --save-strategy no >"$out/ours-$1/output.txt"
}

# run_peer NAME LABELS OPTION...
run_peer()
{
    printf 'recipe: PEFT, %s\n' "$1" >&2
    name=$1 labels=$2
    shift 2
    sh "$here/peer_peft/run.sh" --model "$model" --mode lora --dtype float32 --batch 4 --steps "$steps" \
        --rank "$rank" --seed 42 --threads "$threads" --pretokenized "$out/$labels.safetensors" "$@" \
        >"$out/$name.json" 2>"$out/$name.log" ||
        { cat "$out/$name.log" >&2; fail 'the peer failed'; }
}

run_ours all
run_peer peer-padded all
run_peer peer-dynamic all --dynamic-padding
run_ours response
run_peer peer-response response --dynamic-padding
"$python" -B "$here/recipe_table.py" "$out" "$shape, batch 4, rank $rank, f32, $threads threads" |
    tee "$out/table.md"
