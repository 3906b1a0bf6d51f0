#!/usr/bin/env bash
# All that a card has to say about the pack, in 5 minutes of an H100 at most:
#     COMFYUI_PATH=... [PYTHON=python3] [OUT=folder] bash benchmarks/gpu.sh
# and as a rehearsal without a card, at small size:
#     COMFYUI_PATH=... bash benchmarks/gpu.sh --device cpu --small
# Needs ComfyUI and a Python with ComfyUI's packages; what that lacks is said in a line before anything runs.
# Every part writes a log of its own to $OUT, ends at a time limit of its own, and fails alone; what failed is
# said at the end. The limits sum to 5 minutes, and what matters most comes first, so that a run which is cut
# has it. --only PATTERN runs some parts; --more also those that would not fit into the 5 minutes.
set -uo pipefail
: "${COMFYUI_PATH:?the ComfyUI folder}"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PYTHON=${PYTHON:-python3} OUT=${OUT:-$(mktemp -d)} LIMITS=${LIMITS:-1}
export COMFYUI_PATH PYTHONUNBUFFERED=1
device=cuda dtype=bf16 small="" only="." more=""
while [ $# -gt 0 ]; do
    case $1 in
        --device) device=$2; shift 2 ;;
        --dtype) dtype=$2; shift 2 ;;
        --small) small=yes; shift ;;
        --only) only=$2; shift 2 ;;
        --more) more=yes; shift ;;
        *) echo "usage: gpu.sh [--device cuda|cpu] [--dtype bf16] [--small] [--only PATTERN] [--more]" >&2; exit 2 ;;
    esac
done
if [ "$device" = cpu ]; then dtype=fp32 LIMITS=$((20 * LIMITS)); fi
common=(--device "$device" --threads "${THREADS:-$([ "$device" = cpu ] && echo 1 || echo 8)}")

if [ "$device" = cuda ]; then ready=10; else ready=200; fi # seconds: torch is imported
timeout "$ready" "$PYTHON" "$here/parts/preflight.py" "$device"
status=$?
[ "$status" = 124 ] && echo "cannot run: torch was not imported within $ready s" >&2
[ "$status" = 0 ] || exit 1

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
    grep -aE '^(SDXL|one step|most time|selection|[a-zA-Z].*[0-9.]+ *$|dynamic|round|  )|did not run|differs|skipped|x merged' "$OUT/$name.log" | tail -n 30
    echo "   ($((SECONDS - begun)) s)"
    [ "$status" = 0 ] || { failed+=("$name"); echo "   failed with $status:"; tail -n 4 "$OUT/$name.log"; }
}

more() { # likewise, where --more asks for it
    if [ -n "$more" ]; then part "$@"; fi
}

if [ "$device" = cuda ]; then nvidia-smi -L | tee "$OUT/card.log"; fi
run=(--dtype "$dtype" --size "$size" --rounds "$rounds" --steps "$steps")
few=$(((rounds + 1) / 2))
fewer=(--ways "^ours" --rounds "$few") # beside the LoraLoader
ranks=(--ways "^ours|^host" --rounds "$few")
part smoke 15 engine.py --size small --dtype "$dtype" --rank 4 --latent 8 --rounds 1 --steps 1 --peaks
part engine_1024 45 engine.py "${run[@]}" --rank "$rank" --latent "$px1024" --peaks
part edits_dynamic 30 device.py edits "${run[@]}" --dynamic-vram --rank "$rank" --latent "$px1024"
part engine_dynamic 25 engine.py "${run[@]}" --dynamic-vram --ways "^ours|^no" --rank "$rank" --latent "$px1024" --peaks
part edits_compiled 25 device.py edits "${run[@]}" --compiled --dynamic-vram --rounds 1 --size "$compiled" --rank "$rank" --latent "$px512"
part compiled 35 engine.py --compiled "${run[@]}" --size "$compiled" --rank "$rank" --latent "$px512"
part memory 45 device.py memory "${run[@]}" --rank "$rank" --latent "$px512" --steps 2
part training 20 device.py training "${run[@]}" --rank "$rank" --latent "$px512" --rounds 2
part profile 12 engine.py --profile "${run[@]}" --rank "$rank" --latent "$px1024"
part engine_512_batch_4 14 engine.py "${run[@]}" "${fewer[@]}" --rank "$rank" --latent "$px512" --batch 4
part "engine_rank_$high" 12 engine.py "${run[@]}" "${ranks[@]}" --rank "$high" --latent "$px512"
part "engine_rank_$low" 12 engine.py "${run[@]}" "${ranks[@]}" --rank "$low" --latent "$px512"
more edits 40 device.py edits "${run[@]}" --rank "$rank" --latent "$px1024"
more engine_1024_batch_4 30 engine.py "${run[@]}" "${fewer[@]}" --rank "$rank" --latent "$px1024" --batch 4
more engine_512 20 engine.py "${run[@]}" --rank "$rank" --latent "$px512"
more "engine_1024_rank_$high" 25 engine.py "${run[@]}" "${ranks[@]}" --rank "$high" --latent "$px1024"
more "engine_1024_rank_$low" 25 engine.py "${run[@]}" "${ranks[@]}" --rank "$low" --latent "$px1024"
more fp8 20 engine.py "${run[@]}" "${fewer[@]}" --dtype fp8 --rank "$rank" --latent "$px512"
more selection 15 fusion.py --parts selection --ranks "$low" "$rank" --powers 0 1 --rounds "$rounds"
echo "logs: $OUT"
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}"
    exit 1
fi
