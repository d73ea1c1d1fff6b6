#!/usr/bin/env bash
# Trains LoRA with a token budget per step, and resumes an interrupted run. Additional flags of slm-train dynamic take
# precedence: scripts/dynamic.sh --dataset tinystories
set -euo pipefail
exec uv run --project "$(dirname "${BASH_SOURCE[0]}")/.." slm-train dynamic \
    --mode lora --eval_interval 50 --keep_best --resume_from_checkpoint --output_dir outputs/dynamic "$@"
