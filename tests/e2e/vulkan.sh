#!/bin/sh
# The tests of kernels and goldens on a Vulkan device: once as it is, once under the validation layers, once with small
# limits and once, on Mesa's software device, with subgroups of 4.  Then the programs themselves.
# LT_TEST_VULKAN names the device ("vulkan:1"); by default the first one.
. "$LT_SRCDIR/tests/support/e2e.sh"

# The loader takes the driver out of memory at the end, and LeakSanitizer what only its globals pointed to for leaks: so
# the software device's driver is there from the start.
if sanitized; then
    driver=$(sed -n 's/.*"library_path": *"\([^"]*\)".*/\1/p' /usr/share/vulkan/icd.d/lvp_icd*.json 2>/dev/null)
    LD_PRELOAD=$(printf '%s' "$driver" | tr '\n' ' ')
    ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}verify_asan_link_order=0
    export LD_PRELOAD ASAN_OPTIONS
fi

device=${LT_TEST_VULKAN:-vulkan}
list=$(lora-train --list-devices)
case $list in
*"
vulkan:"*) ;;
*)
    skip vulkan "$(printf '%s\n' "$list" | sed -n 's/^vulkan  *none: //p')"
    finish
    ;;
esac
XDG_CACHE_HOME=$tmp/pipelines
LT_TEST_DEVICE=$device
export XDG_CACHE_HOME LT_TEST_DEVICE

# program NAME PATH [SETTING...]: a test program with these variables; its last lines when it fails.
program()
{
    name=$1
    path=$2
    shift 2
    if [ ! -x "$LT_BUILD/obj/$path" ]; then
        skip "$name" "$path is not built"
    elif env "$@" "$LT_BUILD/obj/$path" >"$tmp/out" 2>&1 && grep -q 'PASSED' "$tmp/out"; then
        ok "$name"
    else
        grep -aE 'ERROR|error' "$tmp/out" | head -n 5 | cut -c 1-600 >"$tmp/err"
        not_ok "$name" "$path failed"
    fi
}

# The software device takes about 25 minutes for all of it.
short='check/test_kernels check/test_kernels_optimizer check/test_device_step check/test_linear_int8
    golden/test_optim_golden golden/test_int8_golden'
all="$short check/test_gemm_f16 golden/test_model_golden check/test_kernels_attention check/test_kernels_data
    check/test_ops check/test_gemm golden/test_train_golden golden/test_generate_golden golden/test_engine_schedule"
layer=$(find /usr/share/vulkan /etc/vulkan /usr/local/share/vulkan -name VkLayer_khronos_validation.json 2>/dev/null)
why='the Khronos validation layer is not installed'
if sanitized; then
    layer= why='LeakSanitizer reports what the validation layer leaves behind'
fi
limits='LT_VK_MAX_RANGE=1048576 LT_VK_MAX_SHARED=16384'

if [ -z "${LT_TEST_FULL-}" ]; then
    for test in $short; do
        program "${test#*/}" tests/$test ${layer:+LT_VK_VALIDATION=1}
    done
    program test_model_golden tests/golden/test_model_golden
    skip 'all tests on the device' 'make test-full runs them'
else
    for test in $all; do
        program "${test#*/}" tests/$test
    done
    # What a step and the decoding of a text submit, watched by the layers.
    for test in $short check/test_gemm_f16 golden/test_model_golden check/test_kernels_attention \
        check/test_kernels_data check/test_ops golden/test_generate_golden; do
        [ -z "$layer" ] || program "validation ${test#*/}" tests/$test LT_VK_VALIDATION=1
    done
    for test in check/test_kernels_attention check/test_kernels_data check/test_ops check/test_linear_int8 \
        golden/test_generate_golden; do
        # shellcheck disable=SC2086 # two words
        program "small limits ${test#*/}" tests/$test $limits
    done
    program 'no f16 arithmetic' tests/check/test_gemm_f16 LT_VK_NO_FLOAT16=1
    program 'small limits test_gemm_f16' tests/check/test_gemm_f16 $limits
    program 'bindings of 64 KiB' tests/golden/test_model_golden LT_VK_MAX_RANGE=65536 LT_VK_MAX_SHARED=16384
    program 'one op a submission' tests/golden/test_generate_golden LT_VK_DEBUG=1
    case $list in
    *llvmpipe*)
        for test in check/test_kernels check/test_kernels_attention check/test_linear_int8 \
            golden/test_model_golden; do
            program "subgroups of 4 ${test#*/}" tests/$test LP_NATIVE_VECTOR_WIDTH=128
        done
        ;;
    *) skip 'subgroups of 4' 'it is not the software device' ;;
    esac
