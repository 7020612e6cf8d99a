#!/bin/sh
# The options of lora-train: other spellings, configuration files, what is shown, --plan and --dump-step.
. "$LT_SRCDIR/tests/support/e2e.sh"

cd "$tmp" || exit 1
make_model m
make_rows rows.jsonl 24

train()
{
    lora-train "$@" >"$tmp/stdout" 2>"$tmp/err" </dev/null
}

# in_force NAME VALUE...: whether the summary shows these, each as option=value.
in_force()
{
    what=$1
    shift
    for item in "$@"; do
        if ! tr -s ' \n' '\n\n' <"$tmp/stdout" | grep -qxF -e "$item"; then
            not_ok "$what" "the summary does not show $item"
            return
        fi
    done
    ok "$what"
}

# plan NAME VALUE... -- ARGUMENT...
plan()
{
    what=$1
    shift
    values=
    while [ "$1" != -- ]; do
        values="$values $1"
        shift
    done
    shift
    if train --plan "$@"; then
        # shellcheck disable=SC2086 # words
        in_force "$what" $values
    else
        not_ok "$what" "exit status $?"
    fi
}

# ---- other spellings ----
plan transformers-names model=m learning-rate=0.001 per-device-train-batch-size=3 gradient-accumulation-steps=2 \
    max-grad-norm=0.5 lr-scheduler-type=linear max-steps=9 -- \
    --model_name_or_path m --pretokenized "$batches" --learning_rate 1e-3 --per_device_train_batch_size=3 \
    --gradient_accumulation_steps 2 --max_grad_norm .5 --lr_scheduler_type linear --max_steps 9
plan short-names learning-rate=0.01 per-device-train-batch-size=3 gradient-accumulation-steps=4 lora-r=4 \
    num-train-epochs=1.0 -- \
    --base-model m --pretokenized "$batches" --lr 0.01 --batch-size 3 --grad-accum 4 --lora-rank 4 --epochs 1
plan peft-names lora-r=4 lora-alpha=8.0 lora-dropout=0.1 lora-target-modules=q_proj,v_proj use-rslora=true bias=all -- \
    --model m --pretokenized "$batches" --lora_r=4 --lora_alpha 8 --lora_dropout .1 --target_modules q_proj,v_proj \
    --use_rslora --lora_bias all
plan bitsandbytes-names load-in-4bit=true bnb-4bit-use-double-quant=true bnb-4bit-quant-type=fp4 \
    compute-dtype=bfloat16 -- \
    --model m --pretokenized "$batches" --use_4bit --use_bnb_nested_quant --bnb_4bit_quant_type fp4 \
    --bnb_4bit_compute_dtype bfloat16
plan flags-with-values packing=true train-on-inputs=true load-in-4bit=false logging-first-step=false -- \
    --model m --data rows.jsonl --packing True --train-on-inputs=1 --load_in_4bit false --no-logging-first-step
plan last-one-counts lora-r=8 -- --model m --pretokenized "$batches" --lora-r 4 --lora_rank 8
plan switch-before-option gradient-checkpointing=true lora-r=2 -- \
    --model m --pretokenized "$batches" --gradient_checkpointing --lora-r 2

# A share of the steps: 0.25 of 8 is 2, so that the rates of a linear schedule are 1/2, 1, 5/6 … of the peak.
if train --model m --pretokenized "$batches" --output-dir out --max-steps 8 --logging-steps 1 --warmup-steps 0.25 \
    --lr-scheduler-type linear --learning-rate 0.6 --lora-r 2 --save-strategy no; then
    rates=$(sed 's/.*"learning_rate": \([^,]*\),.*/\1/' out/train_log.jsonl | awk '{ printf "%s%.3f", (NR > 1 ? " " : ""), $1 }')
    if [ "$rates" = '0.000 0.300 0.600 0.500 0.400 0.300 0.200 0.100' ]; then
        ok warmup-share
    else
        not_ok warmup-share "the rates are $rates"
    fi
else
    not_ok warmup-share "exit status $?"
fi

# ---- configuration files ----
cat >c.yaml <<'END'
# A comment.
model_name_or_path: m
lora_r: 4
lora-alpha: 12.5
target_modules: [q_proj, v_proj]
packing: yes
lr: 1e-3
seed: null
output_dir: "from-yaml"
END
cat >c.json <<'END'
{"model": "m", "lora_r": 4, "lora_alpha": 12.5, "target_modules": ["q_proj", "v_proj"],
 "packing": true, "learning_rate": 0.001, "seed": null, "output_dir": "from-json"}
END
for kind in yaml json; do
    plan "$kind-file" lora-r=4 lora-alpha=12.5 lora-target-modules=q_proj,v_proj packing=true learning-rate=0.001 \
        seed=42 output-dir=from-$kind -- --config c.$kind --data rows.jsonl
    plan "flags-over-$kind" lora-r=2 lora-target-modules=o_proj packing=false learning-rate=0.01 output-dir=flag -- \
        --lora-r 2 --no-packing --config c.$kind --data rows.jsonl --target-modules o_proj --lr 0.01 --output-dir flag
