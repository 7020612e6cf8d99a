#!/bin/sh
# lora-generate on a tiny model: prompts, chat, stopping, options, mistakes.
set -u
LC_ALL=C
export LC_ALL

golden=$LT_SRCDIR/tests/golden/data
tmp=$(mktemp -d "${TMPDIR:-/tmp}/lora-generate.XXXXXX") || exit 1
trap 'rm -rf "$tmp"' EXIT
bad=0
# check NAME COMMAND...
check()
{
    name=$1
    shift
    if "$@"; then
        echo "ok $name"
    else
        echo "not ok $name"
        bad=1
    fi
}

mkdir "$tmp/model" || exit 1
cp "$golden/llama-tiny/config.json" "$golden/llama-tiny/model.safetensors" \
    "$LT_SRCDIR/tests/e2e/data/tokenizer320/"* "$tmp/model" || exit 1

generate()
{
    lora-generate --model "$tmp/model" --threads 1 "$@" 2>"$tmp/err"
}

# same NAME FILE COMMAND...: the output is that of the file.
same()
{
    what=$1 file=$2
    shift 2
    generate "$@" >"$tmp/out"
    check "$what" cmp "$file" "$tmp/out"
}

greedy='--temperature 0 --max-new-tokens 40'
# shellcheck disable=SC2086 # several words
generate --prompt hello $greedy >"$tmp/greedy"
check 'answers a prompt' test -s "$tmp/greedy"
check 'closing line' grep -q '40 new tokens' "$tmp/err"
# shellcheck disable=SC2086
same 'greedy again' "$tmp/greedy" --prompt hello $greedy
# shellcheck disable=SC2086
same 'greedy with two threads' "$tmp/greedy" --prompt hello $greedy --threads 2
for place in resident mmap stream; do
    # shellcheck disable=SC2086
    same "greedy with weights: $place" "$tmp/greedy" --prompt hello $greedy --weights $place
done
quantized="--load-in-4bit --cache-dir $tmp/cache"
# shellcheck disable=SC2086
generate --prompt hello $greedy $quantized >"$tmp/greedy4"
# shellcheck disable=SC2086
same 'greedy with quantized weights streamed' "$tmp/greedy4" --prompt hello $greedy $quantized --weights stream
case $(sed -n 's/^ARCH = //p' "${LT_BUILD:-.}/config.mk") in
aarch64) kernels='ref neon' ;;
*) kernels='ref avx2 avx512' ;;
esac
for variant in $kernels; do
    if LT_CPU=$variant generate --prompt a --max-new-tokens 1 >"$tmp/out"; then
        # shellcheck disable=SC2086
        LT_CPU=$variant generate --prompt hello $greedy >"$tmp/out"
        check "greedy with LT_CPU=$variant" cmp "$tmp/greedy" "$tmp/out"
    else
        echo "skip greedy with LT_CPU=$variant $(head -n 1 "$tmp/err")"
    fi
done
# shellcheck disable=SC2086
generate --prompt hello $greedy --adapter "$golden/lora/adapter" >"$tmp/adapter"
check 'the adapter changes the answer' sh -c "test -s '$tmp/adapter' && ! cmp -s '$tmp/greedy' '$tmp/adapter'"
# shellcheck disable=SC2086
generate --prompt hello $greedy --raw >"$tmp/raw"
check 'raw adds no newline' sh -c "{ cat '$tmp/raw'; echo; } | cmp - '$tmp/greedy'"

generate --prompt hello --seed 3 >"$tmp/seed3"
same 'the same seed' "$tmp/seed3" --prompt hello --seed 3
generate --prompt hello --seed 4 >"$tmp/seed4"
check 'another seed' sh -c "! cmp -s '$tmp/seed3' '$tmp/seed4'"
same 'nothing to generate' /dev/null --prompt hello --max-new-tokens 0 --raw

# The text before a letter is what is left when that letter ends the answer.
letter=$(tr -cd A-Za-z <"$tmp/raw" | cut -c 1)
check 'a letter to stop at' test -n "$letter"
# shellcheck disable=SC2086
generate --prompt hello $greedy --raw --stop "$letter" >"$tmp/out"
check 'stop text' sh -c "awk -v RS='$letter' 'NR == 1 { printf \"%s\", \$0 }' '$tmp/raw' | cmp - '$tmp/out' &&
    ! cmp -s '$tmp/raw' '$tmp/out'"

