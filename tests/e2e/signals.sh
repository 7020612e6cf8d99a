#!/bin/sh
# Ctrl-C, kill and kill -9 during a run: a checkpoint that is whole, and a resumed run that ends in the same bytes
# as one that was never stopped.
. "$LT_SRCDIR/tests/support/e2e.sh"

steps=400

# train DIR ARGUMENT...: many quick steps; dropout, so that random numbers must go on where they were.
run=
train()
{
    dir=$1
    shift
    $run lora-train --model "$golden/llama-tiny" --pretokenized "$batches" --output-dir "$dir" --lora-r 2 \
        --target-modules q_proj,v_proj --lora-dropout 0.1 --max-steps $steps --logging-steps 1 --threads 1 "$@"
}

# start DIR ARGUMENT...: the same in the background; sets pid, of the program and no shell in between.
start()
{
    (
        run=exec
        train "$@" >"$tmp/stdout" 2>"$tmp/err" </dev/null
    ) &
    pid=$!
    started="$started $pid"
}

# wait_for_lines FILE N: until the file has so many, or the process is gone.
wait_for_lines()
{
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
            [ ! -f "$1" ] || [ "$(wc -l <"$1")" -lt "$2" ] || return 0
            kill -0 $pid 2>/dev/null || return 1
            nap 0.05
        done
    done
    return 1
}

same_as_never_stopped()
{
    cmp -s "$tmp/straight/adapter_model.safetensors" "$1/adapter_model.safetensors" || return 1
    cmp -s "$tmp/straight/checkpoint-$steps/optimizer.safetensors" "$1/checkpoint-$steps/optimizer.safetensors" ||
        return 1
    losses "$tmp/straight/train_log.jsonl" >"$tmp/expected"
    losses "$1/train_log.jsonl" | cmp -s "$tmp/expected" -
}

start "$tmp/straight" --save-strategy steps --save-steps 1000
if wait $pid; then
    ok straight-run
else
    not_ok straight-run "exit status $?"
    finish
fi

# ---- stopped by a signal, then resumed ----
for signal in INT TERM HUP; do
    dir=$tmp/$signal
    start "$dir" --save-steps 1000
    wait_for_lines "$dir/train_log.jsonl" 7
    kill -s $signal $pid
    wait $pid
    status=$?
    checkpoint=$(sed -n 's/^lora-train: stopped after step [0-9]*; \(.*\) continues from there$/\1/p' "$tmp/err")
    if [ $signal$status = HUP0 ]; then
        skip "stopped-by-$signal" 'SIGHUP is ignored here, as under nohup'
    elif [ $status != 130 ]; then
        not_ok "stopped-by-$signal" "exit status $status, not 130"
    elif [ "$(wc -l <"$tmp/err")" != 1 ] || [ ! -d "$checkpoint" ]; then
        not_ok "stopped-by-$signal" 'stderr is not one line that names the checkpoint'
    elif ! complete_checkpoint "$checkpoint"; then
        not_ok "stopped-by-$signal" "$checkpoint is not complete"
    elif [ -n "$(leftovers "$dir")" ] || [ -e "$dir/adapter_model.safetensors" ]; then
        not_ok "stopped-by-$signal" 'something unfinished is left behind'
    else
        ok "stopped-by-$signal"
    fi
    [ ! -e "$dir/adapter_model.safetensors" ] || continue
    if ! train "$dir" --save-steps 1000 --resume-from-checkpoint last >"$tmp/stdout" 2>"$tmp/err"; then
        not_ok "resumed-after-$signal" "exit status $?"
    elif same_as_never_stopped "$dir"; then
        ok "resumed-after-$signal"
    else
        not_ok "resumed-after-$signal" 'not the bytes of the straight run'
    fi
done

# ---- a second signal ends a step that takes long ----
make_pretokenized "$tmp/long.safetensors" 256 160 zero
start "$tmp/twice" --pretokenized "$tmp/long.safetensors" --batch-size 256 --max-steps 1
wait_for_lines "$tmp/stdout" 30
nap 0.3
kill -s INT $pid
nap 0.2
if kill -0 $pid 2>/dev/null; then
    kill -s INT $pid
    began=$(date +%s)
    wait $pid
    status=$?
    took=$(($(date +%s) - began))
    if [ $status != 130 ]; then
        not_ok second-signal "exit status $status, not 130"
    elif [ $took -gt 1 ] || [ -e "$tmp/twice/checkpoint-0" ]; then
        not_ok second-signal "not at once: $took s"
    else
        ok second-signal
    fi
else
    skip second-signal 'a step of 40,000 tokens is over in 0.2 s'
fi

# ---- kill -9, again and again ----
dir=$tmp/killed
resume=
for moment in 0.21 0.35 0.13 0.47 0.29; do
    # shellcheck disable=SC2086 # no word, or two
    start "$dir" --save-steps 5 $resume
    lines=0
    [ ! -f "$dir/train_log.jsonl" ] || lines=$(wc -l <"$dir/train_log.jsonl")
    wait_for_lines "$dir/train_log.jsonl" $((lines / 2 + 6))
    nap $moment
    kill -s KILL $pid 2>/dev/null
    wait $pid 2>/dev/null
    whole=0
    for checkpoint in "$dir"/checkpoint-*; do
        case ${checkpoint#"$dir"/checkpoint-} in
        *[!0-9]*) continue ;; # moved aside
        esac
        complete_checkpoint "$checkpoint" && whole=$((whole + 1)) ||
            not_ok "killed-after-$moment" "$checkpoint is not complete"
    done
    if [ $whole = 0 ]; then
        skip "killed-after-$moment" 'before the first checkpoint'
        continue
    fi
    resume='--resume-from-checkpoint last'
    # shellcheck disable=SC2086 # two words
    if train "$dir" $resume --dump-step "$tmp/step" >"$tmp/stdout" 2>"$tmp/err" </dev/null; then
        ok "killed-after-$moment"
    else
        not_ok "killed-after-$moment" 'its last checkpoint is not loadable'
    fi
done
# shellcheck disable=SC2086 # two words
if ! train "$dir" --save-steps 5 $resume >"$tmp/stdout" 2>"$tmp/err" </dev/null; then
    not_ok resumed-after-kills "exit status $?"
elif same_as_never_stopped "$dir"; then
    ok resumed-after-kills
else
    not_ok resumed-after-kills 'not the bytes of the straight run'
fi
finish
