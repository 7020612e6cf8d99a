#!/bin/sh
# Fine-tunes a checkpoint with PEFT and prints speed, memory and losses as one JSON object.
#
#   run.sh --model DIR --mode lora|qlora [--dtype float32|bfloat16] [--seq 512] [--batch 1] [--steps 3]
#          [--rank 16] [--threads N] [--seed N] [--checkpointing] [--pretokenized FILE | --synthetic]
#   run.sh --install      only makes the Python environment; prints its interpreter
#
# The environment is made on first use, in $PEER_VENV [the folder venv beside the build: build-peer/venv].
set -eu
here=$(cd "$(dirname "$0")" && pwd -P)
venv=${PEER_VENV:-$here/../../build-peer/venv}

fail() { printf 'peer_peft: %s\n' "$*" >&2; exit 1; }

# pip's own configuration decides where packages come from.
install()
{
    if cmp -s "$here/requirements.txt" "$venv/peer-requirements.txt"; then
        return
    fi
    base=${PEER_PYTHON:-python3}
    command -v "$base" >/dev/null || fail 'needs Python 3.11 or later; PEER_PYTHON names another interpreter.'
    printf 'peer_peft: installing PyTorch, transformers, PEFT and bitsandbytes into %s\n' "$venv" >&2
    "$base" -m venv "$venv" >&2 || fail 'no environment could be made (Debian: apt-get install python3-venv).'
    # The CPU build where it is offered: it is a tenth of the other.
    "$venv/bin/python" -m pip install -q 'torch==2.13.0+cpu' >"$venv/pip.log" 2>&1 || true
    "$venv/bin/python" -m pip install -q -r "$here/requirements.txt" >&2 ||
        fail 'pip could not install the packages.'
    cp "$here/requirements.txt" "$venv/peer-requirements.txt"
}

install
python=$venv/bin/python
if [ "${1-}" = --install ]; then
    printf '%s\n' "$python"
    exit 0
fi

threads=$(getconf _NPROCESSORS_ONLN)
previous=
for word in "$@"; do
    [ "$previous" != --threads ] || threads=$word
    previous=$word
done
OMP_NUM_THREADS=$threads MKL_NUM_THREADS=$threads TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 \
    exec "$python" -B "$here/peer.py" "$@"