done
[ ! -e from-yaml ] && [ ! -e from-json ] && [ ! -e flag ] && ok plan-writes-nothing ||
    not_ok plan-writes-nothing 'there is an output folder'

# ---- what is shown ----
# A folder that was used before: said, and the checkpoints of before stay.
for again in 0 1; do
    train --model m --data rows.jsonl --output-dir used --max-steps $((2 - again)) --lora-r 2 --max-length 60
done
if grep -q "warning: used/checkpoint-2 is of an earlier run" err && [ -d used/checkpoint-1 ] && [ -d used/checkpoint-2 ]; then
    ok earlier-run
else
    not_ok earlier-run 'not said, or a checkpoint is missing'
fi
if grep -q 'warning: rows.jsonl: [0-9]* of 24 rows are longer than --max-length 60 and were cut' err; then
    ok rows-cut
else
    not_ok rows-cut 'stderr does not say so'
fi

if train --plan --model m --pretokenized "$batches" --lora-r 4 --load-in-4bit --max-steps 7 --threads 1; then
    awk '
    function bytes(n, unit) {
        return n * (unit == "KiB" ? 1024 : unit == "MiB" ? 1024 ^ 2 : unit == "GiB" ? 1024 ^ 3 : 1)
    }
    /^Memory plan/ { plan = 1; next }
    /^Options in force/ { plan = 0 }
    plan && $1 == "peak" { peak = bytes($2, $3); next }
    plan && !/not in the peak/ { for (i = 1; i < NF; i++) if ($(i + 1) ~ /^([KMG]iB|B)$/) sum += bytes($i, $(i + 1)) }
    END { exit !(peak > 0 && sum > 0.98 * peak && sum < 1.02 * peak) }' stdout &&
        ok plan-adds-up || not_ok plan-adds-up 'the lines do not add up to the peak'
    grep -q '^Schedule   7 steps of 1 x 4 rows, 100 steps an epoch$' stdout &&
        ok rows-of-the-file || not_ok rows-of-the-file "$(grep '^Schedule' stdout)"
    grep -q '^Method     LoRA r=4 alpha=32, 4-bit NF4 base: .* trainable' stdout &&
        ok method-shown || not_ok method-shown "$(grep '^Method' stdout)"
else
    not_ok plan-shown "exit status $?"
fi
plan rows-of-a-dataset -- --model m --data rows.jsonl --batch-size 5 --grad-accum 2 --epochs 1
grep -q '^Schedule   3 steps of 2 x 5 rows, 3 steps an epoch$' stdout &&
    ok schedule-shown || not_ok schedule-shown "$(grep '^Schedule' stdout)"
plan packed-rows -- --model m --data rows.jsonl --packing --max-length 128
grep -q '^Data       24 rows packed into [0-9]* sequences, ' stdout &&
    ok packing-shown || not_ok packing-shown "$(grep '^Data' stdout)"
missing=
lora-train --help >help
for name in model data output-dir lora-r learning-rate config plan dump-step resume-from-checkpoint; do
    grep -q "^  --$name " help || missing="$missing $name"
done
if [ -n "$missing" ]; then
    not_ok help "does not name$missing"
elif lora-train --version | grep -q '^lora-train [0-9]'; then
    ok help
else
    not_ok help '--version does not print the version'
fi

# ---- the dump of the first step ----
# tensors FILE: names in a safetensors header.
tensors()
{
    size=$(od -An -t u4 -N 4 "$1" | tr -d ' ')
    dd if="$1" bs=1 skip=8 count="$size" 2>/dev/null | tr '{' '\n' | sed -n 's/.*"\([^"]*\)": *$/\1/p' | grep -v '^__metadata__$'
}
# expect NAME: the dump holds logits, loss and the tensors on stdin, and nothing else.
expect()
{
    { printf 'logits\nloss\n' && cat; } | sort >wanted
    tensors dump.safetensors | sort >found
    if [ ! -s wanted ] || ! cmp -s wanted found; then
        not_ok "$1" "$(diff wanted found | grep '^[<>]' | head -n 3 | tr '\n' ' ')"
    else
        ok "$1"
    fi
}
rm -rf none
if train --model m --pretokenized "$batches" --dump-step dump.safetensors --lora-r 2 --output-dir none; then
    awk 'BEGIN {
        split("self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj mlp.gate_proj mlp.up_proj mlp.down_proj", m)
        for (l = 0; l < 3; l++) for (i = 1; i in m; i++) for (k = 0; k < 2; k++)
            printf "base_model.model.model.layers.%d.%s.lora_%s.weight\n", l, m[i], k ? "A" : "B"
    }' | expect dump-of-lora
    [ ! -e none ] && ok dump-writes-nothing-else || not_ok dump-writes-nothing-else 'there is an output folder'
else
    not_ok dump-of-lora "exit status $?"
fi
if train --model m --pretokenized "$batches" --dump-step dump.safetensors --full-finetune; then
    tensors m/model.safetensors | expect dump-of-full
else
    not_ok dump-of-full "exit status $?"
fi
finish
