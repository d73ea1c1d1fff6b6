#!/usr/bin/env bash
# Trains every weight. Flags of slm-train follow and win: scripts/baseline.sh --dataset tinystories
set -euo pipefail
exec uv run --project "$(dirname "${BASH_SOURCE[0]}")/.." slm-train --mode baseline \
    --output_dir outputs/baseline "$@"
