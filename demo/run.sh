#!/bin/sh
# The demo: a small base model (demo/base, see train_base.sh) learns to answer a shop's orders by full
# fine-tuning, by LoRA and by QLoRA; held-out rows say how well.  `make demo` runs it in the build folder.
#
# Every command is shown as it runs; data, models and logs stay in demo/out of the build folder.
# Exit status: 1 when a command fails or the answers are not what they should be, 130 after Ctrl-C.
set -u
LC_ALL=C
export LC_ALL

fail() { printf 'demo: %s\n' "$*" >&2; exit 1; }

demo=${LT_SRCDIR:+$LT_SRCDIR/demo}
demo=${demo:-$(dirname "$0")}
cd "${LT_BUILD:-.}" || exit 1
case $demo in
"$(pwd -P)"/*) demo=demo ;;
esac
out=demo/out
for program in lora-train lora-eval lora-generate; do
    command -v $program >/dev/null || fail "$program is not in the PATH: use \`make demo\`"
done
rm -rf "$out"
mkdir -p "$out" || exit 1
trap 'printf "\ndemo: stopped; %s has what was done\n" "$out" >&2; exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# Work in pieces this small is done sooner when waiting threads do not spin.
OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
export OMP_WAIT_POLICY

say() { printf '%s\n' "$*"; }

# show COMMAND...: prints a command so that it can be pasted into a shell, cut before options.
show()
{
    printf '$'
    for word in "$@"; do
        case $word in
        *[!A-Za-z0-9_./=,+-]*) printf " '%s'\n" "$(printf '%s' "$word" | sed "s/'/'\\\\''/g")" ;;
        *) printf ' %s\n' "$word" ;;
        esac
    done | awk '
    function put(unit) {
        if (length(line unit) > 98) { print line " \\"; line = "      " }
        line = line unit
    }
    /^ -/ { put(unit); unit = "" }
    { unit = unit $0 }
    END { put(unit); print line }'
}

# run LOG COMMAND...: shows and runs; output goes to LOG.log, messages to LOG.err.
run()
{
    output=$out/$1
    shift
    show "$@"
    "$@" >"$output.log" 2>"$output.err" </dev/null && return
    status=$?
    [ $status -lt 128 ] || exit $status
    tail -n 5 "$output.err" >&2
    fail "$1 failed (status $status); its output is in $output.log and $output.err"
}

# Rows for training and held-out ones, which share no answer.
generate()
{
    show awk -v "rows=$2" -v "heldout=$3" -f "$demo/words.awk" -f "$demo/pairs.awk" | sed "s,\$, >$out/$1,"
    awk -v "rows=$2" -v "heldout=$3" -f "$demo/words.awk" -f "$demo/pairs.awk" >"$out/$1" || fail "cannot write $out/$1"
}

# train NAME OPTION...
train()
{
    name=$1
    shift
    run "$name" lora-train --model "$demo/base" "$@" --data $out/train.jsonl --max-length 96 \
        --num-train-epochs 4 --per-device-train-batch-size 8 --logging-steps 100 --save-strategy no \
        --output-dir "$out/$name"
}

# evaluate NAME OPTION...
evaluate()
{
    name=$1
    shift
    run "eval-$name" lora-eval "$@" --data $out/heldout.jsonl --bleu --max-new-tokens 40 \
        --json "$out/$name.json"
}

# number KEY FILE: the last number with this key in a JSON file.
number() { sed -n "s/.*\"$1\": *\\([0-9.eE+-]*\\).*/\\1/p" "$2" | tail -n 1; }

# line TITLE NAME: one line of the table, from the logs of a run.
line()
{
    bleu=$(number score "$out/$2.json")
    loss=$(number loss "$out/$2.json")
    if [ "$2" = base ]; then
        parameters=- seconds=- memory=-
    else
        parameters=$(sed -n 's/^Method.*: \([0-9,]*\) trainable.*/\1/p' "$out/$2.log")
        seconds=$(number train_runtime "$out/$2/trainer_state.json")
        memory=$(sed -n 's/.*"peak_memory_bytes": *\([0-9]*\).*/\1/p' "$out/$2/train_log.jsonl" | sort -n | tail -n 1)
    fi
    [ -n "$bleu" ] && [ -n "$loss" ] && [ -n "$parameters" ] && [ -n "$seconds" ] && [ -n "$memory" ] ||
        fail "the logs of $2 in $out are incomplete"
    awk -v title="$1" -v parameters="$parameters" -v seconds="$seconds" -v memory="$memory" -v loss="$loss" \
        -v bleu="$bleu" 'BEGIN {
        if (seconds != "-") seconds = sprintf("%.1f", seconds)
        if (memory != "-") memory = sprintf("%.1f MiB", memory / 1048576)
        printf "%-18s %20s %9s %12s %14.4f %7.2f\n", title, parameters, seconds, memory, loss, bleu
    }'
}

# field KEY: of the first held-out row.
field() { sed -n "1s/.*\"$1\": \"\\([^\"]*\\)\".*/\\1/p" $out/heldout.jsonl; }

# answer LABEL OPTION...: the answer of a model to that row.
answer()
{
    label=$1
    shift
    run "$label" lora-generate "$@" --instruction "$(field instruction)" --input "$(field input)" \
        --temperature 0 --max-new-tokens 40
    sed 's/^/    /' "$output.log"
}

began=$(date +%s)
say "Commands run in $(pwd -P); their output is kept in $out."
say
say '# 1,200 rows to learn from, 160 held-out rows; no answer is in both'
generate train.jsonl 1200 0
generate heldout.jsonl 160 1

say
say '# The base model before'
evaluate base --model "$demo/base"

say
say '# Full fine-tuning: every weight learns'
train full --full-finetune --learning-rate 1e-3
evaluate full --model $out/full

say
say '# LoRA: the base stays as it is, small matrices beside its weights learn'
train lora --lora-r 16 --lora-alpha 32 --learning-rate 4e-3
evaluate lora --model "$demo/base" --adapter $out/lora --base false

say
say '# QLoRA: the same over a base in 4 bits'
train qlora --load-in-4bit --bnb-4bit-use-double-quant --lora-r 16 --lora-alpha 32 --learning-rate 4e-3
evaluate qlora --model "$demo/base" --adapter $out/qlora --load-in-4bit --bnb-4bit-use-double-quant \
    --base false

say
printf '%-18s %20s %9s %12s %14s %7s\n' '' 'trainable parameters' seconds 'peak memory' 'held-out loss' BLEU
line 'base' base
line 'full fine-tuning' full
line 'LoRA' lora
line 'QLoRA' qlora

say
say "The same prompt before and after; it is held out, and the answer there is:"
say "    $(field output)"
answer before --model "$demo/base"
answer after --model "$demo/base" --adapter $out/lora

say
say "Finished in $(($(date +%s) - began)) seconds."
base_bleu=$(printf %.2f "$(number score $out/base.json)")
lora_bleu=$(printf %.2f "$(number score $out/lora.json)")
awk -v b="$base_bleu" 'BEGIN { exit !(b < 20) }' ||
    fail "the base model already has a BLEU of $base_bleu (it should be below 20): there is nothing to learn"
awk -v b="$lora_bleu" 'BEGIN { exit !(b > 70) }' ||
    fail "LoRA reached a BLEU of $lora_bleu (it should be above 70): see $out/lora.log"
