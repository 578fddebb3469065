#!/usr/bin/env bash
# What is to be measured on a GPU, in under ten minutes: benchmarks/gpu.sh [WORK]
# WORK is a store that preprocess.py made; without one: ../shared/data/gsc12, else made clips.
# PYTHON names the Python to use. Without a GPU it is a smoke test on the processor, which measures nothing.
set -euo pipefail
work=${1:+$(realpath "$1")}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python}
store=(${work:+-w "$work"})

if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv || true
    for model in resnet18 res2next50 dla60_res2next; do
        for size in 64 128 224; do
            "$python" -m benchmarks.training "${store[@]}" -m "$model" -t "$size" --batch-size 128 \
                --ways limit pipeline --seconds 1.5
        done
    done
    "$python" -m benchmarks.training "${store[@]}" -m resnet18 -t 64 --rounds 3 --seconds 1.5
    "$python" -m benchmarks.time_to_accuracy "${store[@]}" --target 0.92 -- -m resnet18 -t 64 --epochs 13
else
    echo "no GPU: a smoke test of the scripts on the processor; the GPU's figures are unmeasured"
    tiny=("${store[@]}" -g cpu -m test_efficientnet -t 32)
    "$python" -m benchmarks.training "${tiny[@]}" --batch-size 16 --steps 2 --rounds 1
    "$python" -m benchmarks.time_to_accuracy "${store[@]}" -g cpu --seeds 0 --target 0 -- -m test_efficientnet -t 32 \
        --epochs 1 --limit 64
    echo "no GPU: the figures above are not measurements"
fi