fi

# A loader that adds a queue for copies, a memory budget and cooperative matrices to the device (tests/shim).
shim=$LT_BUILD/obj/tests/shim
if [ -f "$shim/vulkan_shim.so" ] && [ -f "$shim/gemm_coopmat_emulated.spv" ]; then
    injected="LT_VK_LOADER=$shim/vulkan_shim.so LT_SHIM_COOPMAT=$shim/gemm_coopmat_emulated.spv LT_SHIM_LOG=1"
    # shellcheck disable=SC2086 # words without spaces
    env $injected LT_SHIM_BUDGET=123000000 lora-train --list-devices >"$tmp/out" 2>"$tmp/err"
    if grep -q '(117 MB free).* f16 arithmetic, cooperative matrices (LT_VK_COOPMAT=1 uses them)' "$tmp/out"; then
        ok 'what an injected device has'
    else
        not_ok 'what an injected device has' "$(grep vulkan: "$tmp/out")"
    fi
    # shellcheck disable=SC2086
    program 'injected device test_gemm_f16' tests/check/test_gemm_f16 $injected LT_VK_COOPMAT=1
    if [ ! -x "$LT_BUILD/obj/tests/check/test_gemm_f16" ]; then
        skip 'an injected device uses what it has' 'tests/check/test_gemm_f16 is not built'
    elif grep -q 'shim: [1-9][0-9]* transfers, [1-9][0-9]* shaders with cooperative matrices' "$tmp/out"; then
        ok 'an injected device uses what it has'
    else
        not_ok 'an injected device uses what it has' "$(grep shim: "$tmp/out")"
    fi
else
    skip 'injected device' 'tests/shim is not built: no glslc'
fi

[ -n "$layer" ] || skip validation "$why"

# ---- the programs ----

if printf '%s\n' "$list" | grep -q '^vulkan    runs 32 of 32 ops; weights f32 f16 bf16 nf4 fp4 int8$'; then
    ok 'all ops'
else
    not_ok 'all ops' "$list"
fi

# What it runs, as the backend says; all tests find out by running it, which takes long to compile on the software device.
for how in '' ${LT_TEST_FULL:+--run}; do
    # shellcheck disable=SC2086 # a word or none
    lora-bench support --device "$device" $how >"$tmp/out" 2>"$tmp/err"
    if diff "$LT_SRCDIR/tests/e2e/data/support-vulkan.txt" "$tmp/out" >>"$tmp/err"; then
        ok "support $how"
    else
        not_ok "support $how" 'another table than tests/e2e/data/support-vulkan.txt'
    fi
done

lora-train --device vulkan:99 --model "$golden/llama-tiny" --pretokenized "$batches" --output-dir "$tmp/none" \
    >"$tmp/out" 2>"$tmp/err"
case $? in
1) ok 'no such device' ;;
*) not_ok 'no such device' 'an exit status that is not 1' ;;
esac
: >"$tmp/err"

if LT_VK_NO_LOADER=1 lora-train --list-devices | grep -q '^vulkan  *none: '; then
    ok 'no loader'
else
    not_ok 'no loader' 'LT_VK_NO_LOADER=1 still lists devices'
