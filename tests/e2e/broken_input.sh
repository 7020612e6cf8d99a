#!/bin/sh
# What lora-train says about input that is not right: exit status (2: the command line, 1: anything else), one
# sentence on stderr that names the thing, and nothing half-written in the output folder.
. "$LT_SRCDIR/tests/support/e2e.sh"

cd "$tmp" || exit 1
model=$golden/llama-tiny

# Whether stderr is one line of the program that holds all of WORDS (separated by |).
says()
{
    [ "$(wc -l <"$tmp/err")" = 1 ] || return 1
    rest=$1
    while [ -n "$rest" ]; do
        word=${rest%%|*}
        case $rest in
        *'|'*) rest=${rest#*|} ;;
        *) rest= ;;
        esac
        grep -qF -e "$word" "$tmp/err" || return 1
    done
    grep -q '^lora-train: ' "$tmp/err"
}

# refuse NAME STATUS WORDS ARGUMENT...
refuse()
{
    what=$1
    want=$2
    words=$3
    shift 3
    rm -rf "$tmp/out"
    lora-train "$@" >"$tmp/stdout" 2>"$tmp/err" </dev/null
    got=$?
    left=$(find "$tmp/out" -type f 2>/dev/null)
    if [ $got != "$want" ]; then
        not_ok "$what" "exit status $got, not $want"
    elif ! says "$words"; then
        not_ok "$what" "stderr is not one line that says: $words"
    elif [ -n "$left" ]; then
        not_ok "$what" "left behind:" $left
    elif [ -s "$tmp/stdout" ]; then
        not_ok "$what" "stdout is not empty: found out too late"
    else
        ok "$what"
    fi
}

# with_model, with_data, with_options: refuse, and the rest of a command line that is right.
with_model()
{
    what=$1 want=$2 words=$3
    shift 3
    refuse "$what" "$want" "$words" --model "$tmp/m" --pretokenized "$batches" --output-dir "$tmp/out" "$@"
}

with_data()
{
    what=$1 want=$2 words=$3
    shift 3
    refuse "$what" "$want" "$words" --model "$tmp/m" --data d.jsonl --output-dir "$tmp/out" "$@"
}

# edited_config NAME STATUS WORDS SED-SCRIPT
edited_config()
{
    make_model m
    replace m/config.json "$4"
    with_model "$1" "$2" "$3"
}

# ---- models ----
for size in 0 4 400 300000; do
    make_model m
    head -c $size "$model/model.safetensors" >m/model.safetensors
    with_model "model-of-$size-bytes" 1 "m/model.safetensors: "
done
make_model m
printf '\377\377\377\377\377\377\377\177' | dd of=m/model.safetensors conv=notrunc 2>/dev/null
with_model model-with-absurd-header 1 "m/model.safetensors: "
edited_config other-hidden-size 1 'model.embed_tokens.weight|[320, 64]|[320, 48]|config.json' \
    's/"hidden_size": 64/"hidden_size": 48/; s/"head_dim": 16/"head_dim": 12/'
edited_config other-vocabulary 1 'model.embed_tokens.weight|[256, 64]' 's/"vocab_size": 320/"vocab_size": 256/'
edited_config missing-layer 1 'tensor model.layers.3.|is missing|incomplete' \
    's/"num_hidden_layers": 3/"num_hidden_layers": 4/'
edited_config unknown-architecture 1 'MambaForCausalLM|not supported|LlamaForCausalLM' 's/LlamaFor/MambaFor/'
edited_config unknown-rope-type 1 'config.json|"spiral"' 's/"rope_type": "default"/"rope_type": "spiral"/'
edited_config sliding-window 1 'config.json|sliding_window is 32' 's/"mlp_bias": false/"sliding_window": 32/'
edited_config unknown-activation 1 'config.json|hidden_act is "sine"|silu' 's/"silu"/"sine"/'
edited_config config-of-wrong-type 1 'config.json|hidden_size|an integer|a string' \
    's/"hidden_size": 64/"hidden_size": "64"/'
edited_config config-no-json 1 'config.json|line 3' '3s/"/x/'
make_model m
: >m/pytorch_model.bin
rm m/model.safetensors
with_model pickle-only 1 'pickled (pytorch_model.bin)|save_pretrained'
rm m/pytorch_model.bin
with_model no-weights 1 'm: no weights|model.safetensors'
make_model m
rm m/config.json
with_model no-config 1 'm: no config.json|give the folder'
with_model no-such-folder 1 'no/such/folder|no such folder|hf download' --model no/such/folder
with_model model-not-downloaded 1 'some-org/some-model|hf download some-org/some-model' --model some-org/some-model
with_model model-is-a-file 2 'm/tokenizer.json: is a file|folder' --model "$tmp/m/tokenizer.json"

