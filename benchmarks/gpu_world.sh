#!/usr/bin/env bash
# Trains the small world on one CUDA card: `bash benchmarks/gpu_world.sh speed|try|train`, in the repository.
#   speed  pictures a second by batch, and a profile of one step: what BATCH in MORE should be
#   try    smoke test, then recipes compared and both judges trained side by side
#   train  the base model until the deadline
# Options of the trainings stand in MORE, for example `--batch 128`; `--compile` takes minutes.
# Needs COMFYUI_PATH and a Python with ComfyUI's packages ($PYTHON). Results are written to $OUT as they
# come. Smaller numbers for a rehearsal: see the variables below.
set -uo pipefail
: "${COMFYUI_PATH:?the ComfyUI folder}" "${OUT:?a folder for the results}"
PYTHON=${PYTHON:-python3} DEVICE=${DEVICE:-cuda} WORK=${WORK:-/tmp/small_world} MORE=${MORE:-}
TEXT=${TEXT:?text.pt, see train text} # the text encoder, pretrained beforehand
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
THREADS=${THREADS:-8}
train() { "$PYTHON" -m small_world.train "$@" --device "$DEVICE" --threads "$THREADS"; }
mkdir -p "$WORK" "$OUT"

if [ "$1" = speed ]; then
    train speed --fresh --text "$TEXT" --out "$WORK/speed" --first 1024 --pictures 1024 --workers 2 2>&1 | tee "$OUT/speed.log"
elif [ "$1" = try ]; then
    : "${VALIDATION:?the arrays that compare looks at}"
    # Smoke test: everything imported, one short training of both sizes written and read, in seconds.
    timeout "${SMOKE_LIMIT:-75}" "$PYTHON" -m small_world.train base --device "$DEVICE" --threads "$THREADS" --fresh --text "$TEXT" \
        --out "$WORK/smoke" --steps "${SMOKE_STEPS:-12}" --batch "${SMOKE_BATCH:-64}" --first 256 --pictures 1024 --workers 4 \
        >"$WORK/smoke.log" 2>&1 || { echo "smoke test failed"; tail -n 30 "$WORK/smoke.log"; exit 1; }
    tail -n 2 "$WORK/smoke.log"
    train judge --out "$WORK/judges" --minutes "${JUDGE_MINUTES:-1.7}" --batch "${JUDGE_BATCH:-512}" \
        --workers "${JUDGE_WORKERS:-7}" --first "${JUDGE_FIRST:-16000}" >"$OUT/judge.log" 2>&1 &
    judges=$!
    # shellcheck disable=SC2086 # MORE and VARIANTS are lists
    timeout "${COMPARE_LIMIT:-150}" "$PYTHON" -m small_world.train compare --device "$DEVICE" --threads "$THREADS" --fresh --text "$TEXT" \
        --out "$WORK/compare" --steps "${COMPARE_STEPS:-700}" --half "${COMPARE_HALF:-0.5}" \
        --workers "${COMPARE_WORKERS:-7}" --validation "$VALIDATION" \
        --variants ${VARIANTS:-uniform lognormal min-snr} $MORE 2>&1 | tee "$OUT/compare.log" | grep -v "step/s"
    wait "$judges" || echo "the judges failed"
    tail -n 4 "$OUT/judge.log"
    cp "$WORK"/judges/judge/*.safetensors "$OUT/"
    cp "$WORK"/compare/*.png "$OUT/" 2>/dev/null
elif [ "$1" = train ]; then
    copy() { # what there is so far, whole files only
        for file in checkpoints/craft_small_world.safetensors look.png; do
            [ -f "$WORK/base/$file" ] && cp "$WORK/base/$file" "$OUT/.partial" && mv "$OUT/.partial" "$OUT/$(basename "$file")"
        done
    }
    # shellcheck disable=SC2086 # MORE is a list
    train base --fresh --text "$TEXT" --out "$WORK/base" --minutes "${MINUTES:-8}" \
        --save-seconds "${SAVE_SECONDS:-60}" $MORE >"$OUT/base.log" 2>&1 &
    training=$!
    while kill -0 "$training" 2>/dev/null; do
        sleep 5
        copy
    done
    wait "$training" || echo "the training failed"
    copy
    tr '\r' '\n' <"$OUT/base.log" | grep -a "^base" | tail -n 25
else
    echo "usage: gpu_world.sh speed|try|train" >&2
    exit 2
fi