fi

# LLM.int8(): the greedy text of the CPU, without and with outliers, and the loss.
mkdir "$tmp/model" && cp "$golden/llama-tiny/config.json" "$golden/llama-tiny/model.safetensors" \
    "$LT_SRCDIR/tests/e2e/data/tokenizer320/"* "$tmp/model"
for threshold in 6 0.5; do
    for on in cpu "$device"; do
        lora-generate --model "$tmp/model" --load-in-8bit --llm-int8-threshold $threshold --temperature 0 \
            --prompt hello --max-new-tokens 20 --device "$on" >"$tmp/answer-${on%:*}" 2>"$tmp/err"
    done
    if [ -s "$tmp/answer-cpu" ] && cmp -s "$tmp/answer-cpu" "$tmp/answer-vulkan"; then
        ok "answers of LLM.int8() with outliers from $threshold"
    else
        not_ok "answers of LLM.int8() with outliers from $threshold" 'other text than on the CPU'
    fi
done
printf '{"prompt": "count to %d", "completion": "%d"}\n' 1 7 2 14 3 21 >"$tmp/rows.jsonl"
for on in cpu "$device"; do
    lora-eval --model "$tmp/model" --load-in-8bit --data "$tmp/rows.jsonl" --bleu false --device "$on" \
        --json "$tmp/eval-${on%:*}.json" >"$tmp/out" 2>"$tmp/err"
done
if awk 'match($0, /"loss": *[0-9.]+/) { v = substr($0, RSTART, RLENGTH); sub(/.*: */, "", v); loss[FILENAME] = v }
    END { d = loss[ARGV[1]] - loss[ARGV[2]]; exit !(loss[ARGV[1]] > 0 && d < 1e-4 && d > -1e-4) }' \
    "$tmp/eval-cpu.json" "$tmp/eval-vulkan.json"; then
    ok 'loss of LLM.int8()'
else
    not_ok 'loss of LLM.int8()' 'another than on the CPU'
fi

# train NAME DEVICE [OPTION...]: 20 steps; the log goes to NAME.log.
train()
{
    name=$1
    on=$2
    shift 2
    lora-train --device "$on" --model "$golden/llama-tiny" --pretokenized "$batches" --output-dir "$tmp/$name" \
        --max-steps 20 --logging-steps 1 --learning-rate 1e-3 --lora-r 8 --save-strategy no "$@" \
        >"$tmp/$name.log" 2>"$tmp/err"
}

# close_losses A B LIMIT: the losses of two runs.
close_losses()
{
    awk -v limit="$3" '
    { if (match($0, /"loss": *[0-9.e+-]+/)) { v = substr($0, RSTART, RLENGTH); sub(/.*: */, "", v)
        if (FILENAME == ARGV[1]) a[++n] = v; else b[++m] = v } }
    END { if (n == 0 || n != m) exit 1
        for (i = 1; i <= n; i++) { d = a[i] - b[i]; if (d < 0) d = -d; if (d > limit) exit 1 } }' \
        "$1/train_log.jsonl" "$2/train_log.jsonl"
}

