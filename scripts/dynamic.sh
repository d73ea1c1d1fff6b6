#!/usr/bin/env bash
# Trains by a budget of tokens, and goes on where it was stopped. Flags of slm-train dynamic follow and win.
set -euo pipefail
exec uv run --project "$(dirname "${BASH_SOURCE[0]}")/.." slm-train dynamic \
    --mode lora --eval_interval 50 --keep_best --resume_from_checkpoint --output_dir outputs/dynamic "$@"
