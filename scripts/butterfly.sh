#!/usr/bin/env bash
# Trains rotations of the full width. Additional flags of slm-train take precedence: scripts/butterfly.sh --seed 1
set -euo pipefail
exec uv run --project "$(dirname "${BASH_SOURCE[0]}")/.." slm-train --mode butterfly \
    --butterfly_preset quality --output_dir outputs/butterfly "$@"
