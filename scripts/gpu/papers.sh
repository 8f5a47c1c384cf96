#!/usr/bin/env bash
# The papers' numbers in MINUTES (14) minutes of this GPU, JOBS (8) trainings side by side: scripts/gpu/papers.sh TABLE...
# Further words go to scripts/reproduce.py, which goes on where it stopped: --root DATA, --only ROW, --smoke.
set -euo pipefail
cd "$(dirname "$0")/../.."
python scripts/reproduce.py --minutes "${MINUTES:-14}" --jobs "${JOBS:-8}" "$@"