printf '### Instruction:\nAdd\n\n### Input:\n1 2\n\n### Response:\n' >"$tmp/alpaca"
# shellcheck disable=SC2086
generate --prompt "$(cat "$tmp/alpaca")
" $greedy >"$tmp/plain"
# shellcheck disable=SC2086
same 'Alpaca prompt' "$tmp/plain" --instruction Add --input '1 2' $greedy
# shellcheck disable=SC2086
generate --prompt hello $greedy --no-bos >"$tmp/out"
check 'without the first special token' sh -c "! cmp -s '$tmp/greedy' '$tmp/out'"
# shellcheck disable=SC2086
generate --prompt '' $greedy >"$tmp/out"
check 'empty prompt' grep -q '^1 prompt tokens' "$tmp/err"

# ---- conversation ----
chat='--chat --chat-template llama-2 --temperature 0 --max-new-tokens 12'
# shellcheck disable=SC2086
generate $chat --prompt 'hi there' >"$tmp/turn1"
# shellcheck disable=SC2086
printf 'hi there\r\n\nhow are you?\nbye' | generate $chat >"$tmp/turns"
check 'the first turn' sh -c "head -c $(wc -c <"$tmp/turn1") '$tmp/turns' | cmp - '$tmp/turn1'"
check 'three turns' grep -q ', 36 new tokens' "$tmp/err"
# shellcheck disable=SC2086
generate $chat --prompt 'hi there' --system 'Be brief.' >"$tmp/out"
check 'system message' sh -c "! cmp -s '$tmp/turn1' '$tmp/out'"
# shellcheck disable=SC2086
printf '' | generate $chat >"$tmp/out"
check 'no turn at all' sh -c "test $? = 0 && test ! -s '$tmp/out'"

# ---- Ctrl-C ----
mkfifo "$tmp/pipe" || exit 1
# shellcheck disable=SC2086
lora-generate --model "$tmp/model" --threads 1 $chat <"$tmp/pipe" >"$tmp/out" 2>"$tmp/err" &
pid=$!
exec 3>"$tmp/pipe"
printf 'hi there\n' >&3
tries=0
while [ ! -s "$tmp/out" ] && [ $tries -lt 100 ]; do
    sleep 0.1
    tries=$((tries + 1))
done
kill -INT $pid
wait $pid
check 'interrupted' test $? = 130
exec 3>&-

# ---- mistakes: exit status 2, one line that says what to do ----
# refuse WORD ARGUMENT...
refuse()
{
    word=$1
    shift
    generate "$@" >"$tmp/out"
    check "refuses: $word" sh -c "test $? = 2 && test ! -s '$tmp/out' && test \$(wc -l <'$tmp/err') = 1 &&
        grep -q -e '$word' '$tmp/err'"
}
refuse 'nothing to answer' --temperature 0
refuse 'leave --prompt out' --prompt a --instruction b
refuse 'no --*instruction\|an --instruction' --prompt a --input b
refuse 'add --chat' --prompt a --system b
refuse 'top-p' --prompt a --top-p 2
refuse 'temperature' --prompt a --temperature -1
refuse 'not a whole number' --prompt a --seed x
refuse 'did you mean' --promt a
refuse 'more than the 256' --prompt "$(printf '%0300d' 0)"
refuse 'raise --context' --prompt 'a long text' --context 4
generate --prompt a --chat >"$tmp/out"
check 'no chat template' sh -c "test $? = 1 && grep -q 'chat template' '$tmp/err'"
generate --prompt a --model "$tmp/absent" >"$tmp/out"
check 'no model' sh -c "test $? = 1 && grep -q absent '$tmp/err'"
generate --prompt a --adapter "$tmp/absent" >"$tmp/out"
check 'no adapter' sh -c "test $? = 1 && grep -q absent '$tmp/err'"
if [ -c /dev/full ]; then
    generate --prompt a >/dev/full
    check 'a full disk' sh -c "test $? = 1 && grep -q 'cannot be written' '$tmp/err'"
fi
exit $bad
