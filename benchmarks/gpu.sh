#!/usr/bin/env bash
# All that a card has to say about the pack, in about 5 minutes of an H100:
#     COMFYUI_PATH=... [PYTHON=python3] [OUT=folder] bash benchmarks/gpu.sh
# and as a rehearsal without a card, at small size:
#     COMFYUI_PATH=... bash benchmarks/gpu.sh --device cpu --small
# Needs ComfyUI and a Python with ComfyUI's packages. Every part writes a log of its own to $OUT, ends at a
# time limit of its own, and fails alone; what failed is said at the end. The limits sum to 7 minutes, and
# what matters most comes first, so that a run which is cut has it. --only PATTERN runs some parts.
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
    size=small compiled=small rank=8 low=4 high=16 px1024=16 px512=8 rounds=1 steps=2
else
    size=sdxl compiled=short rank=64 low=16 high=128 px1024=128 px512=64 rounds=3 steps=4
fi
mkdir -p "$OUT"
failed=()

part() { # NAME SECONDS SCRIPT ARGUMENTS...
    local name=$1 limit=$(($2 * LIMITS)) script=$3
    shift 3
    [[ $name =~ $only ]] || return 0
    echo "== $name"
    local begun=$SECONDS
    timeout --kill-after=10 "$limit" "$PYTHON" "$here/$script" "$@" "${common[@]}" --seconds "$((limit * 8 / 10))" >"$OUT/$name.log" 2>&1
    local status=$?
    grep -aE '^(SDXL|one step|most time|selection|[a-zA-Z].*[0-9.]+ *$|dynamic|  )|did not run|differs|skipped|x merged' "$OUT/$name.log" | tail -n 30
    echo "   ($((SECONDS - begun)) s)"
    [ "$status" = 0 ] || { failed+=("$name"); echo "   failed with $status:"; tail -n 4 "$OUT/$name.log"; }
}

if [ "$device" = cuda ]; then nvidia-smi -L | tee "$OUT/card.log"; fi
run=(--dtype "$dtype" --size "$size" --rounds "$rounds" --steps "$steps")
fewer=(--ways "^ours" --rounds "$(((rounds + 1) / 2))") # beside the LoraLoader
part smoke 20 engine.py --size small --dtype "$dtype" --rank 4 --latent 8 --rounds 1 --steps 1 --peaks
part engine_1024 70 engine.py "${run[@]}" --rank "$rank" --latent "$px1024" --peaks
part profile 20 engine.py --profile "${run[@]}" --rank "$rank" --latent "$px1024"
part edits 40 device.py edits "${run[@]}" --rank "$rank" --latent "$px1024"
part training 40 device.py training "${run[@]}" --rank "$rank" --latent "$px512" --rounds 2
part memory 65 device.py memory "${run[@]}" --rank "$rank" --latent "$px512" --steps 2
part engine_1024_batch_4 30 engine.py "${run[@]}" "${fewer[@]}" --rank "$rank" --latent "$px1024" --batch 4
part selection 15 fusion.py --parts selection --ranks "$low" "$rank" --powers 0 1 --rounds "$rounds"
part engine_512 20 engine.py "${run[@]}" --rank "$rank" --latent "$px512"
part "engine_rank_$high" 20 engine.py "${run[@]}" "${fewer[@]}" --rank "$high" --latent "$px1024"
part "engine_rank_$low" 20 engine.py "${run[@]}" "${fewer[@]}" --rank "$low" --latent "$px1024"
part fp8 20 engine.py "${run[@]}" "${fewer[@]}" --dtype fp8 --rank "$rank" --latent "$px512"
part compiled 40 engine.py --compiled "${run[@]}" --ways cosine --size "$compiled" --rank "$rank" --latent "$px512"
echo "logs: $OUT"
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}"
    exit 1
fi
