#!/usr/bin/env bash
# What today's plumb says of all measured steps, those of ../2026-11-24-h200-validation and those in rows/, without a GPU: into
# predicted-again/.
# Usage: predict_again.sh PLUMB
set -euo pipefail
plumb=$(realpath -- "${1:?usage: predict_again.sh PLUMB}")
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
mkdir -p predicted-again

again() { # FOLDER SET RANKS SCHEDULES MICROBATCHES MODEL…
  local folder=$1 set=$2 ranks=$3 schedules=$4 microbatches=$5 run=first
  [[ $folder = . ]] && run=second
  shift 5
  "$plumb" validate --calibration "$folder/calibrations/$set.json" --measured "$folder/rows/$set.json" --ranks "$ranks" --schedules "$schedules" \
    --microbatches "$microbatches" "$@" --tolerance 1000% --json --out "predicted-again/$run-$set-$microbatches.json" >/dev/null
}

six=1f1b,interleaved-1f1b:2,zb-h1,zb-v,dualpipe,dualpipe-v
mlp="--model mlp --hidden 2048 --sequence 4096"
gpt="--model llama --hidden 1024 --heads 16 --vocab 8192 --sequence 2048"
first=../2026-11-24-h200-validation
again $first mlp-2 2 $six 4,8 $mlp --layers 4
again $first mlp-4 4 $six 8,16 $mlp --layers 8
again $first gpt-2 2 $six 4,8 $gpt --layers 4
again $first gpt-4 4 $six 8,16 $gpt --layers 8
again . gpt-2 2 $six 4,8 $gpt --layers 4
again . gpt-4 4 $six 8 $gpt --layers 8
again . gpt-4 4 1f1b,interleaved-1f1b:2,zb-h1 16 $gpt --layers 8
again . mlp-8 8 $six 16 $mlp --layers 16
again . mlp-8 8 1f1b 32 $mlp --layers 16
