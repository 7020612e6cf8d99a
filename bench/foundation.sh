#!/bin/sh
# Fine-tuning here and with PEFT, the same job on the same machine, one right after the other.
#
#   bench/foundation.sh BUILD FOLDER [--shape 1.1b] [--mode qlora|lora] [--seq 512] [--rows 1] [--steps 3]
#                       [--rounds 2] [--rank 16] [--threads N] [--isa avx2] [--peer plain|checkpointing|both] [-- OPTION...]
#
# BUILD has lora-train; FOLDER gets the checkpoint (2.2 GB for 1.1b), the tokens, every run's output and
# table.md, which is also printed.  The job: NF4 with double quantization (qlora) or the weights as they are (lora), all
# linear layers, f32, so many rows a step, the same initial adapter and rows on both sides.  Of several rows the
# peer makes one batch, lora-train one micro-batch each.  The first step of each run is warm-up.
# --isa avx2 keeps both programs from using more than AVX2.  --peer: the peer as it is, with activation checkpointing,
# its smallest memory, or one after the other [plain].  Options behind -- go to lora-train.
# Nothing else should run on the machine meanwhile.
set -eu
here=$(cd "$(dirname "$0")" && pwd -P)

fail() { printf 'foundation: %s\n' "$*" >&2; exit 1; }

[ $# -ge 2 ] || fail 'usage: bench/foundation.sh BUILD FOLDER [options]'
build=$(cd "$1" && pwd -P)
mkdir -p "$2"
out=$(cd "$2" && pwd -P)
shift 2
shape=1.1b mode=qlora seq=512 rows=1 steps=3 rounds=2 rank=16 threads=$(getconf _NPROCESSORS_ONLN)
isa='' peer=plain
while [ $# -gt 0 ]; do
    case $1 in
    --) shift; break ;;
    --shape | --mode | --rows | --isa | --peer | --seq | --steps | --rounds | --rank | --threads)
        [ $# -gt 1 ] || fail "$1 needs a value" ;;
    *) fail "unknown option $1" ;;
    esac
    case $1 in
    --shape) shape=$2 ;;
    --mode) mode=$2 ;;
    --seq) seq=$2 ;;
    --rows) rows=$2 ;;
    --isa) isa=$2 ;;
    --peer) peer=$2 ;;
    --steps) steps=$2 ;;
    --rounds) rounds=$2 ;;
    --rank) rank=$2 ;;
    --threads) threads=$2 ;;
    esac
    shift 2
done
[ "$steps" -ge 2 ] || fail '--steps must be at least 2: the first one is warm-up'
[ -x "$build/lora-train" ] || fail "$build/lora-train is not built"
case $mode in
qlora)
    format='NF4, double quantization'
    quantization='--load-in-4bit --bnb-4bit-quant-type nf4 --bnb-4bit-use-double-quant' ;;
lora)
    format='bf16 base, for the peer f32'
    quantization='' ;;
*) fail '--mode is qlora or lora' ;;
esac
case $isa in
'') ;;
avx2) export LT_CPU=avx2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 ;;
*) fail '--isa is avx2, or left out' ;;
esac
case $peer in
plain | checkpointing | both) ;;
*) fail '--peer is plain, checkpointing or both' ;;
esac

python=$(sh "$here/peer_peft/run.sh" --install)
model=$out/llama-$shape
tokens=$out/tokens-$shape-$seq-$((rows * steps)).safetensors
[ -f "$model/config.json" ] || "$python" -B "$here/make_llama.py" "$shape" "$model" >&2
vocab=$(sed -n 's/^ *"vocab_size": \([0-9]*\).*/\1/p' "$model/config.json")
[ -f "$tokens" ] ||
    "$python" -B "$here/make_tokens.py" "$tokens" --rows $((rows * steps)) --length "$seq" --vocab "$vocab"

# run_ours ROUND OPTION...
run_ours()
{
    printf 'foundation: lora-train, round %s\n' "$1" >&2
    folder=$out/ours-$1
    shift
    rm -rf "$folder"
    mkdir -p "$folder"
    # shellcheck disable=SC2086 # several words
    "$build/lora-train" --model "$model" --pretokenized "$tokens" --output-dir "$folder" \
        $quantization --compute-dtype float32 \
        --lora-r "$rank" --lora-alpha $((2 * rank)) --lora-target-modules all-linear \
        --per-device-train-batch-size 1 --gradient-accumulation-steps "$rows" \
        --max-steps "$steps" --learning-rate 1e-4 \
        --lr-scheduler-type constant --warmup-ratio 0 --seed 42 --threads "$threads" \
        --logging-steps 1 --save-strategy no "$@" >"$folder/output.txt"
}

# run_peer NAME OPTION...
run_peer()
{
    printf 'foundation: PEFT, %s\n' "$1" >&2
    name=$1
    shift
    sh "$here/peer_peft/run.sh" --model "$model" --mode "$mode" --dtype float32 --batch "$rows" --steps "$steps" \
        --rank "$rank" --seed 42 --threads "$threads" --pretokenized "$tokens" "$@" \
        >"$out/$name.json" 2>"$out/$name.log" ||
        { cat "$out/$name.log" >&2; fail 'the peer failed'; }
}

rm -f "$out"/peer-*.json "$out"/peer-*.log
round=1
while [ "$round" -le "$rounds" ]; do
    run_ours "$round" "$@"
    [ "$peer" = checkpointing ] || run_peer "peer-$round"
    [ "$peer" = plain ] || run_peer "peer-checkpointing-$round" --checkpointing
    round=$((round + 1))
done
title="$format, f32, $shape, $rows x $seq tokens a step, rank $rank, $threads threads${isa:+, $isa}"
"$python" -B "$here/foundation_table.py" "$out" "$rounds" "$title" |
    tee "$out/table.md"
