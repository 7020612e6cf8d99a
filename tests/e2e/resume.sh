#!/bin/sh
# N steps at once and N steps in two runs give the same bytes: adapter or model, optimizer, logged losses.  So do
# one and two threads.  The CPU variants agree within 1e-4.
. "$LT_SRCDIR/tests/support/e2e.sh"

make_model "$tmp/m"
make_rows "$tmp/rows.jsonl" 24
token_data="--pretokenized $batches"
text_data="--data $tmp/rows.jsonl --max-length 64 --batch-size 3 --train-on-inputs"
lora='--lora-r 4 --lora-dropout 0.1'
full='--full-finetune --learning-rate 1e-3'

# train DIR ARGUMENT...
train()
{
    dir=$1
    shift
    lora-train --model "$tmp/m" --output-dir "$dir" --logging-steps 1 --save-steps 3 --max-steps 8 "$@" \
        >"$tmp/stdout" 2>"$tmp/err" </dev/null
}

# same NAME DIR DIR: the results of two runs, bit for bit.
same()
{
    weights=adapter_model.safetensors
    [ -e "$2/$weights" ] || weights=model.safetensors
    losses "$2/train_log.jsonl" >"$tmp/a"
    losses "$3/train_log.jsonl" >"$tmp/b"
    if ! cmp -s "$2/$weights" "$3/$weights"; then
        not_ok "$1" "$weights differs"
    elif ! cmp -s "$2/checkpoint-8/optimizer.safetensors" "$3/checkpoint-8/optimizer.safetensors"; then
        not_ok "$1" 'optimizer.safetensors differs'
    elif [ "$(wc -l <"$tmp/a")" -lt 8 ] || ! cmp -s "$tmp/a" "$tmp/b"; then
        not_ok "$1" 'the logged losses differ'
    else
        ok "$1"
    fi
}

# check NAME ARGUMENT...: straight, resumed at the checkpoints of these steps, and on one thread.
resume_at='3 6'
check()
{
    what=$1
    shift
    rm -rf "$tmp/straight" "$tmp/resumed" "$tmp/single"
    if ! train "$tmp/straight" --threads 2 "$@"; then
        not_ok "$what" "exit status $?"
        return
    fi
    for step in $resume_at; do
        rm -rf "$tmp/resumed"
        mkdir "$tmp/resumed"
        cp -R "$tmp/straight/checkpoint-$step" "$tmp/straight/train_log.jsonl" "$tmp/resumed"
        if train "$tmp/resumed" --threads 2 "$@" --resume-from-checkpoint last; then
            same "$what-resumed-at-$step" "$tmp/straight" "$tmp/resumed"
        else
            not_ok "$what-resumed-at-$step" "exit status $?"
        fi
    done
    if train "$tmp/single" --threads 1 "$@"; then
        same "$what-on-one-thread" "$tmp/straight" "$tmp/single"
    else
        not_ok "$what-on-one-thread" "exit status $?"
    fi
}

# shellcheck disable=SC2086 # words
{
    check lora $token_data $lora
    resume_at=3
    check lora-accumulated $token_data $lora --grad-accum 2
    check qlora $token_data $lora --load-in-4bit --use-nested-quant --grad-accum 2
    check lora-8bit-optimizer $token_data $lora --lora-r 64 --optim adamw_8bit
    check full-accumulated $token_data $full --grad-accum 2 --weight-decay 0.1
    check text $text_data $lora
    check text-accumulated $text_data $lora --grad-accum 2 --val-split 0.2 --eval-strategy steps --eval-steps 2
    check packed $text_data $lora --packing
    check packed-qlora-accumulated $text_data $lora --packing --load-in-4bit --grad-accum 2
    check packed-full $text_data $full --packing --gradient-checkpointing true
}

# ---- a checkpoint of another run ----
# refuse NAME WORD ARGUMENT...: resuming the LoRA run with something changed.
refuse()
{
    what=$1 word=$2
    shift 2
    # shellcheck disable=SC2086 # words
    train "$tmp/other" $token_data $lora --resume-from-checkpoint "$tmp/base/checkpoint-3" "$@"
    status=$?
    if [ $status = 2 ] && [ "$(wc -l <"$tmp/err")" = 1 ] && grep -q "differs in $word: it had .*, this one has " "$tmp/err"; then
        ok "$what"
    else
        not_ok "$what" "exit status $status, or stderr does not say what differs"
    fi
}
# shellcheck disable=SC2086 # words
train "$tmp/base" $token_data $lora || not_ok base-run "exit status $?"
refuse another-seed seed --seed 7
refuse another-rank names_and_shapes_of_parameters --lora-r 8
refuse another-alpha scaling_and_dropout_of_adapters --lora-alpha 5
refuse another-rate learning_rate --lr 0.1
refuse another-end max_steps --max-steps 9
refuse another-accumulation micro_batches_per_epoch\\\|gradient_accumulation_steps --grad-accum 2
refuse another-precision formats_of_base_weights --load-in-4bit

# ---- CPU variants ----
# near LOG LOG: losses within 1e-4.
near()
{
    sed 's/.*"loss": \([^,}]*\).*/\1/' "$1" >"$tmp/a"
    sed 's/.*"loss": \([^,}]*\).*/\1/' "$2" | paste "$tmp/a" - |
        awk '{ d = $1 - $2; if (d > 1e-4 || d < -1e-4) bad = 1 } END { exit bad || NR < 8 }'
}
case $(sed -n 's/^ARCH = //p' "${LT_BUILD:-.}/config.mk") in
aarch64) kernels='ref neon' ;;
*) kernels='ref avx2 avx512' ;;
esac
for method in "$lora" "$lora --load-in-4bit" "$full"; do
    name=lora
    case $method in
    *4bit) name=qlora ;;
    *full*) name=full ;;
    esac
    for cpu in $kernels; do
        rm -rf "$tmp/$cpu"
        LT_CPU=$cpu
        export LT_CPU
        # shellcheck disable=SC2086 # words
        train "$tmp/$cpu" $token_data $method
        status=$?
        unset LT_CPU
        if [ $status != 0 ] && [ $cpu != ref ] && [ "$(wc -l <"$tmp/err")" = 1 ] && grep -q "$cpu" "$tmp/err"; then
            skip "$name-on-$cpu" "$(sed 's/^lora-train: //' "$tmp/err")"
        elif [ $status != 0 ]; then
            not_ok "$name-on-$cpu" "exit status $status"
        elif near "$tmp/ref/train_log.jsonl" "$tmp/$cpu/train_log.jsonl"; then
            ok "$name-on-$cpu"
        else
            not_ok "$name-on-$cpu" 'the losses are not those of LT_CPU=ref'
        fi
    done
done
finish