# ---- data ----
make_model m
# rows NAME WORDS TEXT-FOR-PRINTF ARGUMENT...
rows()
{
    # shellcheck disable=SC2059 # escapes
    printf "$3" >d.jsonl
    what=$1 words=$2
    shift 3
    with_data "$what" 1 "$words" "$@"
}
good='{"text":"abc"}\n'
rows not-utf-8 'd.jsonl:2: not UTF-8 at byte 10|save the file as UTF-8' "$good"'{"text":"b\377c"}\n'
rows row-no-json 'd.jsonl:2: not valid JSON' "$good"'{"text": oops}\n'
rows row-cut-off 'd.jsonl:3: not valid JSON' "$good$good"'{"text":"abc'
rows field-of-wrong-type 'd.jsonl:3: text must be a string, found an integer' "$good"'\n{"text":7}\n'
rows unknown-fields 'd.jsonl:1: |outptu|needed: instruction and output' '{"instruction":"a","outptu":"b"}\n'
rows mixed-kinds 'd.jsonl:2: |prompt and completion|line 1 has text' "$good"'{"prompt":"a","completion":"b"}\n'
rows no-object 'd.jsonl:1: a row must be a JSON object' '[1,2]\n'
rows open-array "d.jsonl:|']'" '[{"text":"a"},'
rows empty-file 'd.jsonl: there are no rows' ''
rows blank-file 'd.jsonl: there are no rows' '\n\n'
rows rows-too-long 'd.jsonl: none of the 1 rows|first 8 tokens|raise the maximum length' \
    '{"instruction":"a long instruction that goes on","output":"x"}\n' --max-length 8
rows rows-all-masked 'd.jsonl: none of the 1 rows|labels' '{"input_ids":[1,2,3],"labels":[-100,-100,-100]}\n'
rows id-beyond-vocabulary 'd.jsonl:1: input_ids[2] is 999|vocabulary of 320' '{"input_ids":[1,2,999]}\n'
rows no-chat-template 'd.jsonl:1: |chat template|--chat-template' \
    '{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"yo"}]}\n'
with_model no-data-file 1 "'nosuch.jsonl'" --pretokenized nosuch.jsonl
printf '%b' "$good" >d.jsonl
refuse no-tokenizer 1 'no tokenizer|tokenizer.json' --model "$model" --data d.jsonl --output-dir "$tmp/out"
make_pretokenized masked.safetensors 4 8 ignored
with_model pretokenized-all-masked 2 'no token of the training data is a target' --pretokenized masked.safetensors
make_pretokenized cut.safetensors 4 8 zero
head -c 300 cut.safetensors >cut && mv cut cut.safetensors
with_model pretokenized-cut-off 1 'cut.safetensors: ' --pretokenized cut.safetensors
with_model pretokenized-of-another-kind 1 'lm_head.weight is not read|input_ids' --pretokenized "$model/model.safetensors"

# ---- command line ----
with_model unknown-option 2 'unknown option --lora_rr|did you mean --lora-r?|--help' --lora_rr 4
with_model unknown-alias 2 'unknown option --batchsize|did you mean --per-device-train-batch-size?' --batchsize=4
with_model far-option 2 'unknown option --zzzzzzzzzz|--help lists all' --zzzzzzzzzz
with_model stray-word 2 "'foo'|options begin with --" foo
with_model not-a-number 2 "--lora-r: 'abc' is not a whole number" --lora-r abc
with_model not-whole 2 "--lora-r: '1.5' is not a whole number" --lora-r 1.5
with_model no-real-number 2 "--learning-rate: 'nan' is not a number" --lr 0 --learning-rate nan
with_model below-range 2 '--lora-r: 0 is out of range|1 to 65536' --lora-r 0
with_model above-range 2 '--lora-dropout: 1 is out of range|0 to 0.95' --lora-dropout 1
with_model beyond-64-bits 2 '--max-steps: 99999999999999999999 is out of range' --max-steps 99999999999999999999
with_model no-choice 2 "--lr-scheduler-type: 'cosin' is not one of linear,cosine" --lr-scheduler-type cosin
with_model no-truth-value 2 "--packing: 'maybe' is neither true nor false" --packing=maybe
with_model value-missing 2 '--lora-r needs a value' --lora-r
with_model value-is-an-option 2 '--init-adapter needs a value, but --lora-r follows' --init-adapter --lora-r 4
with_model save-steps-with-a-fraction 2 'save_steps is 2.5|whole number' --save-steps 2.5
refuse no-model 2 '--model is missing' --pretokenized "$batches" --output-dir "$tmp/out"
refuse empty-model 2 '--model is missing' --model '' --pretokenized "$batches" --output-dir "$tmp/out"
refuse no-data 2 '--data is missing' --model m --output-dir "$tmp/out"
refuse no-output-dir 2 '--output-dir is missing' --model m --pretokenized "$batches"
with_model two-sources 2 '--data and --pretokenized exclude each other' --data d.jsonl
with_model two-evaluations 2 '--eval-data|--val-split exclude each other' --eval-data d.jsonl --val-split 0.1
with_model packing-of-tokens 2 '--packing need|--data' --packing
with_model full-in-4-bits 2 '--full-finetune|--load-in-4bit' --full-finetune --load-in-4bit
with_model full-and-adapter 2 '--full-finetune and --init-adapter' --full-finetune --init-adapter "$golden/lora/adapter"
with_model result-over-the-model 2 "--output-dir is the model's own folder" --full-finetune --output-dir "$tmp/m"
with_model evaluation-of-nothing 2 '--eval-strategy steps needs --eval-data' --eval-strategy steps
with_model unknown-module 2 '"nothing"|q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj' \
    --target-modules nothing
