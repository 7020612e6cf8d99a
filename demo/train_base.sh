#!/bin/sh
# Trains the demo's base model from random weights with lora-train itself, and puts it into FOLDER.
#
#   PATH=BUILD:$PATH demo/train_base.sh [FOLDER]        FOLDER: demo/base beside this script
#
# For developers: the result is committed and the demo only reads it.  Needs python3 (nothing else of Python)
# for the tokenizer and the random weights.  The same version gives the same bytes again on a machine with the
# same instruction set, whatever its number of threads.  Text, tokenizer and weights are made here, from
# nothing but this folder.
# Takes 4 minutes on two free cores with AVX-512 (6 minutes of processor time).
set -eu
LC_ALL=C
export LC_ALL

demo=$(cd "$(dirname "$0")" && pwd -P)
folder=${1:-$demo/base}
tmp=$(mktemp -d "${TMPDIR:-/tmp}/lora-demo.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive} # as in run.sh
export OMP_WAIT_POLICY

awk -v rows=60000 -f "$demo/words.awk" -f "$demo/corpus.awk" >"$tmp/text.jsonl"
python3 "$demo/make_base.py" "$tmp/text.jsonl" "$tmp/start"
lora-train --model "$tmp/start" --full-finetune --data "$tmp/text.jsonl" --packing --max-length 256 \
    --per-device-train-batch-size 8 --num-train-epochs 2 --learning-rate 3e-3 --adam-beta2 0.98 \
    --weight-decay 0.01 --logging-steps 100 --save-strategy no --seed 1 --output-dir "$tmp/base"
mkdir -p "$folder"
for file in config.json generation_config.json tokenizer.json tokenizer_config.json model.safetensors; do
    cp "$tmp/base/$file" "$folder/$file"
done
ls -l "$folder"
