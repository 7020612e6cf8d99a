#!/bin/sh
# The demo's instruction set: enough pairs, none of the held-out answers (or prompts) among the training ones,
# the text of the base model apart from both, and the same bytes whichever awk writes it.
set -u
LC_ALL=C
export LC_ALL

demo=${LT_SRCDIR:-.}/demo
tmp=$(mktemp -d "${TMPDIR:-/tmp}/lora-demo-data.XXXXXX") || exit 1
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM
failed=0
ok() { printf 'ok %s\n' "$*"; }
bad() { printf 'not ok %s\n' "$*"; failed=1; }

# generate FOLDER AWK...: everything the awk scripts generate.
generate()
{
    folder=$1
    shift
    mkdir -p "$folder" &&
        "$@" -v rows=1200 -v heldout=0 -f "$demo/words.awk" -f "$demo/pairs.awk" >"$folder/train.jsonl" &&
        "$@" -v rows=160 -v heldout=1 -f "$demo/words.awk" -f "$demo/pairs.awk" >"$folder/heldout.jsonl" &&
        "$@" -v rows=3000 -f "$demo/words.awk" -f "$demo/corpus.awk" >"$folder/text.jsonl"
}

# values KEY FILE, sorted
values() { sed -n "s/.*\"$1\": \"\\([^\"]*\\)\".*/\\1/p" "$2" | sort; }

generate "$tmp/awk" awk || { bad 'generate awk failed'; exit 1; }
cd "$tmp/awk" || exit 1

rows=$(values output train.jsonl | uniq | wc -l)
if [ "$rows" -gt 1000 ]; then
    ok 'more than 1,000 different answers to learn from'
else
    bad "pairs only $rows different answers"
fi
rows=$(values output heldout.jsonl | uniq | wc -l)
if [ "$rows" = 160 ]; then ok '160 different held-out answers'; else bad "heldout $rows different answers"; fi

for key in output input; do
    values $key train.jsonl | uniq >train
    values $key heldout.jsonl | uniq >heldout
    both=$(comm -12 train heldout | wc -l)
    if [ "$both" = 0 ]; then
        ok "no held-out $key among the training rows"
    else
        bad "disjoint $both held-out values of $key are trained: $(comm -12 train heldout | sed 1q)"
    fi
done

values output heldout.jsonl >answers
values output train.jsonl >>answers
values input heldout.jsonl >>answers
if grep -F -f answers text.jsonl >found; then
    bad "text of the base model has an answer or a held-out order: $(sed 1q found)"
else
    ok 'no answer and no held-out order in the text of the base model'
fi

others=0
for other in mawk gawk 'gawk --posix' 'busybox awk' original-awk goawk; do
    command -v "${other%% *}" >/dev/null 2>&1 || continue
    # shellcheck disable=SC2086 # a command and its arguments
    $other 'BEGIN { exit 0 }' >/dev/null 2>&1 </dev/null || continue
    others=$((others + 1))
    # shellcheck disable=SC2086
    if generate "$tmp/other" $other && cmp -s "$tmp/other/train.jsonl" train.jsonl &&
        cmp -s "$tmp/other/heldout.jsonl" heldout.jsonl && cmp -s "$tmp/other/text.jsonl" text.jsonl; then
        ok "same bytes from $other"
    else
        bad "bytes $other writes something else"
    fi
done
sums=$(cat train.jsonl heldout.jsonl text.jsonl | cksum)
if [ "$sums" = '3920737632 634703' ]; then
    ok 'the bytes that the base model was made with'
else
    bad "bytes cksum is $sums; demo/base was trained with 3920737632 634703"
fi
exit $failed
