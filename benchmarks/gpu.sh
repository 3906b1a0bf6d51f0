#!/usr/bin/env bash
# All that a card has to say about the pack, in 5 minutes of an H100:
#     COMFYUI_PATH=... [PYTHON=python3] [OUT=folder] bash benchmarks/gpu.sh
# and as a rehearsal without a card, at small size, in about 10 minutes of one core:
#     COMFYUI_PATH=... bash benchmarks/gpu.sh --device cpu --small
# Needs ComfyUI and a Python with ComfyUI's packages. Every part writes a log of its own to $OUT, ends at a
# time limit of its own, and fails alone; what failed is said at the end. --only PATTERN runs some parts.
set -uo pipefail
: "${COMFYUI_PATH:?the ComfyUI folder}"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PYTHON=${PYTHON:-python3} OUT=${OUT:-$(mktemp -d)} LIMITS=${LIMITS:-1}
export COMFYUI_PATH PYTHONUNBUFFERED=1
device=cuda dtype=bf16 small="" only="."
while [ $# -gt 0 ]; do
    case $1 in
        --device) device=$2; shift 2 ;;
        --dtype) dtype=$2; shift 2 ;;
        --small) small=yes; shift ;;
        --only) only=$2; shift 2 ;;
        *) echo "usage: gpu.sh [--device cuda|cpu] [--dtype bf16] [--small] [--only PATTERN]" >&2; exit 2 ;;
    esac
done
if [ "$device" = cpu ]; then dtype=fp32 LIMITS=$((20 * LIMITS)); fi
common=(--device "$device" --threads "${THREADS:-$([ "$device" = cpu ] && echo 1 || echo 8)}")
if [ -n "$small" ]; then
    size=small rank=8 ranks=(4 16) batches=(2) px1024=16 px512=8 rounds=1 steps=2
else
    size=sdxl rank=64 ranks=(16 128) batches=(4) px1024=128 px512=64 rounds=3 steps=4
fi
mkdir -p "$OUT"
failed=()

part() { # NAME SECONDS SCRIPT ARGUMENTS...
    local name=$1 limit=$(($2 * LIMITS)) script=$3
    shift 3
    [[ $name =~ $only ]] || return 0
    echo "== $name"
    local begun=$SECONDS
    timeout --kill-after=10 "$limit" "$PYTHON" "$here/$script" "$@" "${common[@]}" >"$OUT/$name.log" 2>&1
    local status=$?
    grep -aE '^(SDXL|[a-zA-Z].*[0-9.]+ *$|dynamic|  )|did not run|x merged' "$OUT/$name.log" | tail -n 25
    echo "   ($((SECONDS - begun)) s)"
    [ "$status" = 0 ] || { failed+=("$name"); echo "   failed with $status:"; tail -n 4 "$OUT/$name.log"; }
}

if [ "$device" = cuda ]; then nvidia-smi -L | tee "$OUT/card.log"; fi
run=(--dtype "$dtype" --size "$size" --rounds "$rounds" --steps "$steps")
part smoke 40 engine.py --size small --dtype "$dtype" --rank 4 --latent 8 --rounds 1 --steps 1
part engine_1024 60 engine.py "${run[@]}" --rank "$rank" --latent "$px1024"
part edits 45 device.py edits "${run[@]}" --rank "$rank" --latent "$px1024"
part engine_512 40 engine.py "${run[@]}" --rank "$rank" --latent "$px512"
for other in "${ranks[@]}"; do
    part "engine_rank_$other" 40 engine.py "${run[@]}" --rank "$other" --latent "$px1024"
done
for batch in "${batches[@]}"; do
    part "engine_batch_$batch" 60 engine.py "${run[@]}" --rank "$rank" --latent "$px512" --batch "$batch"
done
part fp8 40 engine.py "${run[@]}" --dtype fp8 --rank "$rank" --latent "$px512"
part training 60 device.py training "${run[@]}" --latent "$px512"
part memory 60 device.py memory "${run[@]}" --rank "$rank" --latent "$px512"
part compiled 150 engine.py --compiled "${run[@]}" --rank "$rank" --latent "$px512"
echo "logs: $OUT"
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}"
    exit 1
fi
