#!/usr/bin/env bash
# Trains all weights. Additional flags of slm-train take precedence: scripts/baseline.sh --dataset tinystories
set -euo pipefail
exec uv run --project "$(dirname "${BASH_SOURCE[0]}")/.." slm-train --mode baseline \
    --output_dir outputs/baseline "$@"
