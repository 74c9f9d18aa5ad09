#!/usr/bin/env bash
# Today's predictions of the steps in measured/, beside what was measured: predict_again.sh PLUMB, from this folder. Touches no GPU.
set -euo pipefail
mkdir -p predicted-again
again() {  # NAME MICROBATCHES SCHEDULES FLAG...
  local name=$1 microbatches=$2 schedules=$3
  shift 3
  "$plumb" validate --transport nccl --tolerance 1000% --json --calibration "$name.calibration.json" --measured "measured/$name.json" \
    --out "predicted-again/$name.json" --resume --microbatches "$microbatches" --schedules "$schedules" "$@" >/dev/null
}
plumb=$1
rm -f predicted-again/*.json
mlp=(--model mlp --hidden 2048 --sequence 4096) gpt=(--model llama --hidden 1024 --heads 16 --vocab 8192 --sequence 2048)
all=1f1b,dualpipe,zb-h1,interleaved-1f1b:2,zb-v,dualpipe-v some=1f1b,dualpipe,zb-h1,interleaved-1f1b:2
again mlp-8-processes 16 $all "${mlp[@]}" --layers 16 --ranks 8
again gpt-8-processes 16 1f1b "${gpt[@]}" --layers 16 --ranks 8
again mlp-2-gpus 4 $all "${mlp[@]}" --layers 4 --ranks 2
again mlp-2-gpus 8 $some "${mlp[@]}" --layers 4 --ranks 2
again gpt-2-gpus 4 $all "${gpt[@]}" --layers 4 --ranks 2
again gpt-2-gpus 8 $some "${gpt[@]}" --layers 4 --ranks 2
