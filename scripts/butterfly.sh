#!/usr/bin/env bash
# Trains rotations of the full width. Flags of slm-train follow and win: scripts/butterfly.sh --dataset tinystories
set -euo pipefail
exec uv run --project "$(dirname "${BASH_SOURCE[0]}")/.." slm-train --mode butterfly \
    --butterfly_preset quality --output_dir outputs/butterfly "$@"
