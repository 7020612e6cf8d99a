#!/bin/sh
# How the cost of a training step grows: one axis at a time around one ordinary step.
#
#   bench/scaling.sh BUILD FOLDER [--shape smollm2-135m] [--axes 'sequence batch rank threads layers'] [--rounds 3]
#                    [-- OPTION...]
#
# BUILD has lora-bench; FOLDER gets a JSON file for every cell, table.md and scaling.svg.  Cells that are there already
# are not measured again.  Each is measured in several rounds, since a shared machine has slow minutes; the fastest step
# of all counts.  LoRA r=16 on all linear layers, bf16 base, f32 compute, synthetic weights; options behind -- go to
# lora-bench train, such as --compute-dtype bfloat16.
# Nothing else should run on the machine meanwhile.
set -eu
here=$(cd "$(dirname "$0")" && pwd -P)

fail() { printf 'scaling: %s\n' "$*" >&2; exit 1; }

[ $# -ge 2 ] || fail 'usage: bench/scaling.sh BUILD FOLDER [options]'
build=$(cd "$1" && pwd -P)
mkdir -p "$2"
out=$(cd "$2" && pwd -P)
shift 2
shape=smollm2-135m axes='sequence batch rank threads layers' rounds=3
while [ $# -gt 0 ]; do
    [ "$1" != -- ] || break
    [ $# -gt 1 ] || fail "$1 needs a value"
    case $1 in
    --shape) shape=$2 ;;
    --axes) axes=$2 ;;
    --rounds) rounds=$2 ;;
    *) fail "unknown option $1" ;;
    esac
    shift 2
done
[ $# -eq 0 ] || shift
more=$* # words without spaces
[ -x "$build/lora-bench" ] || fail "$build/lora-bench is not built"

# cell AXIS VALUE OPTION...
cell()
{
    file=$out/$1-$2-$round.json
    [ ! -f "$file" ] || return 0
    printf 'scaling: %s %s, round %s\n' "$1" "$2" "$round" >&2
    shift 2
    began=$(date +%s)
    # shellcheck disable=SC2086 # options
    "$build/lora-bench" train --shape "$shape" --quant bf16 --json "$file" "$@" $more >/dev/null
    printf '%s\n' $(($(date +%s) - began)) >"${file%.json}.seconds"
}

processors=$(getconf _NPROCESSORS_ONLN)
# measure AXIS
measure()
{
    case $1 in
    sequence)
        for n in 128 256 512 1024 2048; do cell sequence $n --batch 1 --seq $n --steps 3; done
        cell sequence 4096 --batch 1 --seq 4096 --steps 1
        cell sequence 8192 --batch 1 --seq 8192 --steps 1 --warmup 0 ;; # the longest
    batch) for n in 1 2 4 8 16; do cell batch $n --seq 128 --batch $n --steps 3; done ;;
    rank) for n in 4 8 16 32 64 128 256; do cell rank $n --seq 512 --batch 1 --rank $n --steps 3; done ;;
    threads)
        n=1
        while [ $n -le "$processors" ]; do
            cell threads $n --seq 512 --batch 1 --threads $n --steps 3
            n=$((n * 2))
        done ;;
    layers) for n in 5 10 15 20 25 30; do cell layers $n --seq 512 --batch 1 --layers $n --steps 3; done ;;
    *) fail "unknown axis $1" ;;
    esac
}

round=1
while [ $round -le "$rounds" ]; do
    for axis in $axes; do
        measure "$axis"
    done
    round=$((round + 1))
done
python3 -B "$here/scaling_table.py" "$out" "$axes" >"$out/table.md"
cat "$out/table.md"
