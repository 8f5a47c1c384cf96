#!/usr/bin/env bash
# Is metalab right on this GPU? All tests that need one, and every failure, not the first: scripts/gpu/right.sh
# --smoke: without a GPU, where all of them are skipped. What is printed is kept in $OUT/right.txt, by default outputs/gpu.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${OUT:-outputs/gpu}
mkdir -p "$out"
if [ "${1:-}" != --smoke ] && ! python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "torch sees no GPU here: scripts/gpu/right.sh --smoke shows what would run" >&2
    exit 1
fi
mapfile -t files < <(grep -rlE 'mark\.gpu' tests --include='*.py' | sort) # by name: others import what may be missing
python -m pytest -m gpu -n 0 -q --tb=short -rfs "${files[@]}" 2>&1 | tee "$out/right.txt"
