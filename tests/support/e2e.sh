# What the scripts of tests/e2e share.  Sourced; sets
#   golden  tests/golden/data        tmp  a folder of the script's own, removed at the end
# and prints "ok NAME", "not ok NAME why", "skip NAME why" through ok, not_ok and skip.
set -u
LC_ALL=C
export LC_ALL
unset LT_CPU LT_GEMM || :

golden=$LT_SRCDIR/tests/golden/data
batches=$golden/lora/batches.safetensors
tmp=$(mktemp -d "${TMPDIR:-/tmp}/lora-e2e.XXXXXX") || exit 1
HF_HOME=$tmp/hf
LORA_TRAIN_CACHE=$tmp/cache
export HF_HOME LORA_TRAIN_CACHE
unset HF_HUB_CACHE || :
started=
failed=0

clean_up()
{
    for pid in $started; do
        kill -9 "$pid" 2>/dev/null
    done
    rm -rf "$tmp"
}
trap clean_up EXIT
trap 'exit 1' HUP INT TERM

# Is this a build with a sanitizer, which has memory of its own?
sanitized()
{
    grep -qi sanitize "${LT_BUILD:-.}/config.mk"
}

ok()
{
    printf 'ok %s\n' "$1"
}

# not_ok NAME WHY...: with what the program said, when $tmp/err holds anything.
not_ok()
{
    name=$1
    shift
    printf 'not ok %s %s\n' "$name" "$*"
    [ ! -s "$tmp/err" ] || sed 's/^/    stderr: /' "$tmp/err"
    failed=1
}

skip()
{
    printf 'skip %s %s\n' "$1" "$2"
}

finish()
{
    exit $failed
}

# Part of a second, where sleep can.
nap()
{
    sleep "$1" 2>/dev/null || sleep 1
}

# make_model DIR: a tiny LLaMA with a byte-level tokenizer; every file may be replaced.
make_model()
{
    rm -rf "$1"
    mkdir -p "$1"
    cp "$golden/llama-tiny/config.json" "$golden/llama-tiny/model.safetensors" \
        "$golden/tokenizers/bytelevel/tokenizer.json" "$1"
}

# replace FILE SCRIPT: sed -i, which POSIX has not.
replace()
{
    sed "$2" "$1" >"$1.new" && mv "$1.new" "$1"
}

# make_pretokenized FILE ROWS COLUMNS LABEL: ids 0; LABEL is `ignored` or `zero`.
make_pretokenized()
{
    bytes=$((4 * $2 * $3))
    header=$(printf '{"input_ids":{"dtype":"I32","shape":[%d,%d],"data_offsets":[0,%d]},"labels":{"dtype":"I32","shape":[%d,%d],"data_offsets":[%d,%d]}}' \
        "$2" "$3" "$bytes" "$2" "$3" "$bytes" $((2 * bytes)))
    while [ $((${#header} % 8)) != 0 ]; do
        header="$header "
    done
    {
        # shellcheck disable=SC2059 # the length, in bytes
        printf "\\$(printf %o $((${#header} % 256)))\\$(printf %o $((${#header} / 256)))\\0\\0\\0\\0\\0\\0"
        printf %s "$header"
        head -c "$bytes" /dev/zero
        if [ "$4" = zero ]; then
            head -c "$bytes" /dev/zero
        else
            # shellcheck disable=SC2059 # -100
            printf "$(awk -v n=$((bytes / 4)) 'BEGIN { while (n-- > 0) printf "\\234\\377\\377\\377" }')"
        fi
    } >"$1"
}

# make_rows FILE N: instruction rows of several lengths.
make_rows()
{
    awk -v n="$2" 'BEGIN {
        for (i = 1; i <= n; i++) {
            words = ""
            for (k = 0; k <= i % 5; k++) words = words " word" k
            printf "{\"instruction\":\"count to %d\",\"output\":\"%d%s\"}\n", i, i * 7, words
        }
    }' >"$1"
}

# losses LOG: step and loss of every line, evaluations too.
losses()
{
    sed 's/, "tokens_per_second".*//; s/, "peak_memory_bytes".*//' "$1"
}

# leftovers DIR: names of unfinished files and folders in it.
leftovers()
{
    find "$1" -name '*.tmp-*' -o -name '*.old-*' -o -name 'unfinished-*' 2>/dev/null
}

# complete_checkpoint DIR: whether all its files are there.
complete_checkpoint()
{
    for file in adapter_config.json adapter_model.safetensors optimizer.safetensors trainer_state.json \
        lora_train_state.json; do
        [ -s "$1/$file" ] || return 1
    done
}
