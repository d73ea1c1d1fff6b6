#!/usr/bin/env bash
# Trains rotations of blocks of 256. Additional flags of slm-train take precedence:
# scripts/butterfly_block.sh --butterfly_block_size 128
set -euo pipefail
exec uv run --project "$(dirname "${BASH_SOURCE[0]}")/.." slm-train --mode butterfly_block \
    --butterfly_block_size 256 --output_dir outputs/butterfly_block "$@"
