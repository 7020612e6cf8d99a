#!/bin/sh
# lora-convert and the cache of quantized weights: the same numbers from the converted folder, from the cache and from
# quantizing in memory; folders that appear whole or not at all.
. "$LT_SRCDIR/tests/support/e2e.sh"

convert()
{
    lora-convert "$@" >"$tmp/out" 2>"$tmp/err" </dev/null
}

# logits FILE OPTIONS...: of the golden batches.
logits()
{
    file=$1
    shift
    lora-eval --pretokenized "$batches" --dump-logits "$file" "$@" >"$tmp/out" 2>"$tmp/err" </dev/null
}

for name in llama-tiny gpt2-tiny; do
    for options in '--quantize nf4' '--quantize fp4 --double-quant' '--quantize int8'; do
        case $options in
        *int8*) load=--load-in-8bit form=int8 ;;
        *fp4*) load='--load-in-4bit --bnb-4bit-quant-type fp4 --bnb-4bit-use-double-quant' form=fp4 ;;
        *) load=--load-in-4bit form=nf4 ;;
        esac
        rm -rf "$tmp/converted"
        # shellcheck disable=SC2086 # words
        if ! convert --model "$golden/$name" $options --output-dir "$tmp/converted"; then
            not_ok "$name-$form" 'conversion failed'
        elif ! logits "$tmp/a" --model "$golden/$name" $load --quantized-cache off ||
            ! logits "$tmp/b" --model "$tmp/converted"; then
            not_ok "$name-$form" 'evaluation failed'
        elif ! cmp -s "$tmp/a" "$tmp/b"; then
            not_ok "$name-$form" 'other logits than quantized in memory'
        elif [ -n "$(leftovers "$tmp")" ]; then
            not_ok "$name-$form" 'left behind:' "$(leftovers "$tmp")"
        else
            ok "$name-$form"
        fi
    done
done

# Training decodes 8-bit weights: the first steps are nearly those of the unquantized base.
lora-train --model "$golden/llama-tiny" --pretokenized "$batches" --load-in-8bit --max-steps 3 --logging-steps 1 \
    --output-dir "$tmp/int8" >"$tmp/out" 2>"$tmp/err" &&
    lora-train --model "$golden/llama-tiny" --pretokenized "$batches" --max-steps 3 --logging-steps 1 \
        --output-dir "$tmp/plain" >"$tmp/out" 2>"$tmp/err" &&
    paste -d' ' "$tmp/int8/train_log.jsonl" "$tmp/plain/train_log.jsonl" | sed 's/[^0-9.e-]*"loss": /\n/g' |
    awk '/^[0-9]/ { v = $1 + 0; if (n++ % 2) { d = v - last; if (d < 0) d = -d; if (d > 0.02) bad = 1 } last = v }
        END { exit bad || n != 6 }' &&
    ok train-int8 || not_ok train-int8 'other losses than with the unquantized base'
if lora-train --model "$golden/llama-tiny" --pretokenized "$batches" --load-in-8bit --load-in-4bit --plan \
    >"$tmp/out" 2>"$tmp/err" || [ $? != 2 ] || ! grep -q 'exclude each other' "$tmp/err"; then
    not_ok four-and-eight 'not refused'
else
    ok four-and-eight
fi

# ---- the cache ----

make_model "$tmp/model"
cached="$tmp/cache/model-nf4-*"
logits "$tmp/a" --model "$tmp/model" --load-in-4bit && [ ! -d "$tmp/cache" ] && [ ! -s "$tmp/err" ] &&
    ok cache-auto-writes-nothing || not_ok cache-auto-writes-nothing ''
logits "$tmp/b" --model "$tmp/model" --load-in-4bit --quantized-cache on &&
    grep -q "^lora-eval: quantized weights from $tmp/cache/model-nf4-.*KiB" "$tmp/err" &&
    [ "$(wc -l <"$tmp/err")" = 1 ] && cmp -s "$tmp/a" "$tmp/b" &&
    ok cache-on || not_ok cache-on 'not written and announced in one line, or other logits'
logits "$tmp/b" --model "$tmp/model" --load-in-4bit && grep -q 'quantized weights from' "$tmp/err" &&
    cmp -s "$tmp/a" "$tmp/b" && ok cache-auto-uses || not_ok cache-auto-uses 'not used, or other logits'