with_model bad-expression 2 'regular expression ".*(q_proj"' --target-modules '.*(q_proj'

# ---- configuration files ----
# config FILE NAME WORDS TEXT-FOR-PRINTF
config()
{
    # shellcheck disable=SC2059 # escapes
    printf "$4" >"$1"
    with_model "$2" 2 "$3" --config "$1"
}
config c.json json-unknown-key 'c.json:3: unknown option lora_rr|did you mean lora-r?' '{"lora_r": 4,\n "seed": 1,\n "lora_rr": 5}\n'
config c.yaml yaml-unknown-key 'c.yaml:4: unknown option learnin_rate|learning-rate' 'lora_r: 4\n\nseed: 1\nlearnin_rate: 5\n'
config c.yaml yaml-broken 'c.yaml:2: ' 'lora_r: [4\nseed: 5\n'
config c.yaml yaml-tab 'c.yaml:2: |tab' 'lora_r: 4\n\tseed: 5\n'
config c.json json-broken 'c.json: |line 2' '{"lora_r": 4\n "seed": 5}\n'
config c.yaml yaml-bad-number "c.yaml:2: lora-r: 'many' is not a whole number" 'seed: 1\nlora_r: many\n'
config c.yaml yaml-out-of-range 'c.yaml:2: lora-r: 0 is out of range' 'seed: 1\nlora_r: 0\n'
config c.yaml yaml-nested 'c.yaml:1: lora-r takes a value' 'lora_r:\n  deep: 1\n'
config c.yaml yaml-twice 'c.yaml:2: lora-r is set a second time|line 1' 'lora_r: 4\nlora-rank: 5\n'
config c.yaml yaml-list 'c.yaml:1: expected `option: value` pairs' '\055 lora_r\n'
with_model no-config-file 2 "--config: |'nosuch.yaml'" --config nosuch.yaml

# ---- output folder ----
: >file
with_model output-is-a-file 1 "'file'|a file of that name is in the way" --output-dir file
with_model output-below-a-file 1 "'file'|in the way" --output-dir file/deep
with_model output-in-proc 1 "'/proc/self/no-such-place'" --output-dir /proc/self/no-such-place

# ---- adapters ----
fresh_adapter()
{
    rm -rf a
    mkdir a
    cp "$golden/lora/adapter/"* a
}
with_adapter()
{
    with_model "$1" 1 "$2" --init-adapter a
}
fresh_adapter
replace a/adapter_config.json 's/"r": 4/"r": 8/'
with_adapter adapter-of-another-rank 'a/adapter_model.safetensors: |lora_A.weight has shape [4, 64]|[8, 64]'
fresh_adapter
replace a/adapter_model.safetensors 's/layers.1.mlp.up_proj.lora_A/layers.1.mlp.xx_proj.lora_A/'
with_adapter adapter-without-a-tensor 'a/adapter_model.safetensors: |layers.1.mlp.up_proj.lora_A.weight is missing'
fresh_adapter
head -c 20000 "$golden/lora/adapter/adapter_model.safetensors" >a/adapter_model.safetensors
with_adapter adapter-cut-off 'a/adapter_model.safetensors: |incomplete'
fresh_adapter
at=$(($(wc -c <a/adapter_model.safetensors) - 4))
printf '\377\377\377\377' | dd of=a/adapter_model.safetensors bs=1 seek=$at conv=notrunc 2>/dev/null
with_adapter adapter-with-nan 'a/adapter_model.safetensors: |holds NaN'
rm a/adapter_model.safetensors
with_adapter adapter-without-weights "'a/adapter_model.safetensors'"
: >a/adapter_model.bin
with_adapter adapter-pickled 'a/adapter_model.bin is a pickle'
fresh_adapter
replace a/adapter_config.json 's/"use_dora": false/"use_dora": true/'
with_adapter adapter-with-dora 'a/adapter_config.json: use_dora'
fresh_adapter
replace a/adapter_config.json 's/"LORA"/"IA3"/'
with_adapter adapter-of-another-method 'a/adapter_config.json: peft_type is "IA3"'
with_model no-adapter 1 "'nosuch/adapter_config.json'" --init-adapter nosuch
with_model adapter-of-another-model 2 'target_modules|c_attn|c_fc' --model "$golden/gpt2-tiny" --init-adapter "$golden/lora/adapter"

# ---- checkpoints ----
with_model no-checkpoint 1 'out holds no checkpoint-<step> folder' --resume-from-checkpoint last
with_model no-checkpoint-folder 1 'nosuch: |lora_train_state.json|checkpoint-N' --resume-from-checkpoint nosuch
with_model unrelated-checkpoint 1 'm: |lora_train_state.json|checkpoint-N' --resume-from-checkpoint m

finish
