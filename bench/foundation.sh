#!/bin/sh
# QLoRA fine-tuning here and with PEFT, the same job on the same machine, one right after the other.
#
#   bench/foundation.sh BUILD FOLDER [--shape 1.1b] [--seq 512] [--steps 3] [--rounds 2] [--rank 16]
#                       [--threads N] [--checkpointing]
#
# BUILD has lora-train; FOLDER gets the checkpoint (2.2 GB for 1.1b), the tokens, every run's output and
# table.md, which is also printed.  The job: NF4 with double quantization, all linear layers, f32, batch 1,
# the same initial adapter and rows on both sides.  The first step of each run is warm-up.
# --checkpointing lets the peer run once more each round with activation checkpointing, its smallest memory.
# Nothing else should run on the machine meanwhile.
set -eu
here=$(cd "$(dirname "$0")" && pwd -P)

fail() { printf 'foundation: %s\n' "$*" >&2; exit 1; }

[ $# -ge 2 ] || fail 'usage: bench/foundation.sh BUILD FOLDER [options]'
build=$(cd "$1" && pwd -P)
mkdir -p "$2"
out=$(cd "$2" && pwd -P)
shift 2
shape=1.1b seq=512 steps=3 rounds=2 rank=16 threads=$(getconf _NPROCESSORS_ONLN) checkpointing=
while [ $# -gt 0 ]; do
    case $1 in
    --checkpointing) checkpointing=1; shift; continue ;;
    --shape | --seq | --steps | --rounds | --rank | --threads) [ $# -gt 1 ] || fail "$1 needs a value" ;;
    *) fail "unknown option $1" ;;
    esac
    case $1 in
    --shape) shape=$2 ;;
    --seq) seq=$2 ;;
    --steps) steps=$2 ;;
    --rounds) rounds=$2 ;;
    --rank) rank=$2 ;;
    --threads) threads=$2 ;;
    esac
    shift 2
done
[ "$steps" -ge 2 ] || fail '--steps must be at least 2: the first one is warm-up'
[ -x "$build/lora-train" ] || fail "$build/lora-train is not built"

python=$(sh "$here/peer_peft/run.sh" --install)
model=$out/llama-$shape
tokens=$out/tokens-$shape-$seq-$steps.safetensors
[ -f "$model/config.json" ] || "$python" -B "$here/make_llama.py" "$shape" "$model" >&2
vocab=$(sed -n 's/^ *"vocab_size": \([0-9]*\).*/\1/p' "$model/config.json")
[ -f "$tokens" ] ||
    "$python" -B "$here/make_tokens.py" "$tokens" --rows "$steps" --length "$seq" --vocab "$vocab"

run_ours()
{
    printf 'foundation: lora-train, round %s\n' "$1" >&2
    rm -rf "$out/ours-$1"
    mkdir -p "$out/ours-$1"
    "$build/lora-train" --model "$model" --pretokenized "$tokens" --output-dir "$out/ours-$1" \
        --load-in-4bit --bnb-4bit-quant-type nf4 --bnb-4bit-use-double-quant --compute-dtype float32 \
        --lora-r "$rank" --lora-alpha $((2 * rank)) --lora-target-modules all-linear \
        --per-device-train-batch-size 1 --max-steps "$steps" --learning-rate 1e-4 \
        --lr-scheduler-type constant --warmup-ratio 0 --seed 42 --threads "$threads" \
        --logging-steps 1 --save-strategy no >"$out/ours-$1/output.txt"
}

# run_peer NAME OPTION...
run_peer()
{
    printf 'foundation: PEFT, %s\n' "$1" >&2
    name=$1
    shift
    sh "$here/peer_peft/run.sh" --model "$model" --mode qlora --dtype float32 --batch 1 --steps "$steps" \
        --rank "$rank" --seed 42 --threads "$threads" --pretokenized "$tokens" "$@" \
        >"$out/$name.json" 2>"$out/$name.log" ||
        { cat "$out/$name.log" >&2; fail 'the peer failed'; }
}

rm -f "$out"/peer-*.json "$out"/peer-*.log
round=1
while [ "$round" -le "$rounds" ]; do
    run_ours "$round"
    run_peer "peer-$round"
    [ -z "$checkpointing" ] || run_peer "peer-checkpointing-$round" --checkpointing
    round=$((round + 1))
done
title="$shape, $seq tokens, batch 1, rank $rank, $threads threads"
"$python" -B "$here/foundation_table.py" "$out" "$rounds" "$title" |
    tee "$out/table.md"
