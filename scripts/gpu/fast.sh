#!/usr/bin/env bash
# How fast is a meta-step on this GPU, beside the loop that one would write with learn2learn? scripts/gpu/fast.sh
# The case that nobody has measured yet first, then engine=auto's table (a copy of metalab/engines/measured.csv), attacks,
# evaluations and the sampler. --smoke: all of it once and tiny, on the processor. Results lie in $OUT, by default outputs/gpu.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${OUT:-outputs/gpu}
mkdir -p "$out"
cp metalab/engines/measured.csv "$out/measured.csv"
if [ "${1:-}" = --smoke ]; then
    how=(--smoke --device cpu)
    large=("${how[@]}") few=("${how[@]}") sampler=("${how[@]}") attack=("${how[@]}")
else
    large=(--case "miniimagenet 5w1s x 32 x 5" --algo maml --repeats 3 --warm 1)
    few=(--repeats 5 --warm 3)
    sampler=(--device cuda) attack=(--device cuda --repeats 3)
fi
python scripts/bench.py "${large[@]}" --out "$out/large"
python scripts/bench.py "${few[@]}" --table "$out/measured.csv" --out "$out/table"
python scripts/bench_attack.py "${attack[@]}" | tee "$out/attack.txt"
python scripts/bench.py "${few[@]}" --evaluate --out "$out/evaluate"
python scripts/bench_sampler.py "${sampler[@]}" --json "$out/sampler.json"
