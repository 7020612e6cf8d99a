#!/bin/sh
# --memory-limit, --weights, --accumulation-order, --boundaries: what is chosen, what is refused, and that every choice
# ends in the same bytes, also after an interruption.
. "$LT_SRCDIR/tests/support/e2e.sh"

cd "$tmp" || exit 1
steps=12

# train DIR ARGUMENT...
run=
train()
{
    dir=$1
    shift
    $run lora-train --model "$golden/llama-tiny" --pretokenized "$batches" --output-dir "$dir" --lora-r 2 \
        --lora-dropout 0.1 --max-steps $steps --gradient-accumulation-steps 5 --threads 1 --device cpu "$@" >"$tmp/stdout" \
        2>"$tmp/err" </dev/null
}

# same NAME ARGUMENT...: a run with these ends as the one without.
same()
{
    what=$1
    shift
    rm -rf "$tmp/out"
    if ! train "$tmp/out" "$@"; then
        not_ok "$what" "exit status $?"
    elif cmp -s straight/adapter_model.safetensors out/adapter_model.safetensors &&
        cmp -s straight/checkpoint-$steps/optimizer.safetensors out/checkpoint-$steps/optimizer.safetensors; then
        ok "$what"
    else
        not_ok "$what" "other bytes than without $*"
    fi
}

# chosen NAME WORDS: the summary of the last run says so.
chosen()
{
    if grep '^Memory  ' "$tmp/stdout" | grep -qF -e "$2"; then
        ok "$1"
    else
        not_ok "$1" "the summary says: $(grep '^Memory  ' "$tmp/stdout")"
    fi
}

# refused NAME WORDS ARGUMENT...: exit status 2 and one sentence with these words.
refused()
{
    what=$1
    words=$2
    shift 2
    train "$tmp/refused" "$@"
    status=$?
    if [ $status = 2 ] && [ "$(grep -c . "$tmp/err")" = 1 ] && grep -qF -e "$words" "$tmp/err"; then
        ok "$what"
    else
        not_ok "$what" "exit status $status, $words not in the message"
    fi
}

train straight --weights mmap || {
    not_ok straight-run "exit status $?"
    finish
}
chosen mmap 'weights mapped from the file'
same automatic
chosen automatic-is-resident 'weights in memory'
same resident --weights resident
same stream --weights stream
chosen stream-goes-layer-by-layer 'weights read from the file layer by layer, all micro-batches layer by layer'
same stream-micro-batches --weights stream --accumulation-order micro-batch
same layer-major --accumulation-order layer --gradient-checkpointing true
same boundaries-in-a-file --accumulation-order layer --boundaries file
same smallest --weights stream --boundaries file --gradient-checkpointing true --optim paged_adamw_32bit

# 4-bit weights from the cache, where they were quantized before.
mv straight straight-full
train straight --load-in-4bit --weights mmap --quantized-cache off
same stream-quantized --load-in-4bit --weights stream --cache-dir "$tmp/cache"
refused stream-needs-the-cache '--quantized-cache on' --load-in-4bit --weights stream --quantized-cache off
rm -rf straight
mv straight-full straight

# ---- limits ----
# A little more than the plan that computes layers twice takes; the other half a MiB more.
train straight-plan --plan --weights mmap --gradient-checkpointing true
limit=$(awk '$1 == "peak" && $3 == "MiB" { print $2 + 0.3 "M" }' "$tmp/stdout")
if sanitized; then
    skip limit 'the sanitizer has memory of its own'
else
    same limit --memory-limit "$limit"
    chosen limit-computes-twice 'layers computed twice'
fi
same limit-large --memory-limit 1.5GiB
chosen limit-large-is-resident '1.50 GiB (--memory-limit): weights in memory'
same limit-and-setting --memory-limit 1g --weights stream
chosen limit-and-setting-stays 'weights read from the file'
refused limit-too-small "--memory-limit 100 KiB is too little" --memory-limit 100k
refused limit-no-size '--memory-limit 8X is no size' --memory-limit 8X
refused limit-empty 'is no size' --memory-limit ''
refused limit-names-a-line "of which '" --memory-limit 1k
refused stream-full '--weights stream: only frozen weights' --full-finetune --weights stream

# ---- interrupted in the middle of a step ----
steps=200
train straight --weights mmap
run=exec
for setting in stream file; do
    (
        case $setting in
        stream) train "$tmp/$setting" --weights stream --logging-steps 1 ;;
        file) train "$tmp/$setting" --accumulation-order layer --boundaries file --logging-steps 1 ;;
        esac
    ) &
    pid=$!
    started="$started $pid"
    nap 1
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        [ ! -s "$tmp/$setting/train_log.jsonl" ] || break
        nap 0.5
    done
    kill -INT $pid
    wait $pid
    status=$?
    if [ $status != 130 ]; then
        not_ok "interrupted-$setting" "exit status $status"
        continue
    fi
    run=
    same_dir=$tmp/$setting
    if train "$same_dir" --resume-from-checkpoint last &&
        cmp -s straight/adapter_model.safetensors "$same_dir/adapter_model.safetensors"; then
        ok "interrupted-$setting"
    else
        not_ok "interrupted-$setting" "the resumed run ended in other bytes"
    fi
    run=exec
done
finish
