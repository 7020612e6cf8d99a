#!/bin/sh
# A disk that is full or read-only: the run fails with one sentence, what was finished before stays loadable,
# and nothing half-written is left.  Needs a mount namespace of its own.
if [ "${LT_IN_NAMESPACE-}" != 1 ]; then
    for way in 'unshare -m' 'unshare -rm'; do
        # shellcheck disable=SC2086 # words
        if $way sh -c 'mount -t tmpfs -o size=64k none /mnt' >/dev/null 2>&1; then
            exec $way env LT_IN_NAMESPACE=1 sh "$0"
        fi
    done
    printf 'skip full-disk no right to mount a small file system\n'
    printf 'skip read-only-disk no right to mount one\n'
    exit 0
fi
. "$LT_SRCDIR/tests/support/e2e.sh"
trap 'umount "$tmp/disk" 2>/dev/null; clean_up' EXIT

train()
{
    lora-train --model "$golden/llama-tiny" --pretokenized "$batches" --max-steps 4 --save-steps 1 \
        --logging-steps 1 --learning-rate 0.01 "$@" >"$tmp/stdout" 2>"$tmp/err" </dev/null
}

# Every file whose name is final can be read back: adapters and checkpoints are resumed from.
loadable()
{
    for dir in "$tmp/disk/out"/checkpoint-*; do
        [ -d "$dir" ] || continue
        train --output-dir "$tmp/elsewhere" --resume-from-checkpoint "$dir" --dump-step "$tmp/step" || return 1
    done
    [ ! -e "$tmp/disk/out/adapter_model.safetensors" ] ||
        train --output-dir "$tmp/elsewhere" --init-adapter "$tmp/disk/out" --plan
}

mkdir "$tmp/disk"
whole=0
for kib in 16 300 700 1000 1400 2200 2800 3200; do
    mount -t tmpfs -o size=${kib}k none "$tmp/disk" || exit 1
    train --output-dir "$tmp/disk/out"
    status=$?
    cp "$tmp/err" "$tmp/said"
    left=$(leftovers "$tmp/disk")
    if [ $status = 0 ] && [ ! -s "$tmp/err" ] && loadable; then
        whole=1
        ok "disk-of-$kib-KiB"
    elif [ $status != 1 ]; then
        not_ok "disk-of-$kib-KiB" "exit status $status"
    elif [ "$(wc -l <"$tmp/said")" != 1 ] || ! grep -q "'$tmp/disk/.*No space left" "$tmp/said"; then
        not_ok "disk-of-$kib-KiB" "stderr is not one line that names a file and: No space left on device"
    elif [ -n "$left" ]; then
        not_ok "disk-of-$kib-KiB" "left behind:" $left
    elif ! loadable; then
        not_ok "disk-of-$kib-KiB" "what is there cannot be loaded"
    else
        ok "disk-of-$kib-KiB"
    fi
    umount "$tmp/disk"
done
[ $whole = 0 ] || printf 'the largest disk took the whole run\n'

for kib in 16 200 300; do
    mount -t tmpfs -o size=${kib}k none "$tmp/disk" || exit 1
    lora-convert --model "$golden/llama-tiny" --quantize nf4 --output-dir "$tmp/disk/out" >"$tmp/out" 2>"$tmp/err"
    status=$?
    if [ $status != 1 ] || [ "$(wc -l <"$tmp/err")" != 1 ] || ! grep -q 'No space left' "$tmp/err"; then
        not_ok "convert-on-$kib-KiB" "exit status $status, or not one line"
    elif [ -n "$(ls -A "$tmp/disk")" ]; then
        not_ok "convert-on-$kib-KiB" "left behind: $(ls -A "$tmp/disk")"
    else
        ok "convert-on-$kib-KiB"
    fi
    umount "$tmp/disk"
done

mount -t tmpfs -o size=1m none "$tmp/disk" && mkdir "$tmp/disk/out" && mount -o remount,ro "$tmp/disk" || exit 1
if train --output-dir "$tmp/disk/out" || [ "$(wc -l <"$tmp/err")" != 1 ]; then
    not_ok read-only-disk 'not refused with one line'
elif ! grep -q "$tmp/disk/out.*Read-only file system" "$tmp/err" || [ -s "$tmp/stdout" ]; then
    not_ok read-only-disk 'no clear sentence before the run'
else
    ok read-only-disk
fi
finish