# What a measured step does on the device, and its memory, which is planned to the byte but for what a driver adds.
# With a part of the model on the device the host waits also for the gradient of a hidden state of each micro-batch, and
# for the gradients of the parameters: what the plan says.
# bench NAME OPTION...
bench()
{
    name=$1
    shift
    lora-bench train --shape tiny --seq 16 --batch 2 --steps 2 --device "$device" --json "$tmp/bench.json" "$@" \
        >"$tmp/out" 2>"$tmp/err"
    if awk '
        match($0, /"[a-z_]+": *[0-9.]+/) { split(substr($0, RSTART, RLENGTH), a, /"[: ]*/); v[a[2]] = a[3] + 0 }
        END { off = v["allocated_memory"] / (v["planned_memory"] + 1e-9) - 1
            n = v["accumulation"]; waits = v["copies"] ? 2 + n * v["copies"] / 2 : 1
            down = n * v["copy_bytes"] / 2 + v["step_bytes"] / 2
            exit !(v["waits"] == waits && v["submissions"] >= 1 && v["dispatches"] >= 50 && v["bytes_up"] > 0 &&
                v["bytes_down"] > down && v["bytes_down"] < down + 4096 && off > -0.03 && off < 0.03) }' \
        "$tmp/bench.json"; then
        ok "$name"
    else
        grep -A 12 '"device_use"' "$tmp/bench.json" >>"$tmp/err"
        not_ok "$name" 'waits more than once, or holds other memory than planned'
    fi
}
bench 'a step of lora' --quant f32
bench 'a step of qlora' --quant nf4 --double-quant --accumulation 2
bench 'a step with checkpointing' --quant nf4 --gradient-checkpointing true --optim adamw_8bit
bench 'a step with streamed weights' --quant nf4 --layers 4 --weights stream --weights-dir "$tmp"
bench 'a step of all weights' --full --quant f32
bench 'a step of some layers' --quant nf4 --layers 4 --gpu-layers 3 --accumulation 2 --weights stream \
    --weights-dir "$tmp"

# planned GB OPTION...: 7B and 70B with QLoRA, by plan.  Nothing is made.
planned()
{
    limit=$1
    shift
    lora-bench train --quant nf4 --double-quant --seq 512 --batch 1 --gradient-checkpointing true \
        --device "$device" --plan --json "$tmp/plan.json" "$@" >"$tmp/out" 2>"$tmp/err"
    bytes=$(sed -n 's/.*"planned_device": *\([0-9]*\).*/\1/p' "$tmp/plan.json")
    if awk -v bytes="${bytes:-0}" -v limit="$limit" 'BEGIN { exit !(bytes > 0 && bytes <= limit * 1e9) }'; then
        ok "$* in $limit GB"
    else
        not_ok "$* in $limit GB" "${bytes:-0} bytes are planned"
    fi
}
planned 5.5 --shape llama-2-7b
planned 3.5 --shape llama-2-7b --weights stream
planned 12 --shape llama-2-70b --weights stream

# as_on_the_cpu NAME CPU-RUN OPTION...: the losses of a run on the device.
as_on_the_cpu()
{
    name=$1
    other=$2
    shift 2
    if ! train "$name" "$device" "$@"; then
        not_ok "$name as on the CPU" 'a run failed'
    elif close_losses "$tmp/$other" "$tmp/$name" 1e-4; then
        ok "$name as on the CPU"
    else
        not_ok "$name as on the CPU" 'the losses differ'
    fi
}
qlora='--load-in-4bit --bnb-4bit-use-double-quant --optim adamw_8bit'
train lora-cpu cpu --lora-dropout 0.1
as_on_the_cpu lora lora-cpu --lora-dropout 0.1
# shellcheck disable=SC2086 # words
train qlora-cpu cpu $qlora
# shellcheck disable=SC2086
as_on_the_cpu qlora qlora-cpu $qlora

# ---- a part of the model on the device ----

part="$qlora --max-steps 6 --save-strategy steps --save-steps 3"
# shellcheck disable=SC2086
train part-cpu cpu $part
# shellcheck disable=SC2086
as_on_the_cpu part part-cpu $part --gpu-layers 2
if grep -q '^Placement  2 of 3 layers and the head on vulkan' "$tmp/part.log" &&
    grep -q '^  copies between processor and device  *2 a micro-batch, ' "$tmp/part.log"; then
    ok 'the summary says what is where'
else
    not_ok 'the summary says what is where' "$(grep -E 'Placement|copies' "$tmp/part.log")"
fi

# A run that goes on from its checkpoint is the run that never stopped: the device gets the parameters that are read.
resume()
{
    mkdir "$tmp/resumed"
    cp -R "$tmp/part/checkpoint-3" "$tmp/part/train_log.jsonl" "$tmp/resumed"
    # shellcheck disable=SC2086
    if train resumed "$device" $part --gpu-layers 2 --resume-from-checkpoint last &&
        cmp -s "$tmp/resumed/adapter_model.safetensors" "$tmp/part/adapter_model.safetensors"; then
        ok 'a part resumes'
    else
        not_ok 'a part resumes' 'another adapter, or no run'
    fi
}

# answer OPTION...: a greedy text with the adapter.
answer()
{
    lora-generate --model "$tmp/model" --adapter "$tmp/part" --prompt 'good day' --temperature 0 \
        --max-new-tokens 30 --raw "$@" 2>"$tmp/err"
}
# losses OPTION...: on standard output
losses()
{
    lora-eval --model "$golden/llama-tiny" --adapter "$tmp/part" --no-base --pretokenized "$batches" "$@" \
        2>"$tmp/err" | sed -n '/^loss/p'
}
answer --device cpu >"$tmp/answer-cpu"
answer --device "$device" --gpu-layers 1 >"$tmp/answer-part"
if [ -s "$tmp/answer-cpu" ] && cmp -s "$tmp/answer-cpu" "$tmp/answer-part" &&
    grep -q '1 of 3 layers and the head on vulkan' "$tmp/err"; then
    ok 'a part answers as the CPU'
else
    not_ok 'a part answers as the CPU' "$(cat "$tmp/answer-part")"
fi
evaluate()
{
    if [ "$(losses --device cpu)" = "$(losses --device "$device" --gpu-layers 2)" ]; then
        ok 'a part measures as the CPU'
    else
        not_ok 'a part measures as the CPU' 'another loss'
    fi
}
if [ -n "${LT_TEST_FULL-}" ]; then
    resume
    evaluate
fi

# chosen NAME LAYERS BUDGET: what --gpu-layers auto makes of a device with so much memory.
chosen()
{
    # shellcheck disable=SC2086 # words without spaces
    env $injected LT_SHIM_BUDGET="$3" lora-bench train --quant nf4 --double-quant --seq 512 --batch 1 \
        --gradient-checkpointing true --shape llama-2-7b --device "$device" --gpu-layers auto --plan \
        --json "$tmp/plan.json" >"$tmp/out" 2>"$tmp/err"
    if grep -q "^Placement  $2" "$tmp/out" && awk -v most="$3" '
        match($0, /"planned_device": *[0-9]+/) { split(substr($0, RSTART, RLENGTH), a, /: */); bytes = a[2] + 0 }
        END { exit !(bytes <= most) }' "$tmp/plan.json"; then
        ok "auto: $1"
    else
        not_ok "auto: $1" "$(grep Placement "$tmp/out")"
    fi
}
if [ -n "${injected-}" ]; then
    chosen 'all layers' 'all 32 layers on vulkan' 8000000000
    chosen 'some layers' '20 of 32 layers and the head on vulkan' 3000000000
    chosen 'no layer' 'all 32 layers on the processor' 100000000
fi

# refused WORDS STATUS OPTION...: a sentence with these words.
refused()
{
    words=$1
    status=$2
    shift 2
    lora-train --model "$golden/llama-tiny" --pretokenized "$batches" --output-dir "$tmp/none" --plan "$@" \
        >"$tmp/out" 2>"$tmp/err"
    if [ $? -eq "$status" ] && grep -q "$words" "$tmp/err"; then
        ok "refused: $words"
    else
        not_ok "refused: $words" 'another status or sentence'
    fi
}
refused 'name it by --device vulkan' 2 --gpu-layers 2
refused 'give a number of layers, or auto' 2 --device "$device" --gpu-layers some
refused 'float16 needs all layers on the device' 1 --device "$device" --gpu-layers 2 --fp16
refused 'boundaries cannot be kept in a file' 1 --device "$device" --gpu-layers 2 --boundaries file
finish