logits "$tmp/b" --model "$tmp/model" --load-in-4bit --quantized-cache off && [ ! -s "$tmp/err" ] &&
    ok cache-off || not_ok cache-off 'used'
logits "$tmp/b" --model "$tmp/model" --load-in-4bit --cache-dir "$tmp/elsewhere" --quantized-cache on &&
    [ -d "$tmp/elsewhere" ] && cmp -s "$tmp/a" "$tmp/b" &&
    ok cache-dir || not_ok cache-dir ''

lora-train --model "$tmp/model" --pretokenized "$batches" --load-in-4bit --max-steps 3 --save-steps 2 --lora-r 2 \
    --output-dir "$tmp/run" --quantized-cache off >"$tmp/out" 2>"$tmp/err" &&
    lora-train --model "$tmp/model" --pretokenized "$batches" --load-in-4bit --max-steps 3 --lora-r 2 \
        --output-dir "$tmp/resumed" --resume-from-checkpoint "$tmp/run/checkpoint-2" >"$tmp/out" 2>"$tmp/err" &&
    grep -q 'quantized weights from' "$tmp/err" &&
    cmp "$tmp/run/adapter_model.safetensors" "$tmp/resumed/adapter_model.safetensors" &&
    ok resume-with-cache || not_ok resume-with-cache 'other bytes than without the cache'

rm -rf "$tmp/cache"
for i in 1 2 3; do
    lora-eval --pretokenized "$batches" --dump-logits "$tmp/at-once-$i" --model "$tmp/model" --load-in-4bit \
        --quantized-cache on >/dev/null 2>&1 </dev/null &
done
wait
same=0
for i in 1 2 3; do
    cmp -s "$tmp/a" "$tmp/at-once-$i" && same=$((same + 1))
done
# shellcheck disable=SC2086 # a pattern
if [ $same = 3 ] && [ "$(ls -d $cached | grep -vc lock)" = 1 ] && [ -z "$(leftovers "$tmp/cache")" ]; then
    ok cache-at-once
else
    not_ok cache-at-once "$same of 3 agree"
fi

# A damaged file of the cache is an error that names it.
# shellcheck disable=SC2086 # a pattern
for file in $cached/model.safetensors; do
    head -c 5000 "$file" >"$tmp/short" && cp "$tmp/short" "$file"
done
if logits "$tmp/b" --model "$tmp/model" --load-in-4bit || ! grep -q "$tmp/cache/model-nf4" "$tmp/err"; then
    not_ok damaged-cache 'not refused by name'
else
    ok damaged-cache
fi

# ---- mistakes ----

# refused NAME STATUS WORDS OPTIONS...
refused()
{
    name=$1 expected=$2 words=$3
    shift 3
    convert "$@"
    status=$?
    if [ $status != "$expected" ]; then
        not_ok "$name" "exit status $status"
    elif [ "$(wc -l <"$tmp/err")" != 1 ] || ! grep -q -e "$words" "$tmp/err"; then
        not_ok "$name" "not one line with: $words"
    elif [ -e "$tmp/none" ] || [ -n "$(leftovers "$tmp")" ]; then
        not_ok "$name" 'something is left'
    else
        ok "$name"
    fi
}

set -- --output-dir "$tmp/none"
refused no-model 2 '--model is missing' --quantize nf4 "$@"
refused no-form 2 '--quantize is missing' --model "$tmp/model" "$@"
refused no-output 2 '--output-dir is missing' --model "$tmp/model" --quantize nf4
refused bad-size 2 'no size such as' --model "$tmp/model" --quantize nf4 --max-shard-size 5XB "$@"
refused taken 2 'name another' --model "$tmp/model" --quantize nf4 --output-dir "$tmp/model"
refused quantized-twice 2 'quantized already' --model "$tmp/converted" --quantize nf4 "$@"
replace "$tmp/model/config.json" 's/"hidden_size": 64/"hidden_size": 65/'
refused wrong-shape 1 'has shape' --model "$tmp/model" --quantize nf4 "$@"
make_model "$tmp/model"
head -c 100000 "$golden/llama-tiny/model.safetensors" >"$tmp/model/model.safetensors"
refused truncated 1 'model.safetensors' --model "$tmp/model" --quantize nf4 "$@"
finish
